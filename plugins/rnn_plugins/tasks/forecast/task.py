"""Forecast series of numbers: the network predicts the next values, and reads its predictions to look further ahead."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import affine, concatenate, mean, scan, square, trees
from minigrad.initializers import glorot_uniform, zeros
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_cells.stacked import drop_steps
from rnn_plugins.data import series
from rnn_plugins.data.series import BUILTIN, Series, Windows
from rnn_plugins.data.tables import frames, rows_of_numbers
from rnn_plugins.errors import UserError
from rnn_plugins.tasks import metrics
from rnn_plugins.tasks.blocks import chunks, no_embedding, padded, with_places
from rnn_plugins.tasks.forecast import figures
from rnn_plugins.tasks.task import (
    AT_ONCE,
    Assessment,
    Batch,
    Data,
    Metric,
    Model,
    Network,
    Prediction,
    Purpose,
    Score,
    Task,
    Work,
    check_ranges,
)
from rnn_plugins.words import amount, listing

if TYPE_CHECKING:
    from rnn_plugins.reports.probe import Probe

Array: TypeAlias = NDArray[Any]

NETWORK = "network"
"""What the network is called beside baselines in figures."""

PREDICTED, PROBED, SHOWN = 64, 200, 6
"""Series that are predicted at a time, windows that reports measure, and steps and columns of an excerpt."""


@dataclass(frozen=True)
class NextValues(Model):
    """The cell reads a series; a linear head gives the change to the next values.

    Attributes:
        cell: the recurrent part.
        columns: the number F of values at a step.
        targets: those that are scored.
        scale: of MASE for these, in standard deviations.
        ahead: the weight in the loss of the values further ahead.
        network: the user's settings.
    """

    cell: Cell
    columns: int
    targets: tuple[int, ...]
    scale: tuple[float, ...]
    ahead: float
    network: Network

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``cell`` and ``head`` (W (H, F), b (F,))."""
        shape = (self.cell.output_size, self.columns)
        head = {"W": glorot_uniform(rng, shape), "b": zeros(rng, shape[1:])}
        return trees.cast({"cell": self.cell.init_params(rng), "head": head}, self.network.dtype)

    def loss(self, params: Tree, carry: Tree, batch: Batch, rng: np.random.Generator | None) -> tuple[Any, Tree]:
        """The mean squared error, in squares of standard deviations, of the next values and of those further ahead."""
        window, targets = batch.inputs.astype(self.network.dtype), batch.targets.astype(self.network.dtype)
        nexts, further = self._forecast(params, window, None, len(targets), rng)
        loss = mean(square(nexts[:-1] - window[1:])) * (1 - self.ahead)
        return loss + mean(square(further - targets)) * self.ahead, carry

    def forecast(self, params: Tree, window: Array, lengths: Array, horizon: int) -> tuple[Array, Array]:
        """What follows each step of series (T, B, F), (T, B, F), and what follows their ends, (horizon, B, F)."""
        nexts, further = self._forecast(params, window.astype(self.network.dtype), lengths, horizon, None)
        return np.asarray(nexts), np.asarray(further)

    def _forecast(
        self, params: Tree, xs: Any, lengths: Array | None, horizon: int, rng: np.random.Generator | None
    ) -> tuple[Any, Any]:
        network, size = self.network, xs.shape[1]
        carry, ys = self.cell.unroll(params["cell"], self._first(size), xs, lengths=lengths, rng=rng)
        if rng is not None and network.dropout:
            ys = drop_steps(ys, network.dropout, network.variational_dropout, rng)
        nexts = xs + affine(params["head"], ys)
        last = nexts[-1] if lengths is None else nexts[lengths - 1, np.arange(size)]
        none = np.zeros((horizon - 1, size, 1), network.dtype)  # a step reads what the one before has given
        _, further = scan(_Fed(self.cell), params, (carry, last), none)
        return nexts, concatenate([last[None], further], axis=0)

    def _first(self, size: int) -> Tree:
        return trees.cast(self.cell.init_carry(size), self.network.dtype)

    def work(self) -> Work:
        """One step, from the values to the next ones."""
        params = self.init_params(np.random.default_rng(0))
        return Work(self._step, params, self._first(1), np.zeros((1, self.columns), self.network.dtype))

    def _step(self, params: Tree, carry: Tree, x: Any) -> tuple[Tree, Any]:
        (carry, _), y = _Fed(self.cell)(params, (carry, x), ())
        return carry, y


@dataclass(frozen=True)
class _Fed:
    """A step that reads the values that the step before has given."""

    cell: Cell

    def __call__(self, params: Tree, carry: Tree, x: Any) -> tuple[Tree, Any]:
        """One step: the cell's carry and the values (B, F) -> the carry and the next values."""
        carry, values = carry
        carry, y = self.cell(params["cell"], carry, values)
        values = values + affine(params["head"], y)
        return (carry, values), values


@dataclass(frozen=True)
class Forecast(Task[NextValues]):
    """Forecast the next values of series of numbers, from a table with a row per step.

    Several files are several series with the same columns. Values are standardised by the mean and the standard
    deviation of each column in the training part. The network reads a window step by step and predicts the next values
    at each; for values further ahead it reads its own predictions.

    Attributes:
        columns: the columns to read, with commas between; all of numbers if empty.
        target: those of them that are scored and forecast; all if empty.
        time_column: the column of times, which is not read; if empty, one called time, timestamp, date, datetime or ds.
        window: the steps that are read before a forecast; 0 for one and a half seasons.
        horizon: the steps ahead that are forecast.
        season: the steps after which the series repeats; 0 to find them by the autocorrelation, 1 for none.
        ahead: the weight in the training loss of the values up to the horizon, for which the network reads its own
            predictions; the rest is that of the next value after each step.
        valid_fraction: the share at the end of each series that is held out.
    """

    columns: str = ""
    target: str = ""
    time_column: str = ""
    window: int = 0
    horizon: int = 24
    season: int = 0
    ahead: float = 0.5
    valid_fraction: float = 0.2

    unit: ClassVar[str] = "windows"
    best: ClassVar[tuple[str, Literal["min", "max"]]] = ("mse", "min")
    metrics: ClassVar[Mapping[str, Metric]] = {
        "loss": Metric("", "min", "LOSS", 4),
        "mse": Metric("", "min", "MSE", 4, "mean squared error"),
        "mae": Metric("", "min", "MAE", 4, "mean absolute error"),
        "mase": Metric("", "min", "MASE", 3, "MASE"),
    }
    default_files: ClassVar[tuple[str, ...]] = (BUILTIN,)

    def __post_init__(self) -> None:
        """Check the ranges of the options.

        Raises:
            ValueError: an option is out of range.
        """
        check_ranges(self, {"window": 0, "horizon": 1, "season": 0}, ["valid_fraction"])
        if self.window == 1:
            raise ValueError("window is 1; it must be at least 2, or 0 for one and a half seasons")
        if not 0 <= self.ahead <= 1:
            raise ValueError(f"ahead is {self.ahead:g}; it must be from 0 to 1")

    @property
    def held_out_part(self) -> str:
        """The end of each series."""
        return f"the held-out last {100 * self.valid_fraction:g} %"

    def read(self, files: Sequence[str], facts: Mapping[str, Any] | None = None, *, purpose: Purpose = "train") -> Data:
        """Read series, one per file, or generate one: ``builtin:seasons``.

        The facts are the ``columns``, the places of the ``targets`` among them, their ``mean``, ``deviation`` and the
        ``scale`` of MASE, ``window``, ``horizon`` and ``season``.

        Raises:
            UserError: a file cannot be read or has another kind of data, a column is missing or has one value only, or
                a series is too short.
        """
        if not files:
            raise UserError(f"there is no series: name a FILE with numbers in CSV, or {BUILTIN}")
        digest, notices = hashlib.sha256(), list[str]()
        columns = tuple(facts["columns"]) if facts else _names(self.columns)
        found = list[Series]()
        for file in files:
            columns, values = self._values(file, columns, digest)
            found.append(Series(file, values))
        held_out = 0.0 if purpose == "evaluate" else self.valid_fraction
        splits = [len(one.values) - round(len(one.values) * held_out) for one in found]
        starts = [Series(one.name, one.values[:split]) for one, split in zip(found, splits, strict=True)]
        facts = facts or self._facts(columns, starts, notices)
        window, horizon = facts["window"], facts["horizon"]
        scaled = tuple(series.standardised(one, facts) for one in found)
        train, valid = list[tuple[int, Array]](), list[tuple[int, Array]]()
        for which, (one, split) in enumerate(zip(found, splits, strict=True)):
            rows, first = len(one.values), window if purpose == "evaluate" else split
            _require(one, split, window + horizon, f"a window of {window} and a horizon of {horizon}")
            if purpose != "evaluate":
                train.append((which, np.arange(split - window - horizon + 1)))
            if first < rows:
                _require_held_out(one, rows - first, horizon, held_out)
                valid.append((which, series.origins(first, rows - horizon) - window))
        rows = sum(len(one.values) for one in found)
        about = f"{rows:,} rows of {listing(columns)}; window {window}, horizon {horizon}, season {facts['season']}"
        parts = series.windows(scaled, train, window + horizon), series.windows(scaled, valid, window + horizon)
        return Data(*parts, facts, tuple(files), digest.hexdigest(), about, notices)

    def _values(self, file: str, columns: tuple[str, ...], digest: Any) -> tuple[tuple[str, ...], Array]:
        """The columns and the values of a series, (N, F)."""
        if file.startswith(BUILTIN):
            digest.update(file.encode())
            if columns not in ((), ("load",)):
                raise UserError(f"{file} has the column load; expected {listing(columns)}")
            return ("load",), series.generated(file)
        found = frames(file, time_column=self.time_column or None, only=columns, digest=digest)
        return found.columns, found.values

    def _facts(self, columns: tuple[str, ...], parts: Sequence[Series], notices: list[str]) -> dict[str, Any]:
        """What the network needs of the training parts of series."""
        targets = _names(self.target) or columns
        if missing := [name for name in targets if name not in columns]:
            raise UserError(f"the target {missing[0]!r} is none of the columns that are read: {listing(columns)}")
        for part in parts:
            _require(part, len(part.values), 3, "training")
        season = self.season
        if not season:
            longest = max(parts, key=lambda part: len(part.values))
            season, peak = series.season_of(longest.values[:, columns.index(targets[0])])
            found = f"is {season}, where its autocorrelation has the highest peak, {peak:.2f}"
            notices.append(f"the season of {targets[0]} {found if season > 1 else 'is not found: no peak is clear'}")
        return {
            "columns": list(columns),
            "targets": [columns.index(name) for name in targets],
            **series.scales(parts, columns, season),
            "season": season,
            "window": self.window or series.window_of(season, min(len(part.values) for part in parts) - self.horizon),
            "horizon": self.horizon,
        }

    def check_facts(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Check them, as ``series.check_facts`` does."""
        series.check_facts(facts)
        return facts

    def model(self, facts: Mapping[str, Any], network: Network) -> NextValues:
        """The cell, with a linear head on every output.

        Raises:
            UserError: an embedding is asked for.
        """
        no_embedding(network, "a series has numbers")
        count, targets = len(facts["columns"]), tuple(facts["targets"])
        scale = tuple(facts["scale"][place] / facts["deviation"][place] for place in targets)
        return NextValues(network.make_cell(count), count, targets, scale, self.ahead, network)

    def pack(self, examples: Sequence[Array]) -> Batch:
        """Windows (T, B, F), and the values after them, (horizon, B, F)."""
        rows = np.stack(examples, axis=1)
        return Batch(rows[: -self.horizon], rows[-self.horizon :], float(len(examples)))

    def evaluate(self, model: NextValues, params: Tree, examples: Windows) -> dict[str, float]:
        """The training loss, and the errors of the targets at all steps up to the horizon.

        Squared and absolute errors are in standard deviations of each column in the training part.
        """
        loss, errors = self._errors(model, params, examples)
        return {"loss": loss} | series.measures(errors[..., model.targets], model.scale)

    def _errors(self, model: NextValues, params: Tree, examples: Windows) -> tuple[float, Array]:
        """The mean loss of some windows, and the errors after them, (horizon, M, F)."""
        loss, errors = 0.0, list[Array]()
        for some in chunks((examples[i] for i in range(len(examples))), AT_ONCE):
            window, targets, _ = self.pack(some)
            nexts, further = model.forecast(params, window, np.full(len(some), len(window)), len(targets))
            errors.append((further - targets).astype(np.float64))
            squares = np.square(nexts[:-1] - window[1:], dtype=np.float64).mean(), np.square(errors[-1]).mean()
            loss += float(squares[0] * (1 - self.ahead) + squares[1] * self.ahead) * len(some)
        return loss / len(examples), np.concatenate(errors, axis=1)

    def comparable(self, runs: Mapping[str, tuple[Task, Mapping[str, Any]]]) -> tuple[list[str], list[str]]:
        """Why runs on the same series cannot be compared: other horizons, targets or held-out shares."""
        unfair, remarks = super().comparable(runs)
        for name, noun in (("horizon", "horizons"), ("targets", "targets"), ("season", "seasons, the scale of MASE")):
            if len({str(facts[name]) for _, facts in runs.values()}) > 1:
                unfair.append(f"the runs have other {noun}")
        return unfair, remarks

    def assess(self, model: NextValues, params: Tree, data: Data, *, name: str, training: Any = None) -> Assessment:
        """The network's metrics, and those of the seasonal naive forecast, the last value, and the training mean.

        Figures are the errors by column, in its own units, and by steps ahead.
        """
        examples, facts = data.valid, data.facts
        loss, errors = self._errors(model, params, examples)
        season, names = facts["season"], [facts["columns"][place] for place in model.targets]
        rivals = series.naive(examples, self.horizon, season, model.targets)
        found = {NETWORK: errors[..., model.targets]} | rivals  # a run may be called like a baseline
        scores = [Score(rival, "baseline", series.measures(found[rival], model.scale)) for rival in rivals]
        scores = [Score(name, "model", {"loss": loss} | series.measures(found[NETWORK], model.scale)), *scores]
        verdict = metrics.verdict(scores, "mse", self.metrics["mse"])
        mase = scores[0].metrics.get("mase")
        if mase is not None:
            naive = "seasonal naive" if season > 1 else "naive"
            than = "smaller than" if mase < 1 else "not smaller than"
            verdict += (f"MASE is {mase:.3f}: errors are {than} those of the {naive} forecast in the training part.",)
        units = [facts["deviation"][place] for place in model.targets]
        drawn = figures.by_column(found, names, units), figures.by_step(found)
        return Assessment(tuple(scores), self.metrics, len(examples), self.unit, verdict, figures=drawn)

    def baselines(self, model: NextValues, data: Data) -> tuple[Score, ...]:
        """Those of the seasonal naive forecast, the last value, and the training mean."""
        rivals = series.naive(data.valid, self.horizon, data.facts["season"], model.targets)
        return tuple(Score(name, "baseline", series.measures(found, model.scale)) for name, found in rivals.items())

    def excerpt(self, model: NextValues, params: Tree, data: Data, size: int, rng: np.random.Generator) -> str | None:
        """The first steps of a held-out forecast, beside the truth."""
        examples = data.valid if len(data.valid) else data.train
        facts = data.facts
        window, targets, _ = self.pack([examples[int(rng.integers(len(examples)))]])
        _, further = model.forecast(params, window, np.array([len(window)]), self.horizon)
        guessed, true = (series.in_units(values[:SHOWN, 0], facts) for values in (further, targets))
        return "\n".join(
            f"{facts['columns'][place]} {series.written(guessed[:, place], facts, place)} "
            f"(true: {series.written(true[:, place], facts, place)})"
            for place in model.targets[:SHOWN]
        )

    def inputs(self, file: str, facts: Mapping[str, Any]) -> Iterator[Series]:
        """The end of the series in a file.

        Raises:
            UserError: the file cannot be read, or lacks a column.
        """
        most = facts["window"] + facts["horizon"]
        if file.startswith(BUILTIN):
            yield Series(file, series.generated(file)[-most:])
            return
        _, rows = rows_of_numbers(file, time_column=self.time_column or None, only=facts["columns"])
        last = deque(rows, maxlen=most)
        yield Series(last[0].file, np.array([row.values for row in last]))

    def predict(
        self,
        model: NextValues,
        params: Tree,
        facts: Mapping[str, Any],
        inputs: Iterable[Any],
        *,
        top: int = 1,
        explain: bool = False,
    ) -> Iterator[Prediction]:
        """The next values of series, given as ``Series`` or as arrays (N, F) in the order of the run's columns.

        An explanation has a chart for each target: the end of the series, the forecast, and what is forecast of the
        last known values from those before.

        Raises:
            UserError: a series is empty, has another number of columns or a value that is too far from the mean.
        """
        window, horizon = facts["window"], facts["horizon"]
        for some in chunks(with_places(inputs), PREDICTED):
            given = [series.as_series(item, facts["columns"], f"series {place}") for place, item in some]
            ahead = self._ahead(model, params, [Series(one.name, one.values[-window:]) for one in given], facts)
            known = [Series(one.name, one.values[:-horizon][-window:]) for one in given] if explain else []
            back = iter(self._ahead(model, params, [one for one in known if len(one.values)], facts))
            for i, one in enumerate(given):
                before = next(back) if explain and len(known[i].values) else None
                columns = {place: facts["columns"][place] for place in model.targets}
                texts = (
                    f"{name} {series.written(ahead[i][:, place], facts, place)}" for place, name in columns.items()
                )
                yield Prediction(
                    "\t".join([one.name, *texts]),
                    {"input": one.name, "forecast": {name: ahead[i][:, p].tolist() for p, name in columns.items()}},
                    tuple(figures.ahead(one, ahead[i], before, p, name) for p, name in columns.items() if explain),
                )

    def _ahead(
        self, model: NextValues, params: Tree, histories: Sequence[Series], facts: Mapping[str, Any]
    ) -> list[Array]:
        """What follows some histories, (horizon, F) each, in the units of the file."""
        if not histories:
            return []
        together, lengths = padded([series.standardised(one, facts) for one in histories])
        _, further = model.forecast(params, together, lengths, facts["horizon"])
        return [series.in_units(further[:, i], facts) for i in range(len(histories))]

    def probe(self, model: NextValues, params: Tree, examples: Windows, facts: Mapping[str, Any]) -> Probe:
        """The network along windows, with the squared error of the next values."""
        from rnn_plugins.tasks.probes import EveryStep

        rows = [examples[i] for i in np.linspace(0, len(examples) - 1, min(len(examples), PROBED)).astype(int).tolist()]

        def score(weights: Any, ys: Any, goals: Array) -> Any:
            return mean(square(affine(weights["head"], ys) - goals.astype(ys.dtype)), axis=-1)

        return EveryStep(
            recurrent=model.cell,
            weights=params,
            inputs=[row[:-1] for row in rows],
            goals=[row[1:] - row[:-1] for row in rows],
            see=lambda weights, values: values,
            score=score,
            dtype=model.network.dtype,
            sequence="window",
            loss_unit="",
            numbers_per_output=model.columns,
            far=(facts["season"] if facts["season"] > 1 else None, "the season of the series is"),
        )


def _names(text: str) -> tuple[str, ...]:
    """Names with commas between."""
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def _require(one: Series, rows: int, needed: int, what: str) -> None:
    if rows < needed:
        raise UserError(
            f"{one.name}: {amount(rows, 'row')} are too few for {what}; expected at least {needed}: give a longer "
            "series, or set window or horizon lower"
        )


def _require_held_out(one: Series, rows: int, horizon: int, share: float) -> None:
    if rows < horizon:
        raise UserError(
            f"{one.name}: {amount(rows, 'row')} at the end are held out, fewer than the horizon of {horizon}: raise "
            f"valid_fraction, which is {share:g}, or lower the horizon"
        )

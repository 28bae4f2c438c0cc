"""Series of numbers: a generated one, their season, and the forecasts that need no network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.data import tables
from rnn_plugins.errors import UserError
from rnn_plugins.words import amount, is_whole, listing

Array: TypeAlias = NDArray[Any]

BUILTIN = "builtin:seasons"
"""The name of a generated series, which ``:LENGTH`` and ``:LENGTH:SEED`` may follow."""

HOURS, DAY, WEEK = 8736, 24, 168
"""The length of the generated series (a year), and its seasons."""

ORIGINS = 400
"""Forecasts that an evaluation makes of a series at most."""

SHORTEST_WINDOW, LONGEST_WINDOW = 32, 512
"""The range of the default window."""

LEAST_PEAK, LONGEST_SEASON = 0.2, 1000
"""The smallest autocorrelation that is called a season, and the longest season that is looked for."""


class Series(NamedTuple):
    """The end of a series whose next values are to be predicted.

    Attributes:
        name: of its file.
        values: (N, F), in the units of the file.
    """

    name: str
    values: Array


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of some series, each (length, F).

    Attributes:
        series: standardised, (N, F) each.
        places: (M, 2), the series and the first row of each window.
        length: of every window.
    """

    series: tuple[Array, ...]
    places: Array
    length: int

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Array:
        which, start = self.places[index]
        return np.asarray(self.series[which][start : start + self.length])


def windows(series: tuple[Array, ...], starts: Sequence[tuple[int, Array]], length: int) -> Windows:
    """Windows of a length, from the first rows ``starts`` of some of the series."""
    places = [np.stack([np.full(len(rows), which), rows], axis=1) for which, rows in starts]
    return Windows(series, np.concatenate([np.zeros((0, 2), np.intp), *places]), length)


def window_of(season: int, rows: int) -> int:
    """How many steps to read before a forecast: one and a half seasons, but at most half of the rows."""
    return max(2, min(max(season * 3 // 2, SHORTEST_WINDOW), LONGEST_WINDOW, (rows - 1) // 2))


def origins(first: int, last: int) -> Array:
    """Rows from which forecasts are made: all from ``first`` to ``last``, or ``ORIGINS`` at equal distances."""
    return np.unique(np.linspace(first, last, min(ORIGINS, last - first + 1)).round()).astype(np.intp)


def scales(parts: Sequence[Series], columns: Sequence[str], season: int) -> dict[str, list[float]]:
    """The ``mean`` and ``deviation`` of each column over some series, and the ``scale`` of its MASE.

    Raises:
        UserError: a column has one value only.
    """
    together = np.concatenate([part.values for part in parts])
    deviation = together.std(axis=0)
    for name, spread, level in zip(columns, deviation, np.abs(together).max(axis=0), strict=True):
        if not spread > 1e-12 * level:
            raise UserError(
                f"{parts[0].name}: the column {name!r} has the same value in all {len(together):,} rows to train on: "
                "leave it out, with the option columns"
            )
    errors = [naive_error(part.values, season) * len(part.values) for part in parts]
    scale = np.sum(errors, axis=0) / len(together)
    return {"mean": together.mean(axis=0).tolist(), "deviation": deviation.tolist(), "scale": scale.tolist()}


def standardised(one: Series, facts: Mapping[str, Any]) -> Array:
    """The values of a series without the mean of each column, in its standard deviations, float32.

    Raises:
        UserError: a value is too far from the mean.
    """
    return tables.standardised(one.values, facts["mean"], facts["deviation"], one.name).astype(np.float32)


def in_units(values: Array, facts: Mapping[str, Any]) -> Array:
    """The reverse of ``standardised``, float64."""
    return np.asarray(values.astype(np.float64) * facts["deviation"] + facts["mean"])


def written(values: Array, facts: Mapping[str, Any], place: int) -> str:
    """Values of a column, with three digits of its standard deviation."""
    digits = max(0, 2 - math.floor(math.log10(facts["deviation"][place])))
    return " ".join(f"{value:.{digits}f}" for value in values)


def generated(name: str) -> Array:
    """An hourly series with a daily and a weekly season and noise, (N, 1).

    On working days it has a peak in the morning and one in the evening, on the two last days of a week a low one at
    noon. The noise is autoregressive: each step keeps 0.6 of the last.

    Args:
        name: ``builtin:seasons``, ``builtin:seasons:LENGTH`` or ``builtin:seasons:LENGTH:SEED``.

    Raises:
        UserError: it is another name.
    """
    numbers = name.removeprefix(BUILTIN).split(":")
    if not name.startswith(BUILTIN) or numbers[0] or len(numbers) > 3 or not all(map(is_whole, numbers[1:])):
        raise UserError(
            f"{name!r} is not understood; expected {BUILTIN}, {BUILTIN}:LENGTH or {BUILTIN}:LENGTH:SEED, such as "
            f"{BUILTIN}:5000"
        )
    length, seed = [*map(int, numbers[1:]), *(HOURS, 0)[len(numbers) - 1 :]]
    rng = np.random.default_rng(seed)
    hours = np.arange(length)
    hour, day = hours % DAY, hours // DAY % 7
    working = np.exp(-(((hour - 8) / 2.5) ** 2)) + 1.3 * np.exp(-(((hour - 19) / 3) ** 2))
    level = 100 + 30 * np.where(day < 5, working, 0.6 * np.exp(-(((hour - 13) / 4) ** 2)) - 0.3)
    noise, last = rng.normal(0, 3, length), 0.0
    for step in range(length):
        noise[step] = last = 0.6 * last + noise[step]
    return np.asarray((level + noise)[:, None])


def season_of(values: Array) -> tuple[int, float]:
    """The season of a series (N,): the lag of the highest peak of its autocorrelation, and that.

    A linear trend is taken off, and lags up to a third of the series are looked at. Without a peak of ``LEAST_PEAK`` it
    is 1, and 0.
    """
    count = len(values)
    most = min(count // 3, LONGEST_SEASON)
    if most < 3:
        return 1, 0.0
    steps = np.arange(count)
    rest = values - np.polyval(np.polyfit(steps, values, 1), steps)
    power = np.abs(np.fft.rfft(rest, 2 * count)) ** 2
    correlation = np.fft.irfft(power)[: most + 2]
    if correlation[0] <= 1e-12 * max(float(values @ values), 1e-300):  # nothing but a trend
        return 1, 0.0
    correlation /= correlation[0]
    inner = correlation[1:-1]
    peaks = np.flatnonzero((inner > correlation[:-2]) & (inner >= correlation[2:]) & (inner > LEAST_PEAK)) + 1
    if not len(peaks):
        return 1, 0.0
    best = int(peaks[np.argmax(correlation[peaks])])
    return best, float(correlation[best])


def seasonal_naive(history: Array, horizon: int, season: int) -> Array:
    """The values one season earlier, (H, ...); where that is beyond the history (N, ...), the last season again."""
    season = min(season, len(history))
    return np.asarray(history[len(history) - season + np.arange(horizon) % season])


def naive_error(values: Array, season: int) -> Array:
    """The mean absolute error, per column, of the seasonal naive forecast within a series (N, F), (F,).

    The scale of MASE (Hyndman and Koehler 2006, "Another look at measures of forecast accuracy").
    """
    season = min(season, len(values) - 1)
    return np.asarray(np.abs(values[season:] - values[:-season]).mean(axis=0))


def naive_errors(examples: Windows, horizon: int, season: int) -> Array:
    """The errors of a seasonal naive forecast of the last ``horizon`` rows of windows, (horizon, M, F).

    Args:
        examples: the windows.
        horizon: the steps ahead.
        season: 1 repeats the last value; 0 forecasts 0, the mean of what is standardised.
    """
    found = []
    for index, (which, start) in enumerate(examples.places):
        truth = examples[index][-horizon:]
        history = examples.series[which][: start + examples.length - horizon]
        found.append((seasonal_naive(history, horizon, season) if season else np.zeros_like(truth)) - truth)
    return np.stack(found, axis=1).astype(np.float64)


def naive(examples: Windows, horizon: int, season: int, targets: Sequence[int]) -> dict[str, Array]:
    """The errors of forecasts that need no network, (horizon, M, F) each, by their names.

    Args:
        examples: the windows.
        horizon: the steps ahead.
        season: the steps of one season; 1 for none.
        targets: the columns of the errors.
    """
    steps = {"seasonal naive": season, "last value": 1, "mean": 0} if season > 1 else {"last value": 1, "mean": 0}
    return {name: naive_errors(examples, horizon, back)[..., targets] for name, back in steps.items()}


def measures(errors: Array, scale: Sequence[float]) -> dict[str, float]:
    """The metrics of errors (H, M, F) in standard deviations: ``mse``, ``mae``, and ``mase`` where it is defined.

    MASE divides the mean absolute error of each column by ``scale``, that of the seasonal naive forecast within the
    training part (Hyndman and Koehler 2006), which is 0 where the series repeats exactly.
    """
    found = {"mse": float(np.square(errors).mean()), "mae": float(np.abs(errors).mean())}
    if all(scale):
        found["mase"] = float((np.abs(errors).mean(axis=(0, 1)) / scale).mean())
    return found


def as_series(item: Any, columns: Sequence[str], label: str) -> Series:
    """A series, or an array (N, F) of one, as a series; ``label`` is the name of an array.

    Raises:
        UserError: it has other columns, no rows, or a number that is not finite.
    """
    try:
        one = item if isinstance(item, Series) else Series(label, np.asarray(item, np.float64))
    except (TypeError, ValueError):
        raise UserError(
            f"{label} is no array of numbers; expected finite ones, (N, {len(columns)}), with the columns "
            f"{listing(columns)}"
        ) from None
    values = one.values[:, None] if one.values.ndim == len(columns) == 1 else one.values
    if values.ndim != 2 or values.shape[1] != len(columns) or not len(values) or not np.isfinite(values).all():
        raise UserError(
            f"{one.name} has numbers of shape {one.values.shape}; expected finite ones, (N, {len(columns)}), with the "
            f"columns {listing(columns)}"
        )
    return Series(one.name, values)


def check_facts(facts: Mapping[str, Any]) -> None:
    """Check that there are finite numbers for each column, and whole numbers of steps.

    Raises:
        ValueError: they are damaged.
    """
    count = len(facts["columns"])
    for name in ("mean", "deviation", "scale"):
        numbers = np.array(facts[name], np.float64)
        if numbers.shape != (count,) or not np.isfinite(numbers).all():
            raise ValueError(f"{name} is {facts[name]!r}; expected {amount(count, 'finite number')}")
    if not all(deviation > 0 for deviation in facts["deviation"]):
        raise ValueError(f"deviation is {facts['deviation']!r}; expected numbers above 0")
    if not (facts["targets"] and all(type(place) is int and 0 <= place < count for place in facts["targets"])):
        raise ValueError(f"targets is {facts['targets']!r}; expected places of {amount(count, 'column')}")
    for name in ("season", "window", "horizon"):
        if not (type(facts[name]) is int and facts[name] > 0):
            raise ValueError(f"{name} is {facts[name]!r}; expected a whole number above 0")

"""What can be said of networks side by side: losses with their spread, cost and memory, and which of them is better.

It trains nothing and draws nothing; how gradients flow is measured by the report of that name.
"""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad.graph import TraceError
from minigrad.scan import release
from rnn_lab.blame import blaming
from rnn_lab.comparison.plan import seconds_of, task_of
from rnn_lab.comparison.statistics import level, rank, welch
from rnn_lab.language.evaluation import FEW_UNKNOWN, unknown_share
from rnn_lab.runs import Run
from rnn_lab.subject import of_run
from rnn_plugins.errors import UserError
from rnn_plugins.inspect.operations import operations
from rnn_plugins.reports.flow import REACHED, crossing, measure_flow, most_lags
from rnn_plugins.reports.probe import Probe
from rnn_plugins.reports.report import Chart, Curve, Page, Quantity, Table
from rnn_plugins.reports.structure import CLASSES, ENOUGH, Outcomes, outcomes
from rnn_plugins.reports.structure import write as written
from rnn_plugins.reports.subject import Subject

Array: TypeAlias = NDArray[Any]

LAGS, POSITIONS = 100, 300
"""How far back, and at how many places, gradients are looked at."""

WRITTEN, CHECKED = 20_000, 200_000
"""How many characters a model writes, and how much of its text is searched for brackets and environments."""


@dataclass(frozen=True, eq=False)
class Trial:
    """What is known of a run.

    Attributes:
        run: which.
        loss: the lowest that was measured, nats a symbol, of held-out text where there is some: as ``read`` gives it,
            that of the weights that are kept as the best.
        steps: of training.
        characters: seen in training, repetitions included.
        seconds: of training, validations included.
        speed: characters a second, the median over training; None where nothing was recorded.
        curve: (3, N), losses in bits a character over characters seen and over seconds: ``characters, seconds, bits``.
        reach: the lag at which 1 % of the gradient is left; infinite where it was not reached, None where not looked.
        structure: the share of brackets and environments that its writing closes rightly; None where there are too few.
        notices: what could not be done, a sentence each.
    """

    run: Run
    loss: float
    steps: int
    characters: float
    seconds: float
    speed: float | None
    curve: Array
    reach: float | None = None
    structure: float | None = None
    notices: tuple[str, ...] = ()

    @property
    def bits(self) -> float:
        """The loss in bits a character."""
        return self.run.bits(self.loss)

    @property
    def guessing(self) -> float:
        """The loss of guessing among all symbols alike, in bits a character."""
        return self.run.bits(math.log(len(self.run.vocabulary)))

    @property
    def held_out(self) -> bool:
        """Whether the loss is of text that it was not trained on."""
        return self.run.held_out


def read(run: Run) -> Trial:
    """What a run's own files say of it.

    Raises:
        UserError: it cannot be read, diverged, or has measured no loss yet.
    """
    settings, data, outcome = run.settings, run.manifest["data"], run.manifest.get("outcome")
    if outcome == "diverged":
        raise UserError(
            f"the run {run.name!r} diverged at step {run.manifest['step']:,}, with the learning rate "
            f"{settings.learning_rate:g}: rnn rerun {shlex.quote(run.name)} tells why"
        )
    task = task_of(run.text_model, settings, data["symbols"] - data["held_out"])
    records = list(run.records())
    key = "valid_loss" if run.held_out else "train_loss"
    looks = [record for record in records if key in record]
    steps, loss = run.reached()
    if loss is None:
        raise UserError(f"the run {run.name!r} has measured no loss yet: train it longer")
    share = run.characters_per_symbol(training=True)
    a_step = task.tokens_per_step * share
    speeds = [record["tokens_per_second"] * share for record in records if record["tokens_per_second"] > 0]
    curve = np.array([(look["step"] * a_step, look["seconds"], run.bits(look[key])) for look in looks], float)
    return Trial(
        run,
        float(loss),
        steps,
        steps * a_step,
        seconds_of(run),
        statistics.median(speeds) if speeds else None,
        curve.reshape(-1, 3).T,
    )


def look(trial: Trial) -> Trial:
    """The same, with what its weights show: how far gradients reach, how it closes brackets."""
    try:
        with blaming():
            subject = of_run(trial.run)
            return replace(trial, reach=_reach(subject.probe), structure=_structure(subject))
    except UserError as error:
        return replace(trial, notices=(f"{trial.run.name}: its weights were not looked at, because {error}",))


def _reach(probe: Probe) -> float | None:
    """The largest, over the states that the cell carries, of the lags at which 1 % of the gradient is left."""
    lags = min(LAGS, most_lags(probe))
    if lags < 1:
        return None
    flow = measure_flow(probe, lags, POSITIONS)
    means = [flow.mean[place].tolist() for place in flow.real]
    found = [crossing(norms, REACHED) for norms in means if norms[0] > 0]
    return max((math.inf if lag is None else lag for lag in found), default=None)


def _structure(subject: Subject) -> float | None:
    """The share of what its writing opens that it closes rightly, where text and writing have enough of that."""
    language = subject.language
    if not language or _right(outcomes([language.vocabulary.decode(subject.learnt[:CHECKED])])) is None:
        return None
    return _right(outcomes(written(language, subject.params, subject.learnt, WRITTEN, 0)))


def _right(found: Outcomes) -> float | None:
    right = np.concatenate([found.right[name] for name in CLASSES])
    return float(right.mean()) if len(right) >= ENOUGH else None


@dataclass(frozen=True, eq=False)
class Contestant:
    """Runs that differ in nothing but their seeds.

    Attributes:
        label: what they are called.
        trials: one or more.
    """

    label: str
    trials: tuple[Trial, ...]

    @cached_property
    def bits(self) -> list[float]:
        """The losses, bits a character."""
        return [trial.bits for trial in self.trials]

    @property
    def mean(self) -> float:
        """The mean loss, bits a character."""
        return statistics.fmean(self.bits)

    @property
    def deviation(self) -> float | None:
        """The standard deviation of the losses, bits a character; None for one."""
        return statistics.stdev(self.bits) if len(self.bits) > 1 else None


def group(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by a label; those that differ in nothing but their seeds have one together.

    Raises:
        UserError: a run is named twice, or cannot be read.
    """
    groups: list[list[Run]] = []
    for run in runs:
        if any(run.path.resolve() == other.path.resolve() for members in groups for other in members):
            raise UserError(f"the run {run.name!r} is named twice: leave one of them out")
        for members in groups:
            if all(_differ_in_seed(run, member) for member in members):
                members.append(run)
                break
        else:
            groups.append([run])
    found: dict[str, list[Run]] = {}
    for members in groups:
        label = members[0].name if len(members) == 1 else _cell(members[0])
        found[f"{label} ({members[0].name})" if label in found else label] = members
    return found


def _differ_in_seed(one: Run, other: Run) -> bool:
    a, b = (run.settings for run in (one, other))
    same_text = one.manifest["data"]["digest"] == other.manifest["data"]["digest"]
    same_cell = one.manifest["cell"] == other.manifest["cell"]
    return same_text and same_cell and a.seed != b.seed and replace(a, seed=None) == replace(b, seed=None)


def _cell(run: Run) -> str:
    """A run's cell with its options, as the command line takes it."""
    options = ",".join(f"{key}={value}" for key, value in run.settings.cell_option.items())
    return f"{run.manifest['cell']['cell']}{':' if options else ''}{options}"


def compare(groups: Mapping[str, Sequence[Run]], told: Callable[[str], None] = lambda run: None) -> Page:
    """Lay runs beside each other.

    Args:
        groups: the runs of each contestant by its label.
        told: called with the name of a run before its weights are looked at.

    Raises:
        UserError: there is nothing to show of any of them.
    """
    contestants, failed, notices = [], {}, list[str]()
    for label, runs in groups.items():
        trials, reasons = [], []
        for run in runs:
            try:
                trial = read(run)
            except UserError as error:
                reasons.append(str(error))
                continue
            told(run.name)
            trials.append(look(trial))
            release()  # each run has plans of its own
            notices += trials[-1].notices
        if trials:
            contestants.append(Contestant(label, tuple(trials)))
            notices += reasons
        else:
            failed[label] = "; ".join(reasons)
    if not contestants:
        raise UserError("; ".join(failed.values()))
    unfair, remarks = _fairness(contestants)
    lowest = "The loss of the weights that are kept as the best"
    return Page(
        kind="compare",
        title="Comparison",
        question="Which network learns the text best, and at what price?",
        subjects=(*(contestant.label for contestant in contestants), *failed),
        quantities=_told(contestants, lowest),
        figures=(*_charts(contestants), _runs(contestants, lowest)),
        verdict={"": verdict(contestants, unfair)},
        notices=(*unfair, *remarks, *notices),
        failed=failed,
    )


def _fairness(contestants: Sequence[Contestant]) -> tuple[list[str], list[str]]:
    """Why losses cannot be held against each other, and what else to know of them."""
    trials = [trial for contestant in contestants for trial in contestant.trials]
    unfair, remarks = [], []
    texts = {trial.run.manifest["data"]["digest"]: trial.run.manifest["data"]["sources"] for trial in trials}
    if len(texts) > 1:
        named = "; ".join(", ".join(sources) for sources in texts.values())
        unfair.append(f"the runs were not trained on the same text ({named})")
    elif len(shares := {f"{trial.run.settings.valid_fraction:.3g}" for trial in trials}) > 1:
        unfair.append(f"the runs do not hold out the same share of the text ({', '.join(sorted(shares))})")
    in_training = [trial.run.name for trial in trials if not trial.held_out]
    if len(in_training) == len(trials):
        remarks.append("nothing is held out: the losses are those of the text that was trained on")
    elif in_training:
        unfair.append(f"not all runs were measured on held-out text: {', '.join(in_training)}")
    levels = {trial.run.settings.level for trial in trials}
    symbols = {(trial.run.vocabulary, trial.run.settings.unknown) for trial in trials}
    if len(symbols) > 1:  # each leaves out, or reads as one, what it does not know
        unfair += dict.fromkeys(
            f"{unknown_share(run.unknown, run.settings.level)} unknown to the run {run.name!r}, so its bits per "
            "character are not those of the text as it is written"
            for run in (trial.run for trial in trials)
            if run.unknown > FEW_UNKNOWN
        )
    if len(levels) > 1:
        remarks.append("the runs read symbols of different kinds, which only bits a character make comparable")
    for trial in trials:
        outcome = trial.run.manifest.get("outcome")
        if outcome in (None, "interrupted"):
            end = "was interrupted" if outcome else "has not ended"
            remarks.append(f"the run {trial.run.name!r} {end}: it is shown as it was after step {trial.steps:,}")
    return unfair, remarks


def verdict(contestants: Sequence[Contestant], unfair: Sequence[str] = ()) -> tuple[str, ...]:
    """Who is best, who is tied, a sentence each.

    Args:
        contestants: one or more.
        unfair: why their losses cannot be held against each other.
    """
    if len(contestants) < 2:
        return ()
    if unfair:
        return ("No verdict, because the comparison is not fair: " + "; ".join(unfair) + ".",)
    if not all(trial.held_out for contestant in contestants for trial in contestant.trials):
        return (
            "No verdict, because nothing was held out: a low loss on the text that was trained on can be learnt by "
            "heart. Give a longer text, or a larger --valid-fraction.",
        )
    if all(trial.bits >= trial.guessing for contestant in contestants for trial in contestant.trials):
        costs = min(trial.guessing for contestant in contestants for trial in contestant.trials)
        return (
            f"No verdict, because none has learnt anything: guessing costs {costs:.3f} bits per character. Train "
            "longer, or with a lower --learning-rate where the loss is far above that.",
        )
    single = [contestant.label for contestant in contestants if len(contestant.bits) < 2]
    if single:
        best = min(contestants, key=lambda contestant: contestant.mean)
        return (
            f"The lowest loss is that of {best.label}, {best.mean:.3f} bits a character.",
            f"That is no verdict: {_listed(single)} {'has' if len(single) == 1 else 'have'} only one run, so the "
            "difference cannot be told from chance. Runs with other seeds tell more.",
        )
    by_label = {contestant.label: contestant for contestant in contestants}
    tiers = rank({label: contestant.bits for label, contestant in by_label.items()})
    best = by_label[tiers[0].names[0]]
    sentences = []
    for names, chance in tiers:
        first, last = by_label[names[0]].mean, by_label[names[-1]].mean
        behind = ""
        if chance is not None:
            probable = f"p = {chance:.2g}" if chance >= 1e-4 else "p < 0.0001"
            behind = f"{first - best.mean:.3f} behind {best.label} ({probable})"
        if len(names) == 1:
            sentences.append(f"{names[0]} is {behind or f'the best, with {best.mean:.3f} bits a character'}.")
        else:
            words = f"{_listed(names)} are tied{', ' if behind else ''}{behind}"
            why = _undecided([by_label[name].bits for name in names], level(len(contestants)))
            sentences.append(f"{words}: {first:.3f} to {last:.3f} bits a character, which {why}.")
    if any(len(names) > 1 for names, _ in tiers):
        sentences.append("More seeds would show smaller differences.")
    return tuple(sentences)


def _undecided(samples: Sequence[Sequence[float]], needed: float) -> str:
    """Why losses are tied with the first, whose mean is the lowest."""
    first, *others = samples
    if all(min(other) <= max(first) for other in others):
        return "is within the spread"
    seeds = _listed([str(count) for count in sorted({len(sample) for sample in samples})])
    chance = min(welch(first, other) for other in others)
    return f"{seeds} seeds cannot tell apart (p = {chance:.2g}, not below {needed:.2g})"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def over_seeds(curves: Sequence[Array]) -> tuple[Array, Array, Array, Array, Array]:
    """Curves of several runs as one, with a point wherever one of them has one, as far as all of them reach.

    Between its points a curve is a straight line. Time is averaged as losses are: it is when so many characters had
    been seen on average.

    Args:
        curves: as ``Trial.curve``.

    Returns:
        Characters seen, mean seconds, mean, lowest and highest loss, (M,) each; empty where nothing is common to all.
    """
    if not all(curve.size for curve in curves):
        return (np.zeros(0),) * 5
    start, end = max(curve[0, 0] for curve in curves), min(curve[0, -1] for curve in curves)
    seen = np.unique(np.concatenate([curve[0] for curve in curves]))
    seen = seen[(seen >= start) & (seen <= end)]
    seconds, bits = (np.stack([np.interp(seen, curve[0], curve[row]) for curve in curves]) for row in (1, 2))
    return seen, seconds.mean(axis=0), bits.mean(axis=0), bits.min(axis=0), bits.max(axis=0)


def _charts(contestants: Sequence[Contestant]) -> tuple[Chart, Chart]:
    held_out = all(trial.held_out for contestant in contestants for trial in contestant.trials)
    what = "held-out loss" if held_out else "loss"
    several = any(len(contestant.trials) > 1 for contestant in contestants)
    band = "; the mean over runs with different seeds, and the band from the lowest to the highest" if several else ""
    definition = f"The {what} where it was measured while training{band}."
    return (
        Chart(
            "loss_by_characters",
            "Loss against characters seen",
            "characters seen in training",
            f"{what}, bits a character",
            tuple(_curve(contestant, 0, place) for place, contestant in enumerate(contestants)),
            log_x=True,
            definition=definition,
        ),
        Chart(
            "loss_by_seconds",
            "Loss against time",
            "seconds of training",
            f"{what}, bits a character",
            tuple(_curve(contestant, 1, place) for place, contestant in enumerate(contestants)),
            definition=definition,
        ),
    )


def _curve(contestant: Contestant, axis: int, place: int) -> Curve:
    """Its losses over characters (axis 0) or seconds (axis 1)."""
    *axes, mean, low, high = over_seeds([trial.curve for trial in contestant.trials])
    if len(contestant.trials) == 1:
        return Curve(contestant.label, axes[axis], mean, style=place)
    return Curve(contestant.label, axes[axis], mean, low, high, style=place)


def _runs(contestants: Sequence[Contestant], lowest: str) -> Table:
    rows = tuple(
        (trial.run.name, trial.run.settings.seed, trial.loss, trial.bits, trial.steps, trial.seconds)
        for contestant in contestants
        for trial in contestant.trials
    )
    return Table(
        "runs",
        "The runs",
        ("run", "seed", "nats", "bits", "steps", "seconds"),
        rows,
        f"{lowest}, in nats a symbol and in bits a character.",
    )


def _told(contestants: Sequence[Contestant], lowest: str) -> dict[str, tuple[Quantity, ...]]:
    """The quantities of each, but for those that say nothing of any."""
    found = {contestant.label: _quantities(contestant, lowest) for contestant in contestants}
    nothing = {"structure": None, "num_layers": 1}
    left_out = {
        key
        for key, value in nothing.items()
        if all(quantity.value == value for of_one in found.values() for quantity in of_one if quantity.key == key)
    }
    return {label: tuple(q for q in of_one if q.key not in left_out) for label, of_one in found.items()}


def _quantities(contestant: Contestant, lowest: str) -> tuple[Quantity, ...]:
    trials = contestant.trials
    run, settings = trials[0].run, trials[0].run.settings
    text = "held-out text" if all(trial.held_out for trial in trials) else "the training text"
    runs = f"the mean over {len(trials)} runs" if len(trials) > 1 else "of one run"
    losses = [trial.loss for trial in trials]
    speeds = [trial.speed for trial in trials if trial.speed is not None]
    reaches = [trial.reach for trial in trials if trial.reach is not None]
    scores = [trial.structure for trial in trials if trial.structure is not None]
    reach = statistics.median(reaches) if reaches else None
    try:
        cost: int | None = operations(run.model.work())
    except TraceError:
        cost = None
    spread = f"{min(contestant.bits):.3f} to {max(contestant.bits):.3f}" if len(trials) > 1 else None
    return (
        Quantity("loss", "loss", statistics.fmean(losses), "nats", f"{lowest}, on {text}, {runs}."),
        Quantity(
            "bits",
            "loss, a character",
            contestant.mean,
            "bits",
            f"{lowest}, on {text}, per character of the text, {runs}.",
        ),
        Quantity(
            "deviation",
            "its standard deviation",
            contestant.deviation,
            "bits",
            "The standard deviation of the loss a character over runs with different seeds.",
            "one run",
        ),
        Quantity("range", "from lowest to highest", spread, "bits", "The range of the loss a character.", "one run"),
        Quantity("seeds", "runs", len(trials), "", "Runs that differ in nothing but their seeds."),
        Quantity("parameters", "parameters", run.manifest["parameters"], "", "The number of trained scalars."),
        Quantity("hidden_size", "hidden size", settings.hidden_size, "", "Units a layer."),
        Quantity("num_layers", "layers", settings.num_layers, "", "Layers, one above the other."),
        Quantity("learning_rate", "learning rate", settings.learning_rate, "", "The schedule's highest learning rate."),
        Quantity(
            "operations",
            "operations a symbol",
            cost,
            "",
            "Additions, multiplications and functions of a number that reading a symbol and scoring the next takes.",
            "cannot be traced",
        ),
        Quantity(
            "speed",
            "characters a second",
            round(statistics.median(speeds)) if speeds else None,
            "",
            "In training, validations not counted: the median over its records, and over runs.",
        ),
        Quantity(
            "characters",
            "characters seen",
            round(statistics.fmean(trial.characters for trial in trials)),
            "",
            f"In training, each time that they were read, {runs}.",
        ),
        Quantity(
            "seconds",
            "time of training",
            statistics.fmean(trial.seconds for trial in trials),
            "s",
            f"Validations counted, {runs}.",
        ),
        Quantity(
            "one_percent_lag",
            "1 %-lag",
            reach if reach is not None and math.isfinite(reach) else None,
            "steps",
            "The lag at which the mean norm of the derivative of the loss by a carried state first comes to 1 % of its "
            "value at lag 0, after which little can be learnt of what came before; for the state for which it is "
            "largest, and the median over runs.",
            "-" if reach is None else f"not within {LAGS}",
        ),
        Quantity(
            "structure",
            "closed rightly",
            100 * statistics.fmean(scores) if scores else None,
            "%",
            f"Of the brackets and environments that it opens in {WRITTEN:,} characters of its own, those that it "
            "closes rightly; what is open at a text's end is not counted; the mean over runs.",
            "too few",
        ),
    )

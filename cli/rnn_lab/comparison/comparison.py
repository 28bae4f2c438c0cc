"""Compare networks: which runs belong together, whether they can be compared, and which network is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from minigrad.scan import release
from rnn_lab.comparison.figures import charts, quantities, table
from rnn_lab.comparison.statistics import level, rank, welch
from rnn_lab.comparison.trials import Contestant, Trial, inspected, metric_of, read
from rnn_lab.runs import Run
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.options import listed
from rnn_plugins.reports.report import Page
from rnn_plugins.tasks.task import Metric
from rnn_plugins.trust import Untrusted
from rnn_plugins.words import listing


def group(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by label; those that differ only in their seeds have one label.

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
    same_data = one.manifest["data"]["digest"] == other.manifest["data"]["digest"]
    same_cell = one.manifest["cell"] == other.manifest["cell"]
    same_task = one.manifest["task"] == other.manifest["task"]
    alike = same_data and same_cell and same_task
    return alike and a.seed != b.seed and replace(a, seed=None) == replace(b, seed=None)


def _cell(run: Run) -> str:
    """A run's cell with its options, as the command line takes it."""
    options = ",".join(f"{key}={value}" for key, value in run.settings.cell_option.items())
    return f"{run.manifest['cell']['cell']}{':' if options else ''}{options}"


def compare(groups: Mapping[str, Sequence[Run]], told: Callable[[str], None] = lambda run: None) -> Page:
    """Compare runs.

    Args:
        groups: the runs of each contestant by its label.
        told: called with the name of a run before its weights are inspected.

    Raises:
        UserError: none of them has results.
    """
    meant = {entry.name: entry.value for entry in registry.entries("tasks")}  # a task may have several names
    tasks: dict[str, Run] = {}
    for run in (run for runs in groups.values() for run in runs):
        tasks.setdefault(meant.get(run.settings.task, run.settings.task), run)
    if len(tasks) > 1:
        named = ", ".join(f"{run.name!r} of the task {run.settings.task}" for run in tasks.values())
        raise UserError(f"the runs are of several tasks ({named}), whose metrics cannot be compared: name runs of one")
    contestants, failed, notices = [], {}, list[str]()
    errors: list[UserError] = []
    for label, runs in groups.items():
        trials, reasons = [], []
        for run in runs:
            try:
                trial = read(run)
            except UserError as error:
                errors.append(error)
                reasons.append(str(error))
                continue
            told(run.name)
            trials.append(inspected(trial))
            release()  # each run has its own plans
        if trials:
            contestants.append(Contestant(label, tuple(trials)))
            notices += reasons
        else:
            failed[label] = "; ".join(dict.fromkeys(reasons))
    if not contestants:
        if all(isinstance(error, Untrusted) for error in errors):
            raise errors[0]  # whoever catches it adds the command that trusts all files
        raise UserError("; ".join(dict.fromkeys(failed.values())))
    trials = [trial for contestant in contestants for trial in contestant.trials]
    unfair, notes = _fairness(trials)
    said = verdict(contestants, unfair)
    if not said:  # otherwise it names these reasons
        notes = [*unfair, *notes]
        if not any(trial.held_out for trial in trials):
            notes.append("nothing is held out: the losses are those of the training data")
    return Page(
        kind="compare",
        title="Comparison",
        question="Which network learns the data best, and at what cost?",
        subjects=(*(contestant.label for contestant in contestants), *failed),
        quantities=quantities(contestants),
        figures=(*charts(contestants), table(contestants)),
        verdict={"": said},
        notices=(*notes, *_not_inspected(trials), *dict.fromkeys(notices)),
        failed=failed,
    )


def _amount(value: float, metric: tuple[str, Metric]) -> str:
    """A value with its unit, or with the metric's word if it has none."""
    name, about = metric
    return f"{value:.{about.digits}f} {about.unit or about.word or name}"


def _data_of(run: Run) -> str:
    """The files of a run, and those that it was validated on if they are others."""
    validated = f" with {listing(run.settings.valid)} to validate" if run.settings.valid else ""
    return f"{run.sources}{validated}"


def _fairness(trials: Sequence[Trial]) -> tuple[list[str], list[str]]:
    """Why metrics cannot be compared, and other notes on them."""
    unfair, notes = list[str](), list[str]()
    data = {trial.run.manifest["data"]["digest"]: trial.run for trial in trials}
    if len(data) > 1:
        named = "; ".join(_data_of(run) for run in data.values())
        unfair.append(f"the runs were not trained on the same data ({named})")
    in_training = [trial.run.name for trial in trials if not trial.held_out]
    if 0 < len(in_training) < len(trials):
        unfair.append(f"not all runs were measured on held-out data: {', '.join(in_training)}")
    of_task = trials[0].run.task.comparable({trial.run.name: (trial.run.task, trial.run.facts) for trial in trials})
    unfair, notes = [*unfair, *of_task[0]], [*notes, *of_task[1]]
    for trial in trials:
        outcome = trial.run.manifest.get("outcome")
        if outcome in (None, "interrupted"):
            end = "was interrupted" if outcome else "has not ended"
            notes.append(f"the run {trial.run.name!r} {end}: its numbers are those after step {trial.steps:,}")
    return unfair, notes


def _not_inspected(trials: Sequence[Trial]) -> list[str]:
    """Sentences on the runs whose weights were not inspected, one for all that have the same reason."""
    names: dict[str, list[str]] = {}
    for trial in filter(lambda trial: trial.lack, trials):
        names.setdefault(trial.lack, []).append(trial.run.name)
    return [
        f"{listing(some)}: {'its' if len(some) == 1 else 'their'} weights were not inspected, because {lack}"
        for lack, some in names.items()
    ]


def verdict(contestants: Sequence[Contestant], unfair: Sequence[str] = ()) -> tuple[str, ...]:
    """Who is best, who is tied, a sentence each.

    Args:
        contestants: one or more.
        unfair: why their metrics cannot be compared.
    """
    if len(contestants) < 2:
        return ()
    trials = [trial for contestant in contestants for trial in contestant.trials]
    metric = name, about = metric_of(contestants)
    sign = 1 if about.direction == "min" else -1
    if unfair:
        return ("No verdict, because the comparison is not fair: " + "; ".join(unfair) + ".",)
    if not all(trial.held_out for trial in trials):
        return (
            "No verdict, because nothing was held out, and a low loss on the training data may be overfitting. Use "
            "more data, or a larger --valid-fraction.",
        )
    guesses = [guess for trial in trials if (guess := trial.guessing) is not None]
    if len(guesses) == len(trials) and all(
        sign * trial.value >= sign * guess for trial, guess in zip(trials, guesses, strict=True)
    ):
        costs = min(guesses) if sign > 0 else max(guesses)
        verb, far = ("costs", "above") if sign > 0 else ("reaches", "below")
        return (
            f"No verdict, because none has learnt anything: guessing {verb} {_amount(costs, metric)}. Train "
            f"longer, or with a lower --learning-rate if the {about.word or name} is far {far} that.",
        )
    single = [contestant.label for contestant in contestants if len(contestant.values) < 2]
    if single:
        best = min(contestants, key=lambda contestant: sign * contestant.mean)
        what = "lowest" if sign > 0 else "highest"
        value = f"{best.mean:.{about.digits}f} {about.unit}".rstrip()
        have = "has" if len(single) == 1 else "have"
        return (
            f"The {what} {about.word or name} is that of {best.label}, {value}.",
            f"That is not a verdict: {listed(single, 'and')} {have} only one run, so the "
            "difference may be chance. Train runs with other seeds.",
        )
    by_label = {contestant.label: contestant for contestant in contestants}
    tiers = rank({label: [sign * value for value in contestant.values] for label, contestant in by_label.items()})
    best = by_label[tiers[0].names[0]]
    sentences = []
    for names, chance in tiers:
        first, last = by_label[names[0]].mean, by_label[names[-1]].mean
        behind = ""
        if chance is not None:
            probable = f"p = {chance:.2g}" if chance >= 1e-4 else "p < 0.0001"
            behind = f"{sign * (first - best.mean):.{about.digits}f} behind {best.label} ({probable})"
        if len(names) == 1:
            sentences.append(f"{names[0]} is {behind or f'the best, with {_amount(best.mean, metric)}'}.")
        else:
            words = f"{listed(list(names), 'and')} are tied{', ' if behind else ''}{behind}"
            why = _undecided(
                [[sign * value for value in by_label[name].values] for name in names], level(len(contestants))
            )
            sentences.append(f"{words}: {first:.{about.digits}f} to {_amount(last, metric)}, which {why}.")
    if any(len(names) > 1 for names, _ in tiers):
        sentences.append("More seeds would show smaller differences.")
    return tuple(sentences)


def _undecided(samples: Sequence[Sequence[float]], needed: float) -> str:
    """Why losses are tied with the first one, whose mean is the lowest."""
    first, *others = samples
    if all(min(other) <= max(first) for other in others):
        return "is within the spread"
    seeds = listed([str(count) for count in sorted({len(sample) for sample in samples})], "and")
    chance = min(welch(first, other) for other in others)
    return f"{seeds} seeds cannot distinguish (p = {chance:.2g}, not below {needed:.2g})"

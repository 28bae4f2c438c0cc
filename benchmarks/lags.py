"""The longest lag that each cell learns, and how far its gradient reaches before and after training in the same runs.

``adding``: lags from the shortest on, until one is not solved (mean squared error below 0.01 on 1,000 other sequences)
within --steps at any of --rates. ``copy``: each of --copy-lags, and its loss beside that without memory. The gradient
is that of the loss at the end by the states k steps before, along sequences of the longest of all lags; its reach is
the lag at which it falls to 1 %, through the state through which it falls last. All runs are kept in --json FILE, and
those that are there are not done again, so that the script can be interrupted, or go on with more seeds. --page writes
the tables and the plot of docs/memory.md from FILE.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import console, machine, set_environment, table

from minigrad.optimizers import adam
from minigrad.schedules import constant
from minigrad.training import NotFinite, start, train
from rnn_lab.drawing.pictures import picture
from rnn_plugins.errors import UserError
from rnn_plugins.registry import make_cell
from rnn_plugins.reports.gradients import REACHED, crossing, fate_of, measure_flow
from rnn_plugins.reports.report import Chart, Curve, Page
from rnn_plugins.tasks.memory import BUILTIN, Memory
from rnn_plugins.tasks.task import Network

CELLS = ("rnn", "irnn", "gru", "lstm", "lstm-peephole", "lstm-coupled")
ADDING, COPY = (25, 50, 100, 200, 400), (20, 50)
EVERY, POSITIONS, CLIP = 100, 200, 1.0
"""Steps between evaluations, sequences over which the gradient is averaged, and the norm that it is clipped to."""

PAGE = Path(__file__).parents[1] / "docs" / "memory.md"
IMAGE = PAGE.parent / "images" / "lags.svg"
BEGIN, END = "<!-- made by benchmarks/lags.py -->\n", "<!-- end -->\n"
"""The lines of the page before and after what this script makes."""

Run = dict[str, Any]


def reach(problem: str, longest: int, model: Any, params: Any, lag: int) -> Run:
    """How far the gradient reaches along sequences of the longest lag.

    Returns:
        ``lag``, where 1 % is left, None if that is not within the sequences; ``left``, the share that is left after the
        run's own lag; ``fate``, in a word.
    """
    task = Memory(problem=problem, lag=longest)
    data = task.read([BUILTIN])
    probe = task.probe(model, params, data.valid, data.facts)
    try:
        flow = measure_flow(probe, probe.longest() - 1, POSITIONS)
    except UserError:  # the states overflow
        return {"fate": "explodes", "lag": None, "left": None}
    norms = flow.mean[flow.farthest].tolist()
    left = norms[min(lag, len(norms) - 1)] / next((norm for norm in norms if norm > 0), 1.0)
    fate, gone = fate_of(norms), crossing(norms, REACHED)
    return {"fate": fate, "lag": gone, "left": left if math.isfinite(left) else None, "within": len(norms) - 1}


def run(problem: str, lag: int, cell: str, seed: int, rate: float, arguments: argparse.Namespace) -> Run:
    """Train one network until it solves the problem, diverges, or has taken all its steps or its time."""
    task = Memory(problem=problem, lag=lag)
    data = task.read([f"{BUILTIN}:{seed}"])
    make = Network(lambda width: make_cell(cell, width, arguments.hidden, {}), arguments.hidden)
    model = task.model(data.facts, task.resolve(data.facts, make))
    optimizer, began = adam(), time.monotonic()
    params = model.init_params(np.random.default_rng(seed))
    result: Run = {"problem": problem, "lag": lag, "cell": cell, "seed": seed, "rate": rate}
    longest = max(arguments.lags if problem == "adding" else arguments.copy_lags)
    result["before"] = reach(problem, longest, model, params, lag)
    state = start(params, optimizer, (), np.random.default_rng(seed))
    batches = (task.batch(data, step, arguments.batch) for step in range(arguments.steps))
    steps = train(model.loss, state, batches, optimizer=optimizer, schedule=constant(rate), clip_norm=CLIP)
    found: dict[str, float] = {"loss": math.nan, "right": 0.0, "solved": 0.0}
    best = math.inf
    try:
        for step in steps:
            if step.step % EVERY == 0 or step.step == arguments.steps:
                found = task.evaluate(model, state.params, data.valid)
                best = min(best, found["loss"])
                if found["solved"] or time.monotonic() - began > arguments.seconds:
                    break
        result["after"] = reach(problem, longest, model, state.params, lag)
    except NotFinite:
        result["after"] = {"fate": "explodes", "lag": None, "left": None}
    result |= {"steps": state.step, "loss": best if math.isfinite(best) else None, "right": found["right"]}
    return result | {"solved": bool(found["solved"]), "seconds": round(time.monotonic() - began, 1)}


class Runs:
    """Those that are done, in a file.

    Attributes:
        content: the machine, the options, the words of the command that began them, and the runs.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.path: Path | None = arguments.json
        self.arguments = arguments
        options = {name: getattr(arguments, name) for name in ("hidden", "batch", "steps", "seconds")}
        command = shlex.join(word for word in sys.argv[1:] if word not in ("--json", str(self.path)))
        self.content: dict[str, Any] = {"machine": machine(), "options": options, "command": command, "runs": []}
        if self.path and self.path.exists():
            self.content = json.loads(self.path.read_text())
            if self.content["options"] != options and not arguments.page:
                raise SystemExit(f"{self.path} has runs with {self.content['options']}; asked for {options}")

    def get(self, problem: str, lag: int, cell: str, seed: int, rate: float) -> Run:
        """A run, done now if it is not there."""
        key = {"problem": problem, "lag": lag, "cell": cell, "seed": seed, "rate": rate}
        for known in self.content["runs"]:
            if key.items() <= known.items():
                return known  # type: ignore[no-any-return]
        done = run(problem, lag, cell, seed, rate, self.arguments)
        solved = "solved" if done["solved"] else f"loss {done['loss'] or math.nan:.4f}"
        console.print(f"{problem} {lag}, {cell}, seed {seed}, rate {rate:g}: {solved}, {done['steps']} steps")
        self.content["runs"].append(done)
        if self.path:
            self.path.write_text(json.dumps(self.content, indent=1) + "\n")
        return done


def best_of(runs: Runs, problem: str, lag: int, cell: str, seed: int, rates: Sequence[float]) -> Run:
    """The first run that solves a problem, or that with the least loss."""
    done: list[Run] = []
    for rate in rates:
        done.append(runs.get(problem, lag, cell, seed, rate))
        if done[-1]["solved"]:
            return done[-1]
    return min(done, key=lambda one: math.inf if one["loss"] is None else one["loss"])


def measured(arguments: argparse.Namespace) -> Runs:
    """All runs that are asked for."""
    runs = Runs(arguments)
    for seed in range(1, arguments.seeds + 1):
        for cell in arguments.cells:
            for lag in arguments.lags:
                if not best_of(runs, "adding", lag, cell, seed, arguments.rates)["solved"]:
                    break
            for lag in arguments.copy_lags:
                best_of(runs, "copy", lag, cell, seed, arguments.rates)
    return runs


# --- tables ----------------------------------------------------------------------------------------------------------


def chosen(runs: Iterable[Run], problem: str) -> dict[tuple[str, int], list[Run]]:
    """By cell and seed, the best run of each lag, from the shortest on."""
    by: dict[tuple[str, int, int], list[Run]] = defaultdict(list)
    for one in runs:
        if one["problem"] == problem:
            by[one["cell"], one["seed"], one["lag"]].append(one)
    found: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for (cell, seed, _), some in sorted(by.items(), key=lambda item: item[0][2]):
        best = min(some, key=lambda one: (not one["solved"], math.inf if one["loss"] is None else one["loss"]))
        found[cell, seed].append(best)
    return found


def cells_of(found: Iterable[tuple[str, int]]) -> list[str]:
    """The cells that occur, in their usual order."""
    return sorted({cell for cell, _ in found}, key=CELLS.index)


def longest(some: Sequence[Run]) -> int:
    """The longest lag that is solved; 0 if none is."""
    return max((one["lag"] for one in some if one["solved"]), default=0)


def spread(values: Sequence[float]) -> str:
    """The median, and the range where there is one."""
    low, middle, high = min(values), median(values), max(values)
    return f"{middle:g}" if low == high else f"{middle:g} ({low:g} to {high:g})"


def lag_of(one: Run, when: str) -> float:
    """The reach of a run's gradient in steps; the steps over which it was measured where it reaches further."""
    found = one[when]
    return float(found.get("within", one["lag"]) if found["lag"] is None else found["lag"])


def reaches(some: Sequence[Run], when: str) -> str:
    """The median reach of the gradient in runs, and how much of it is left after their lag."""
    if not some:
        return "-"
    over = "over " if sum(one[when]["lag"] is None for one in some) * 2 > len(some) else ""
    left = [one[when]["left"] for one in some if one[when]["left"] is not None]
    words = f"{over}{median(lag_of(one, when) for one in some):.0f}"
    words += f" ({median(left):.2g})" if left else ""
    exploding = sum(one[when]["fate"] == "explodes" for one in some)
    return words + (f", {exploding} of {len(some)} explode" if exploding else "")


def adding_table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """A row per cell: what it solves, and the reach of the gradient in its last solved and its first unsolved runs."""
    heads = ["cell", "longest lag solved", "steps that took", "reach before", "reach after, solved"]
    heads += ["first unsolved lag", "reach before, unsolved", "reach after, unsolved"]
    found, rows = chosen(runs, "adding"), []
    for cell in cells_of(found):
        mine = [some for (name, _), some in found.items() if name == cell]
        last = [max((o for o in some if o["solved"]), key=lambda o: o["lag"], default=None) for some in mine]
        solved = [one for one in last if one]
        failed = [one for some in mine for one in some if not one["solved"]]
        rows.append([
            cell,
            spread([longest(some) for some in mine]),
            spread([one["steps"] for one in solved]) if solved else "-",
            reaches(solved, "before"),
            reaches(solved, "after"),
            spread([one["lag"] for one in failed]) if failed else "-",
            reaches(failed, "before"),
            reaches(failed, "after"),
        ])  # fmt: skip
    return heads, rows


def copy_table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """A row per cell and lag: the loss as a share of that without memory, and the reach of the gradient."""
    heads = ["cell", "lag", "loss", "without memory", "share", "sequences right", "reach before", "reach after"]
    found, rows = chosen(runs, "copy"), []
    for cell in cells_of(found):
        by: dict[int, list[Run]] = defaultdict(list)
        for (name, _), some in found.items():
            for one in some if name == cell else ():
                by[one["lag"]].append(one)
        for lag, some in sorted(by.items()):
            without = 10 * math.log(8) / (lag + 20)
            losses = [math.inf if one["loss"] is None else one["loss"] for one in some]
            share, right = median(losses) / without, median(one["right"] for one in some)
            row = [cell, str(lag), f"{median(losses):.4f}", f"{without:.4f}", f"{share:.2f}", f"{right:.2f}"]
            rows.append([*row, reaches(some, "before"), reaches(some, "after")])
    return heads, rows


def odds(runs: Sequence[Run]) -> list[list[str]]:
    """How many runs of adding are solved, by whether 1 % of the gradient reaches the middle of the first half."""
    rows = []
    for when in ("before", "after"):
        for there, words in ((True, "reaches"), (False, "does not reach")):
            some = [
                one
                for mine in chosen(runs, "adding").values()
                for one in mine
                if (lag_of(one, when) >= 0.75 * one["lag"]) == there
            ]
            solved = sum(one["solved"] for one in some)
            rows.append([f"{words} 3/4 of the lag {when} training", str(len(some)), str(solved)])
    return rows


def correlation(runs: Sequence[Run]) -> float | None:
    """Spearman's rank correlation, over cells and seeds, of the longest lag solved and the reach before training."""
    pairs = [(longest(some), lag_of(some[-1], "before")) for some in chosen(runs, "adding").values()]
    ranks = [_ranks([pair[i] for pair in pairs]) for i in range(2)]
    if len(pairs) < 3 or any(len(set(some)) == 1 for some in ranks):
        return None
    return float(np.corrcoef(ranks)[0, 1])


def _ranks(values: Sequence[float]) -> list[float]:
    """The ranks of some values, the mean of their places where several are equal."""
    ordered = sorted(values)
    return [(ordered.index(v) + len(ordered) - 1 - ordered[::-1].index(v)) / 2 for v in values]


def chart(runs: Sequence[Run]) -> Page:
    """The reach of the gradient against the lag of each run of adding, before training and after."""
    every = [one for some in chosen(runs, "adding").values() for one in some]
    lags = np.array(sorted({one["lag"] for one in every}), float)
    figures = []
    for when in ("before", "after"):
        curves = [Curve("reach = lag", lags, lags, role="reference")]
        for words, solved in (("solved", True), ("not solved", False)):
            some = [one for one in every if one["solved"] == solved]
            x, y = np.array([one["lag"] for one in some], float), np.array([lag_of(one, when) for one in some])
            curves.append(Curve(words, x, y, role="points"))
        figures.append(
            Chart(
                f"lags-{when}",
                f"Reach {when} training, a point per run",
                "lag of the problem, steps",
                "lag at which 1 % is left, steps",
                tuple(curves),
                log_x=True,
                log_y=True,
            )
        )
    return Page("lags", "Adding: lags and gradients", "", ("",), figures=tuple(figures))


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def section(content: dict[str, Any]) -> str:
    """What the page shows of the runs."""
    runs, options, facts = content["runs"], content["options"], content["machine"]
    seeds = len({one["seed"] for one in runs})
    rates = ", ".join(f"{rate:g}" for rate in sorted({one["rate"] for one in runs}, reverse=True))
    command = f"python benchmarks/lags.py {content['command']}".strip()
    lines = [
        f"These are of `{command}`: {options['hidden']} units, batches of {options['batch']}, Adam at {rates} (the "
        f"best is shown), gradients clipped to the norm {CLIP:g}, at most {options['steps']:,} steps and "
        f"{options['seconds']:g} s a run; {'1 seed' if seeds == 1 else f'medians (and ranges) over {seeds} seeds'}. "
        f"{facts['processor']}.",
        "",
        "The reach is the lag at which 1 % of the gradient is left; in brackets, the share that is left after the "
        "lag of the run itself.",
        "",
        "**adding**",
        "",
        *markdown(*adding_table(runs)),
        "",
        "**copy**",
        "",
        *markdown(*copy_table(runs)),
        "",
        "**Runs of adding, and where the gradient reaches**",
        "",
        *markdown(["1 % of the gradient", "runs", "solved"], odds(runs)),
        "",
    ]
    if (rho := correlation(runs)) is not None:
        lines += ["Rank correlation, over cells and seeds, of the longest lag solved and the reach before training: "
                  f"{rho:.2f}."]  # fmt: skip
    return "\n".join(
        [*lines, "", "![the reach of the gradient against the lag, of solved and unsolved runs](images/lags.svg)", ""]
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cells", nargs="+", default=CELLS, choices=CELLS)
    options.add_argument("--lags", nargs="*", type=int, default=ADDING, help="of adding, ascending")
    options.add_argument("--copy-lags", nargs="*", type=int, default=COPY)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--rates", nargs="+", type=float, default=[5e-3, 1e-3], help="tried in this order")
    options.add_argument("--hidden", type=int, default=32)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--steps", type=int, default=3000)
    options.add_argument("--seconds", type=float, default=120, help="at most, a run")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--quick", action="store_true", help="short lags and few steps, as a test of the script")
    options.add_argument("--json", type=Path, metavar="FILE", help="the runs")
    options.add_argument("--page", action="store_true", help="write docs/memory.md from FILE, without any run")
    arguments = options.parse_args()
    if arguments.quick:
        arguments.lags, arguments.copy_lags, arguments.seeds, arguments.rates = (5, 10), (3,), 1, [5e-3]
        arguments.hidden, arguments.batch, arguments.steps = 16, 16, 200
    set_environment(arguments.threads)
    runs = Runs(arguments) if arguments.page else measured(arguments)
    table("adding", *adding_table(runs.content["runs"]))
    table("copy", *copy_table(runs.content["runs"]))
    table("adding: runs", ["1 % of the gradient", "runs", "solved"], odds(runs.content["runs"]))
    if arguments.page:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{section(runs.content)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
        IMAGE.write_bytes(picture([chart(runs.content["runs"])], "svg"))


if __name__ == "__main__":
    main()

"""Make docs/performance.md from the results that the other scripts have written with ``--json``.

    python benchmarks/report.py FOLDER > docs/performance.md

It reads ``FOLDER/*.json`` and rounds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

HEAD = """# Performance

Measured by the scripts in [benchmarks](../benchmarks/README.md), which describes how; this page is made by `python
benchmarks/report.py` from their results. Times are medians of whole training steps; ratios are our speed relative to
the peer's (above 1 we are faster). All contestants have the same model, parameters, batches and number of threads. "Of
np.dot's rate" is the rate of multiplications in our fastest step, everything included, relative to that of one large
product of NumPy: near 100 %, only fewer multiplications could be faster.
"""


def main() -> None:
    sections = {
        "train_step.py": ("A training step", by_problem),
        "foreign_cells.py": ("Cells that PyTorch does not have", by_problem),
        "third_axis.py": ("Cells with a third axis", third_axis),
        "sequences.py": ("Sequences of many lengths", sequences),
        "glimpses.py": ("Networks that look around and paint", glimpses),
        "planner.py": ("What the planner does", planner),
        "sampling.py": ("Sampling, batch 1", by_problem),
        "startup.py": ("Starting", plain),
        "memory.py": ("Memory by length", memory),
        "lengths.py": ("Batches of many sizes", lengths),
        "accuracy.py": ("Accuracy of float32", accuracy),
    }
    found = [json.loads(path.read_text()) for path in sorted(Path(sys.argv[1]).glob("*.json"))]
    print(HEAD)
    usual = described(found[0]["machine"])
    print(f"{usual}\n")
    for script, (title, render) in sections.items():
        contents = [content for content in found if content["script"] == script]
        if contents:
            print(f"## {title}\n")
            machine = described(contents[0]["machine"])
            on = "" if machine == usual else f", on another machine: {machine}"
            print(f"`benchmarks/{script}`, {contents[0]['date'][:10]}{on}\n")
            render([row for content in contents for row in content["results"]])
            print()


def described(facts: Mapping[str, Any]) -> str:
    """Processor, system and versions in a line."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"{facts['processor']}, {facts['cores']} cores; {facts['os']}; Python {facts['python']}, {versions}."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def by_problem(rows: Sequence[Row]) -> None:
    """One table per cell, one line per size, one column per contestant: its time, and our speed relative to it."""
    for (cell, layers), some in _grouped(rows, lambda row: (row["cell"], row["layers"])):
        problems = list(_grouped(some, lambda row: (row["hidden"], row["batch"], row["length"])))
        ours = [name for name in _names(some) if name.startswith("ours")]
        peers = [name for name in _names(some) if not name.startswith("ours")]
        best = "ours compiled" if "ours compiled" in ours else ours[-1]
        plural = f", {layers} layers" if layers > 1 else ""
        sampling = problems[0][0][2] == 1
        unit, scale = ("µs per character", 1000) if sampling else ("ms", 1)
        print(f"### `{cell}`{plural}, {unit}\n")
        lines = []
        for (hidden, batch, length), members in problems:
            known = {row["name"]: row for row in members if not row.get("error")}
            line = [str(hidden) if sampling else f"{hidden} x {batch} x {length}"]
            for name in (*ours, *peers):
                row = known.get(name)
                if row is None:
                    line.append("")
                    continue
                text = f"{scale * row['median']:.3g}"
                if name in peers:
                    ratios = [
                        f"{row['median'] / known[mine]['median']:.2f}" for mine in reversed(ours) if mine in known
                    ]
                    text += f" ({' / '.join(ratios)})"
                    if "compile" in name:
                        text += f", first step {row['first']:.0f} s"
                line.append(text)
            if best in known and "fraction" in known[best]:
                line.append(f"{known[best]['fraction']:.0%}")
            lines.append(line)
        order = " / ".join(name.removeprefix("ours ") for name in reversed(ours))
        head = ["H" if sampling else "H x B x T", *ours, *(f"{name} (speed of {order})" for name in peers)]
        if any(len(line) > len(head) for line in lines):
            head.append("of np.dot's rate")
        table(head, lines)
        print()


def third_axis(rows: Sequence[Row]) -> None:
    """Milliseconds per step on each loop and in PyTorch, and seconds of planning."""
    speed = [row for row in rows if row["table"] == "speed"]
    if speed:
        names, ratios = list(speed[0]["ms"]), list(speed[0]["speed"])
        lines = []
        for row in speed:
            times = [f"{row['ms'][name]:.3g}" if name in row["ms"] else "" for name in names]
            lines.append([row["name"], *times, *(f"{row['speed'].get(ratio, 0):.2f}" for ratio in ratios)])
        table(["ms", *names, *(f"speed, {ratio}" for ratio in ratios)], lines)
        print()
    planned = [row for row in rows if row["table"] == "planning"]
    if planned:
        names = list(planned[0]["seconds"])
        lines = [[row["name"], *(f"{row['seconds'].get(name, 0):.2f}" for name in names)] for row in planned]
        table(["planning, s", *names], lines)


def sequences(rows: Sequence[Row]) -> None:
    """One line per task and network: milliseconds per step, and our speed relative to PyTorch's."""

    def line(row: Row) -> list[str]:
        sizes = " x ".join(str(row[key]) for key in ("hidden", "embedding", "batch", "directions"))
        return [f"{row['task']}, {row['cell']}", sizes]

    against_torch(rows, ["", "H x E x B x directions"], line)


def glimpses(rows: Sequence[Row]) -> None:
    """The same for networks that read or paint images."""

    def line(row: Row) -> list[str]:
        without = "" if row["attention"] else " without attention"
        return [f"{row['task']}{without}, {row['cell']}", f"{row['hidden']} x {row['batch']}"]

    against_torch(rows, ["", "H x B"], line)


def against_torch(rows: Sequence[Row], head: list[str], line: Callable[[Row], list[str]]) -> None:
    """A table with a line per problem, which begins with what ``line`` says of a row."""
    names = _names(rows)
    ours = [name for name in reversed(names) if name.startswith("ours")]
    lines = []
    for first, some in _grouped(rows, line):
        known = {row["name"]: row for row in some if not row.get("error")}
        times = [f"{known[name]['median']:.3g}" if name in known else "" for name in names]
        speeds = [f"{known[name]['speed'].get('torch', 0):.2f}" if name in known else "" for name in ours]
        lines.append([*first, *times, *speeds])
    speeds = [f"speed, {name.removeprefix('ours ')} / torch" for name in ours]
    table([*head, *(f"{name}, ms" for name in names), *speeds], lines)


def planner(rows: Sequence[Row]) -> None:
    for (cell, hidden, batch, length), some in _grouped(
        rows, lambda row: (row["cell"], row["hidden"], row["batch"], row["length"])
    ):
        print(f"### `{cell}`, H {hidden}, B {batch}, T {length}\n")
        known = {row["name"]: row for row in some if "name" in row and not row.get("error")}
        best = known.get("compiled") or known["numpy"]
        lines = [[name, f"{row['median']:.3g}", f"{best['median'] / row['median']:.2f}"] for name, row in known.items()]
        table(["variant", "ms", "speed"], lines)
        for row in some:
            if "phases" in row:
                print("\nBy phase, ms:\n")
                table(["phase", "ms"], [[name, f"{value:.2f}"] for name, value in row["phases"].items()])
        print()


def plain(rows: Sequence[Row]) -> None:
    table(["", "ms", "quartiles"], [[row["name"], f"{row['median']:.0f}", _range(row["quartiles"])] for row in rows])


def memory(rows: Sequence[Row]) -> None:
    for (cell, hidden, batch), some in _grouped(rows, lambda row: (row["cell"], row["hidden"], row["batch"])):
        print(f"### `{cell}`, H {hidden}, B {batch}: megabytes more than before the first step\n")
        names = _names(some)
        lines = []
        for length, members in _grouped(some, lambda row: row["length"]):
            known = {row["name"]: row for row in members}
            used = [f"{(known[n]['peak'] - known[n]['before']) / 1e6:.0f}" if n in known else "" for n in names]
            lines.append([str(length), *used])
        table(["T", *names], lines)
        print()


def lengths(rows: Sequence[Row]) -> None:
    lines = []
    for row in rows:
        code, peak = (" -> ".join(str(round(n / unit)) for n in row[key]) for key, unit in (("code", 1), ("peak", 1e6)))
        times = [f"{row[key]:.2f}" for key in ("first epoch", "later epochs", "equal batches", "ratio")]
        lines.append([f"`{row['cell']}`, {row['backend']}", code, peak, *times])
    head = [
        "compiled files, first batch -> an epoch",
        "MB",
        "ms, first epoch",
        "later epochs",
        "equal batches",
        "ratio",
    ]
    table(["", *head], lines)


def accuracy(rows: Sequence[Row]) -> None:
    keys = [key for key, value in rows[0].items() if isinstance(value, float)]
    lines = [
        [f"`{row['cell']}`", str(row["hidden"]), row["name"], *(f"{row[key]:.1e}" for key in keys)] for row in rows
    ]
    table(["cell", "H", "", *keys], lines)


def _names(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row["name"] for row in rows if row["name"] != "np.dot"))


def _grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> Iterable[tuple[Any, list[Row]]]:
    return ((value, list(members)) for value, members in groupby(rows, key))


def _range(pair: Sequence[float]) -> str:
    return f"{pair[0]:.0f}-{pair[1]:.0f}"


if __name__ == "__main__":
    main()

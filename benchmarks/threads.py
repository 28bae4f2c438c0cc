"""Wall time of whole commands on NumPy by the number of BLAS threads: as chosen by ``rnn``, and as given.

Each is a new process, the settings in turn; first on an idle machine, then beside ``--others`` busy programs. A ratio
is the time as chosen over that of the best setting, the median of the rounds.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import Report, busy_share, parser, rest, table
from startup import RNN, whole

from minigrad.blas import VARIABLES

TEXT = "To be, or not to be, that is the question.\n" * 1500


def commands(hidden: int) -> dict[str, list[str]]:
    """The measured commands by name; some write what later ones read, so their order matters."""
    sizes, backend = ["--hidden-size", str(hidden)], ["--backend", "numpy"]
    cells = ["--cell", "rnn", "--cell", "lstm"]
    short = ["--steps", "20", "--seed", "1", "--quiet"]
    return {
        "train": ["train", "text.txt", "--cell", "lstm", *sizes, *short, *backend],
        "eval": ["eval", "first", *backend],
        "sample": ["sample", "first", "--length", "2000", "--seed", "1", *backend],
        "report": ["report", *cells, "text.txt", *sizes, "--lags", "20", "--positions", "300", *backend],
        "compare": ["compare", *cells, "text.txt", *sizes, *short[:-1], *backend],
        "cells check": ["cells", "check", "lstm"],
    }


def settings(most: int) -> dict[str, dict[str, str]]:
    """The environments, by name."""
    given = {f"{number} given": dict.fromkeys(VARIABLES, str(number)) for number in sorted({1, most})}
    return {"chosen": {}, **given}


@contextlib.contextmanager
def others(count: int) -> Iterator[None]:
    """Within this block so many other programs are busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def ratio(times: dict[str, list[float]]) -> float:
    """The time as chosen over that of the best setting: the median of the rounds'."""
    best = min(times, key=lambda name: statistics.median(times[name]))
    return statistics.median(own / its for own, its in zip(times["chosen"], times[best], strict=True))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--hidden", nargs="+", type=int, default=[128, 512])
    options.add_argument("--only", nargs="+", metavar="COMMAND", help="of train, eval, sample, report, compare, check")
    options.add_argument("--others", type=int, default=1, help="number of busy programs beside [1]")
    options.set_defaults(threads=os.cpu_count() or 1, rounds=3)
    arguments = options.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.hidden = 1, [64]
    report = Report(arguments)
    for variable in (*VARIABLES, "MINIGRAD_THREADS"):
        os.environ.pop(variable, None)
    plain = dict(os.environ)
    for hidden in arguments.hidden:
        rows: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "text.txt").write_text(TEXT)
            first = [*RNN, *commands(hidden)["train"], "--name", "first"]
            whole(first, folder)
            for name, command in commands(hidden).items():
                if arguments.only and name.split()[-1] not in arguments.only:
                    continue
                for beside in (0, arguments.others):
                    rests = [rest()]
                    with others(beside):
                        times: dict[str, list[float]] = {setting: [] for setting in settings(arguments.threads)}
                        for _ in range(arguments.rounds):
                            for setting, environment in settings(arguments.threads).items():
                                os.environ.clear()
                                os.environ.update(plain | environment)
                                times[setting].append(whole([*RNN, *command], folder))
                    share = busy_share(rests)
                    rows.append(
                        {
                            "command": name,
                            "hidden": hidden,
                            "beside": beside,
                            "seconds": times,
                            "ratio": ratio(times),
                            "others": share,
                        }
                    )
        report.add(rows)
        table(
            f"{hidden} units: seconds of a command, by the threads of BLAS",
            ["command", "beside", *settings(arguments.threads), "chosen / best", "others"],
            [
                [
                    row["command"],
                    f"{row['beside']} busy" if row["beside"] else "idle",
                    *(f"{statistics.median(seconds):.2f}" for seconds in row["seconds"].values()),
                    f"{row['ratio']:.2f}",
                    "" if row["others"] is None else f"{row['others']:.0%}",
                ]
                for row in rows
            ],
        )


if __name__ == "__main__":
    main()

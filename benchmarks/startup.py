"""Wall time of starting: the command's help, the imports, and ``rnn train`` up to the record of its first step.

Each is a new process, the kinds in turn. An empty Python program is one of them: its time is part of the others'.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from common import Report, Timing, available, busy_share, comparison, failure_noted, parser, rest

RNN = [sys.executable, "-c", "from rnn_cli.main import rnn; rnn()"]


def whole(command: list[str], folder: str) -> float:
    """Seconds until it has ended."""
    begin = time.perf_counter()
    ended = subprocess.run(command, cwd=folder, text=True, capture_output=True)
    seconds = time.perf_counter() - begin
    if ended.returncode:
        raise RuntimeError(ended.stderr.strip()[-500:])
    return seconds


def first_step(command: list[str], folder: str) -> float:
    """Seconds until it has written the record of a training step."""
    begin = time.perf_counter()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, text=True, **pipes) as process:
        found = any(line.startswith('{"step"') for line in process.stdout)
        seconds = time.perf_counter() - begin
        _, said = process.communicate()
    if not found:
        raise RuntimeError(f"no step was taken: {said.strip()[-500:]}")
    return seconds


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cells", nargs="+", default=["gru", "lstm"])
    arguments = options.parse_args()
    if arguments.quick:
        arguments.rounds = 3
    report = Report(arguments)
    kinds = {"python -c pass": partial(whole, [sys.executable, "-c", "pass"])}
    for module in ("numpy", "minigrad", *available(["torch"])):
        kinds[f"import {module}"] = partial(whole, [sys.executable, "-c", f"import {module}"])
    kinds["rnn --help"] = partial(whole, [*RNN, "--help"])
    for cell in arguments.cells:
        train = [*RNN, "train", "text.txt", "--cell", cell, "--steps", "2", "--log-every", "1", "--seed", "0", "--json"]
        kinds[f"rnn train, {cell}, first step"] = partial(first_step, train)
    timings = [Timing(name) for name in kinds]
    rests = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "text.txt").write_text("To be, or not to be, that is the question.\n" * 500)
        for number in range(arguments.rounds + 1):
            for timing, run in zip(timings, kinds.values(), strict=True):
                if timing.error:
                    continue
                rests.append(rest())
                with failure_noted(timing):
                    seconds = run(folder)
                    if number:  # the first round fills the disk's cache, and caches of compiled code
                        timing.milliseconds.append(1e3 * seconds)
                    else:
                        timing.first = seconds
    for timing in timings:
        timing.others = busy_share(rests)
    report.add(comparison("start", timings, ()))


if __name__ == "__main__":
    main()

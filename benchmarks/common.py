"""Shared by the benchmarks: the task, workers that take turns, the machine's description, tables and JSON."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from minigrad import blas, trees
from minigrad.optimizers import adam
from minigrad.scan import BACKENDS, use_backend
from minigrad.schedules import constant
from minigrad.training import start, train
from rnn_cells import Stacked
from rnn_lab.problem import Problem as Trained
from rnn_plugins.language.model import Model
from rnn_plugins.registry import entries, make_cell
from rnn_plugins.tasks.language_model import LanguageModel
from rnn_plugins.tasks.task import Data

VOCABULARY = 65
LEARNING_RATE = 1e-3
CLIP_NORM = 5.0
WARM_UP = 3
"""Steps before the first measured one; equal losses in them show that two contestants compute the same."""

SPIN, REST = 0.11, 0.04
"""Seconds between turns: idle threads of OpenBLAS and OpenMP spin for up to 0.1 s after their last call.

In the rest after that the cores should be idle; how busy they are is what other programs take.
"""

UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
MGU_FILE = Path(__file__).parent.parent / "plugins/examples/rnn-cell-mgu/rnn_cell_mgu.py"
OPTIONS: dict[str, dict[str, Any]] = {"gru": {"reset": "after"}}
"""The cells' options that make them the same as the peers'."""

PACKAGES = ("rnn-lab", "numpy", "llvmlite", "numba", "torch", "jax", "jaxlib", "autograd", "mygrad")
console = Console(width=None if sys.stdout.isatty() else 150)


@dataclass(frozen=True)
class Problem:
    """A language model and its batches: embedding (V, E), layers of one cell, linear head; T steps of B lanes.

    The symbols are random, since no time depends on them.
    """

    cell: str
    hidden: int
    batch: int
    length: int
    layers: int = 1
    embedding: int = 64

    def __str__(self) -> str:
        layers = f", {self.layers} layers" if self.layers > 1 else ""
        return f"{self.cell}, H {self.hidden}, B {self.batch}, T {self.length}{layers}"

    def model(self, dtype: str = "float32") -> Model:
        """Our model; the plugin's cell is loaded from its file if it is not installed."""
        installed = {entry.name for entry in entries("cells")}
        spec = self.cell if self.cell in installed or self.cell != "mgu" else f"{MGU_FILE}:MGU"
        options = OPTIONS.get(self.cell, {})
        sizes = [self.embedding] + [self.hidden] * (self.layers - 1)
        cells = [make_cell(spec, size, self.hidden, options) for size in sizes]
        return Model(cells[0] if self.layers == 1 else Stacked(cells), VOCABULARY, self.embedding, dtype=dtype)

    def ours(self, dtype: str = "float32") -> Trained:
        """It as our trainer takes it, on a text of eight batches."""
        tokens = np.random.default_rng(1).integers(VOCABULARY, size=8 * self.batch * self.length + 1)
        data = Data(tokens, tokens[:0], {})
        return Trained(LanguageModel(seq_length=self.length), self.model(dtype), data, self.batch)

    def params(self) -> Any:
        """The parameters that every contestant starts from."""
        return self.model().init_params(np.random.default_rng(0))

    def flops(self) -> int:
        """Of a step's matrix products: 6 T B times the elements of the cells' and the head's matrices.

        Each element is multiplied and added once in the forward pass and twice in the backward pass. The embedding is
        a table and counts nothing, and neither does anything elementwise.
        """
        params = self.params()
        matrices = [leaf for leaf in trees.leaves([params["cell"], params["head"]]) if leaf.ndim == 2]
        return 6 * self.length * self.batch * sum(leaf.size for leaf in matrices)


def backends() -> list[str]:
    """The time loops that this installation has, the slowest first."""
    found = []
    for name in BACKENDS:
        with contextlib.suppress(ModuleNotFoundError), use_backend(name):
            found.append(name)
    return found


_LASTING = contextlib.ExitStack()


def enter_backend(name: str) -> None:
    """Let our time loop be the one of that name for the rest of this process, a contestant's own.

    As in ``rnn train``, the threads of NumPy's products are chosen by ``minigrad.blas``: those of OpenBLAS spin after
    each product, and take the processors from the time loop's own threads, whose number is that of all contestants.
    """
    for variable in blas.VARIABLES:
        os.environ.pop(variable, None)
    _LASTING.enter_context(blas.managed())
    _LASTING.enter_context(use_backend(name))


def our_step(problem: Problem, backend: str) -> Callable[[], float]:
    """One training step a call, giving its loss."""
    enter_backend(backend)
    ours, optimizer = problem.ours(), adam()
    state = start(problem.params(), optimizer, ours.init_carry(), np.random.default_rng(0))
    batches = map(ours.batch, count())
    schedule = constant(LEARNING_RATE)
    records = train(ours.loss, state, batches, optimizer=optimizer, schedule=schedule, clip_norm=CLIP_NORM)
    return lambda: next(records).loss


def our_turns(make: Callable[[], Trained], batches: int, backend: str = "") -> Callable[[], float]:
    """A turn a call, through the same batches of a task, giving their mean loss.

    Args:
        make: makes the problem, once the backend is entered.
        batches: of a turn.
        backend: its name; the one that is set if empty.
    """
    if backend:
        enter_backend(backend)
    ours, optimizer = make(), adam()
    params = ours.init_params(np.random.default_rng(0))
    state = start(params, optimizer, ours.init_carry(), np.random.default_rng(0))
    several = map(ours.batch, cycle(range(batches)))
    schedule = constant(LEARNING_RATE)
    records = train(ours.loss, state, several, optimizer=optimizer, schedule=schedule, clip_norm=CLIP_NORM)
    return lambda: float(np.mean([record.loss for record in islice(records, batches)]))


def per_step(timing: Timing, steps: int) -> Timing:
    """Times of a turn of so many steps as those of one."""
    return replace(timing, milliseconds=[each / steps for each in timing.milliseconds])


def matrix_product(size: int = 2048) -> Callable[[], float]:
    """One large product a call: the rate that fractions refer to."""
    a, b = np.random.default_rng(0).random((2, size, size), np.float32)
    out = np.empty_like(a)

    def step() -> float:
        np.dot(a, b, out=out)
        return float(out[0, 0])

    return step


MATRIX_FLOPS = 2 * 2048**3


# Contestants in turn


@dataclass(frozen=True)
class Contestant:
    """``build(*arguments)``, called in its own process, returns a function that takes one step."""

    name: str
    build: Callable[..., Callable[[], Any]]
    arguments: tuple[Any, ...] = ()


@dataclass
class Turn:
    """What a worker did when it was asked: seconds for all the steps, what they gave, its peak memory in bytes."""

    seconds: float
    values: list[Any]
    peak: int


@dataclass
class Timing:
    """A contestant's result.

    Attributes:
        name: the contestant's.
        first: seconds of the first step, any compilation included.
        values: what the steps of the warm-up gave.
        milliseconds: of a step, one figure a round.
        others: the share of all cores that other programs kept busy during the race; None where that is unknown.
        error: why there is no result.
    """

    name: str
    first: float = 0.0
    values: list[Any] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    others: float | None = None
    error: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.milliseconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = statistics.quantiles(self.milliseconds, n=4, method="inclusive")
        return low, high

    def speed(self, peer: Timing) -> float:
        """How many times as fast as ``peer``: the median of the rounds' ratios, so that slow changes cancel."""
        pairs = zip(peer.milliseconds, self.milliseconds, strict=True)
        return statistics.median(theirs / own for theirs, own in pairs)


class Worker:
    """A process that takes steps when it is asked, and otherwise sleeps on its pipe."""

    def __init__(self, contestant: Contestant, threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fresh interpreter, which reads the environment anew
        self.pipe, other = context.Pipe()
        arguments = (other, contestant.build, contestant.arguments, threads)
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        other.close()
        self.rests: list[Ticks] = []

    def answer(self) -> Turn:
        """Wait for the turn that was asked for; the first, of no steps, comes when the contestant has been built.

        Raises:
            RuntimeError: it failed.
        """
        try:
            answer = self.pipe.recv()
        except EOFError:
            self.process.join()
            answer = f"the process ended with exit code {self.process.exitcode}"
        if isinstance(answer, Turn):
            return answer
        raise RuntimeError(answer)

    def take(self, steps: int) -> Turn:
        """Take that many steps, after a pause in which the others come to rest."""
        self.rests.append(rest())
        with contextlib.suppress(BrokenPipeError):  # answer() says how the process ended
            self.pipe.send(steps)
        return self.answer()

    def close(self) -> None:
        self.pipe.close()
        self.process.join()


def _serve(pipe: Any, build: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...], threads: int) -> None:
    if hasattr(os, "sched_setaffinity"):  # for libraries that only look at the cores they may use
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    try:
        step = build(*arguments)
        pipe.send(Turn(0.0, [], peak_memory()))
        while True:
            steps = pipe.recv()
            begin = time.perf_counter()
            values = [step() for _ in range(steps)]
            pipe.send(Turn(time.perf_counter() - begin, values, peak_memory()))
    except EOFError:
        pass
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def workers(contestants: Sequence[Contestant], threads: int) -> Iterator[list[Worker]]:
    """A process each, started together."""
    started = [Worker(contestant, threads) for contestant in contestants]
    try:
        yield started
    finally:
        for worker in started:
            worker.close()


def race(contestants: Sequence[Contestant], rounds: int, threads: int, block: float = 0.3) -> list[Timing]:
    """Let the contestants take turns: a warm-up, then ``rounds`` blocks of about ``block`` seconds each."""
    timings = [Timing(contestant.name) for contestant in contestants]
    with workers(contestants, threads) as started:
        running: list[tuple[Timing, Worker, int]] = []
        for timing, worker in zip(timings, started, strict=True):
            with failure_noted(timing):
                worker.answer()
        for timing, worker in zip(timings, started, strict=True):
            if timing.error:
                continue
            with failure_noted(timing):
                turns = [worker.take(1) for _ in range(WARM_UP)]
                timing.values = [turn.values[0] for turn in turns]
                timing.first = turns[0].seconds
                trial = worker.take(1 + int(0.05 / turns[-1].seconds))
                running.append((timing, worker, max(1, round(block * len(trial.values) / trial.seconds))))
        for _ in range(rounds):
            for timing, worker, steps in running:
                if not timing.error:
                    with failure_noted(timing):
                        turn = worker.take(steps)
                        timing.milliseconds.append(1e3 * turn.seconds / steps)
        others = busy_share([ticks for worker in started for ticks in worker.rests])
    for timing in timings:
        timing.others = others
    return timings


@contextlib.contextmanager
def failure_noted(timing: Timing) -> Iterator[None]:
    """A context in which a RuntimeError takes one contestant out, and leaves the others in."""
    try:
        yield
    except RuntimeError as error:
        timing.error = str(error)


Ticks = tuple[int, int]
"""Time that all cores together spent busy, and in all."""


def rest() -> Ticks:
    """Wait until idle threads have gone to sleep, and a little more: the ticks of that little, in which others run."""
    time.sleep(SPIN)
    busy, total = _ticks()
    time.sleep(REST)
    busy_now, total_now = _ticks()
    return busy_now - busy, total_now - total


def busy_share(rests: Sequence[Ticks]) -> float | None:
    """The share of the cores that other programs used while ours rested; None if unknown."""
    total = sum(ticks[1] for ticks in rests)
    return sum(ticks[0] for ticks in rests) / total if total else None


def _ticks() -> Ticks:
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0, 0
    ticks = [int(tick) for tick in stat.read_text().split("\n", 1)[0].split()[1:9]]
    idle, waiting = ticks[3:5]
    return sum(ticks) - idle - waiting, sum(ticks)


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would report the parent's peak where that was higher
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) << 10
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


# The command line, the machine, the results


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every script has."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="threads per contestant")
    result.add_argument("--rounds", type=int, default=9, help="blocks per contestant [9]")
    result.add_argument("--quick", action="store_true", help="one small size, three rounds, as a test of the script")
    result.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")
    return result


def set_environment(threads: int) -> list[str]:
    """Set the same environment for all children; return the variables that were removed."""
    removed = [f"{name}={os.environ.pop(name)}" for name in UNSET if name in os.environ]
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "MINIGRAD_THREADS"):
        os.environ[name] = str(threads)
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # a compile time is told as on the first day
    return removed


def available(names: Sequence[str]) -> list[str]:
    """Those of the packages that are installed; says which are not."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        console.print(f"not installed, left out: {', '.join(missing)}")
    return [name for name in names if name not in missing]


class Report:
    """The tables on the screen, and as JSON, rewritten whenever a row is added."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.path: Path | None = arguments.json
        removed = set_environment(arguments.threads)
        self.content = {
            "script": Path(sys.argv[0]).name,
            "options": {name: value for name, value in vars(arguments).items() if name != "json"},
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "unset": removed,
            "backends": backends(),
            "results": [],
        }
        facts = self.content["machine"]
        console.print(f"{facts['processor']}, {facts['cores']} cores, {arguments.threads} threads each; {facts['os']}")
        console.print(f"Python {facts['python']}, " + ", ".join(f"{k} {v}" for k, v in facts["versions"].items()))
        if removed:
            console.print(f"[yellow]unset for all contestants: {', '.join(removed)}[/yellow]")

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep rows of a table, as dicts of JSON's types."""
        self.content["results"] += rows
        if self.path:
            self.path.write_text(json.dumps(self.content, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "os": f"{platform.system()} {platform.machine()}, {'.'.join(filter(None, platform.libc_ver()))}",
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    fields = {}
    if info.exists():
        pairs = [line.split(":", 1) for line in info.read_text().split("\n\n")[0].splitlines() if ":" in line]
        fields = {key.strip(): value.strip() for key, value in pairs}
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    widest = next((name for name in ("avx512f", "avx2", "avx") if name in fields.get("flags", "").split()), "no AVX")
    model, family = fields.get("model"), fields.get("cpu family")
    return f"{fields['model name']} (family {family}, model {model}, {widest})"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table with numbers aligned right."""
    drawn = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        drawn.add_column(column, justify="right" if i else "left", no_wrap=i == 0)
    for row in rows:
        drawn.add_row(*map(str, row))
    console.print(drawn)


def comparison(
    title: str, timings: Sequence[Timing], peers: Sequence[str], flops: int = 0, unit: str = "ms"
) -> list[dict[str, Any]]:
    """Print a race and give its rows for JSON.

    Args:
        title: of the table.
        timings: as ``race`` gives them; the first one's values are what the others' are held against.
        peers: whose speed is 1, a column each.
        flops: of a step; with it, one of the timings is ``np.dot``, and the last column is the fraction of its rate.
        unit: of the printed times, ms or µs.
    """
    by_name = {timing.name: timing for timing in timings}
    peers = [name for name in peers if name in by_name and not by_name[name].error]
    matrix = by_name.pop("np.dot", None)
    scale = {"ms": 1, "µs": 1000}[unit]
    rate = MATRIX_FLOPS / matrix.median / 1e6 if matrix else 0.0
    first = next((timing for timing in timings if not timing.error), None)
    rows, shown = [], []
    for timing in by_name.values():
        row: dict[str, Any] = asdict(timing)
        rows.append(row)
        if timing.error:
            console.print(f"[red]{timing.name}: {timing.error}[/red]", highlight=False)
            continue
        low, high = timing.quartiles
        row |= {"median": timing.median, "quartiles": [low, high]}
        row["speed"] = {name: timing.speed(by_name[name]) for name in peers}
        printed = [f"{scale * value:.4g}" for value in (timing.median, low, high)]
        line = [timing.name, printed[0], f"{printed[1]}-{printed[2]}", f"{timing.first:.2f}"]
        line += [f"{ratio:.2f}" for ratio in row["speed"].values()]
        if flops:
            row["gigaflops"] = flops / timing.median / 1e6
            row["fraction"] = row["gigaflops"] / rate
            row["difference"] = abs(timing.values[-1] - first.values[-1]) if first else 0.0
            line += [f"{row['difference']:.1g}", f"{row['gigaflops']:.1f}", f"{row['fraction']:.0%}"]
        shown.append(line)
    if timings[0].others is not None and timings[0].others > 0.05:
        console.print(f"[yellow]disturbed: other programs kept {timings[0].others:.0%} of the cores busy[/yellow]")
    columns = ["", unit, "quartiles", "first, s", *(f"{name} = 1" for name in peers)]
    if flops:
        title += f"; np.dot {rate:.0f} GF/s"
        columns += [f"loss {WARM_UP}, off by", "GF/s", "of np.dot"]
    table(title, columns, shown)
    return rows

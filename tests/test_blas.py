"""The number of threads of matrix products, on a fake BLAS with given times."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from minigrad import blas, mean, value_and_grad
from minigrad.blas import Counts
from minigrad.scan import numpy_backend, plans, scan, use_backend
from rnn_cells.lstm import LSTM

BIG, LITTLE = (2048, 512, 64), (512, 128, 32)


@dataclass
class Library:
    """A BLAS."""

    num_threads: int = 8
    internal_api: str = "openblas"
    version: str = "0.3"
    architecture: str = "Haswell"

    def set_num_threads(self, number: int) -> None:
        self.num_threads = number


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    library = Library()
    for variable in blas.VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MINIGRAD_THREADS", "8")
    monkeypatch.setattr(blas, "_state", blas._State())
    monkeypatch.setattr(blas, "_libraries", lambda: [library])
    return library


@pytest.fixture
def clock(library: Library, monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """What one product takes with each number of threads, in seconds, as the module's clock has it."""
    seconds = {1: 4e-3, 2: 2.1e-3, 4: 1.2e-3, 8: 1.1e-3}
    now = [0.0]

    def matmul(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
        now[0] += seconds[library.num_threads]

    monkeypatch.setattr(blas.np, "matmul", matmul)
    monkeypatch.setattr(blas.time, "perf_counter", lambda: now[0])
    return seconds


def loop(library: Library, clock: dict[int, float]) -> Callable[[], int]:
    """A time loop of a hundred products; it gives the number of threads that it had."""

    def call() -> int:
        for _ in range(100):
            blas.np.matmul(None, None, None)  # type: ignore[call-overload]
        return library.num_threads

    return call


def test_one_thread_and_afterwards_as_before(library: Library) -> None:
    with blas.managed():
        assert library.num_threads == 1
        with blas.managed():
            assert library.num_threads == 1
        assert library.num_threads == 1
    assert library.num_threads == 8


def test_blocks_that_overlap_as_those_of_threads_do(library: Library) -> None:
    one, two = blas.managed(), blas.managed()
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    assert library.num_threads == 1
    two.__exit__(None, None, None)
    assert library.num_threads == 8


@pytest.mark.parametrize("variable", blas.VARIABLES)
def test_what_the_user_says_holds(library: Library, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "8")
    monkeypatch.setattr(blas, "best_of", lambda *_: pytest.fail("measured"))
    with blas.managed():
        assert blas.run(lambda: library.num_threads, BIG, "loop", 10) == 8
    assert blas.counts() == Counts(8, 8)


@pytest.mark.parametrize(
    ("seconds", "most", "expected"),
    [
        ({}, 8, 4),  # eight are hardly faster
        ({2: 3.9e-3}, 8, 1),
        ({2: 30e-3}, 8, 1),  # a busy machine
        ({8: 0.6e-3}, 8, 8),
        ({6: 0.6e-3}, 6, 6),
        ({}, 2, 2),
        ({}, 1, 1),
    ],
)
def test_as_many_as_pay(clock: dict[int, float], seconds: dict[int, float], most: int, expected: int) -> None:
    clock.update(seconds)
    assert blas.best_of(BIG, most) == expected


def test_to_measure_takes_little(clock: dict[int, float]) -> None:
    started = blas.time.perf_counter()
    clock[2] = 50e-3
    blas.best_of(BIG, 8)
    assert blas.time.perf_counter() - started < 0.2


def test_large_products_are_measured_once(
    library: Library, clock: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[int, int, int]] = []
    best_of = blas.best_of
    monkeypatch.setattr(blas, "best_of", lambda shape, most: (measured.append(shape), best_of(shape, most))[1])
    call = loop(library, clock)
    with blas.managed():
        assert blas.run(call, LITTLE, "loop", 100) == 1
        assert measured == []
        assert [blas.run(call, BIG, "loop", 100) for _ in range(5)] == [4] * 5
        assert blas.run(call, LITTLE, "loop", 100) == 1
        assert library.num_threads == 1
    assert measured == [BIG]
    assert blas.counts() == Counts(1, 4)
    assert library.num_threads == 8


def test_nobody_s_threads_are_touched_outside(library: Library) -> None:
    assert blas.run(lambda: library.num_threads, BIG, "loop", 10) == 8


def test_where_the_speed_falls_it_is_measured_again(library: Library, clock: dict[int, float]) -> None:
    call = loop(library, clock)
    with blas.managed():
        assert [blas.run(call, BIG, "loop", 100) for _ in range(10)] == [4] * 10
        clock.update({2: 20e-3, 4: 40e-3, 8: 90e-3})  # somebody else computes
        assert [blas.run(call, BIG, "loop", 100) for _ in range(5)] == [4, 4, 4, 1, 1]
        clock.update({4: 1e-3})
        assert blas.run(call, BIG, "loop", 100) == 1


def test_one_slow_loop_is_no_fall(library: Library, clock: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> None:
    call = loop(library, clock)
    with blas.managed():
        blas.run(call, BIG, "loop", 100)
        monkeypatch.setattr(blas, "best_of", lambda *_: pytest.fail("measured"))
        for four in (1.2e-3, 5e-3, 5e-3, 1.2e-3, 5e-3, 5e-3, 1.2e-3):
            clock[4] = four
            blas.run(call, BIG, "loop", 100)


def test_within_a_steady_block_counts_change_only_by_adopt(library: Library, clock: dict[int, float]) -> None:
    call = loop(library, clock)
    with blas.steady(), blas.managed():
        assert blas.adopt() == Counts(1, 1)
        assert [blas.run(call, BIG, "loop", 100) for _ in range(2)] == [1, 1]
        assert blas.adopt() == Counts(1, 4)
        assert blas.run(call, BIG, "loop", 100) == 4


def test_fixed_counts_are_not_measured(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "best_of", lambda *_: pytest.fail("measured"))
    with blas.steady(), blas.managed():
        blas.fix(Counts(1, 3))
        assert blas.adopt() == Counts(1, 3)
        assert blas.run(lambda: library.num_threads, BIG, "loop", 10) == 3


def test_what_it_began_with_is_taken_unless_it_does_not_pay(library: Library, clock: dict[int, float]) -> None:
    call = loop(library, clock)
    with blas.managed():
        blas.begin_with(Counts(1, 2))
        assert blas.run(call, BIG, "loop", 100) == 2
        clock[2] = 20e-3
        blas.begin_with(Counts(1, 2))
        assert blas.run(call, BIG, "loop", 100) == 1
        blas.begin_with(Counts(1, 1))
        clock[2] = 1e-3
        assert blas.run(call, BIG, "loop", 100) == 1


def test_without_a_library_that_is_known(monkeypatch: pytest.MonkeyPatch, library: Library) -> None:
    monkeypatch.setattr(blas, "_libraries", list)
    with blas.managed():
        assert blas.run(lambda: 7, BIG, "loop", 10) == 7
    assert blas.name() == "unknown"


def test_the_library_has_a_name(library: Library) -> None:
    assert blas.name() == "openblas 0.3 Haswell"


def test_a_planned_loop_asks_with_its_products(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[tuple[int, int, int], int, int]] = []

    def best_of(shape: tuple[int, int, int], most: int) -> int:
        return 2

    run = blas.run

    def spy(call: Callable[[], object], product: tuple[int, int, int], kind: object, steps: int) -> object:
        asked.append((product, steps, run(lambda: library.num_threads, product, kind, steps)))
        return run(call, product, kind, steps)

    monkeypatch.setattr(blas, "best_of", best_of)
    monkeypatch.setattr(numpy_backend.blas, "run", spy)
    monkeypatch.setattr(plans, "_plans", type(plans._plans)())
    cell = LSTM(64, 256)
    params, xs = cell.init_params(np.random.default_rng(0)), np.ones((5, 32, 64), np.float32)
    with use_backend("numpy"), blas.managed():
        value_and_grad(lambda p: mean(scan(cell, p, cell.init_carry(32), xs)[1]))(params)
    assert asked == [((1280, 256, 32), 5, 2)] * 2

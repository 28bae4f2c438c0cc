"""Tasks on several threads: all run once, none runs afterwards, and no interruption leaves anything half-done."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from minigrad.compiled.parallel import in_parallel
from minigrad.scan import available_backends

pytestmark = pytest.mark.skipif("compiled" not in available_backends(), reason="needs the extra jit")


@contextmanager
def busy_worker() -> Iterator[None]:
    """Within this block another thread's job keeps the worker that a job of two tasks is given."""
    began, free = threading.Event(), threading.Event()

    def keep() -> None:
        began.set()
        free.wait()

    other = threading.Thread(target=in_parallel, args=([free.wait, keep],))
    other.start()
    began.wait()
    try:
        yield
    finally:
        free.set()
        other.join()


def test_an_error_reaches_the_caller_and_is_then_forgotten() -> None:
    began = threading.Event()

    def fails() -> None:
        began.set()
        raise ValueError("no")

    ran: list[int] = []
    with pytest.raises(ValueError, match="no"):
        in_parallel([began.wait, fails])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no"):
        in_parallel([fails, fails])
    in_parallel(notes(ran, 2))
    assert sorted(ran) == [0, 1]


def test_an_interruption_waits_for_what_still_runs() -> None:
    began, ended = threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        threading.Event().wait(0.3)
        ended.set()

    def interrupted() -> None:
        began.wait()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_parallel([interrupted, slow])
    assert ended.is_set()
    ran: list[int] = []
    in_parallel(notes(ran, 2))
    assert sorted(ran) == [0, 1]


def test_a_task_that_nobody_has_begun_is_called_off() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    ran: list[int] = []
    with busy_worker(), pytest.raises(KeyboardInterrupt):
        in_parallel([interrupted, *notes(ran, 1)])
    in_parallel(notes(ran, 2))
    assert sorted(ran) == [0, 1]


def test_a_worker_that_is_busy_is_not_waited_for() -> None:
    ran: list[int] = []
    with busy_worker():
        in_parallel(notes(ran, 3))
    assert sorted(ran) == [0, 1, 2]


def test_a_task_may_share_its_own_work() -> None:
    ran: list[int] = []
    in_parallel([lambda: in_parallel(notes(ran, 2)), *notes(ran, 1)])
    assert sorted(ran) == [0, 0, 1]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that interrupts")
@pytest.mark.parametrize("work", ["drawing", "tasks"])
def test_it_may_be_interrupted_at_any_moment(work: str) -> None:
    """In a process of its own, which ends itself where it hangs."""
    script = Path(__file__).with_name("interrupted.py")
    ended = subprocess.run([sys.executable, script, work], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def notes(ran: list[int], count: int) -> list[Callable[[], None]]:
    """Tasks that write their numbers down."""
    return [lambda i=i: ran.append(i) for i in range(count)]  # type: ignore[misc]

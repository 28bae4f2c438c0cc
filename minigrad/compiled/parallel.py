"""Work shared by threads: how many there are, and tasks that run at the same time.

What is shared, and where it is cut, its owner decides.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any


def threads() -> int:
    """How many threads share the work: as many as this process may use processors, or ``MINIGRAD_THREADS``.

    Raises:
        ValueError: that variable holds something else than a number.
    """
    if given := os.environ.get("MINIGRAD_THREADS"):
        return max(1, int(given))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker(threading.Thread):
    """A thread that waits for a task, runs it, says so, and waits again.

    Two bare locks pass tasks on in a few microseconds; an executor with its futures takes several times as long, and a
    small training step passes on a dozen tasks.
    """

    def __init__(self) -> None:
        super().__init__(name="minigrad", daemon=True)
        self.task: Callable[[], Any] | None = None
        self.error: BaseException | None = None
        self.given, self.done = threading.Lock(), threading.Lock()
        self.given.acquire()
        self.done.acquire()
        self.start()

    def run(self) -> None:
        """Work, as long as the process lives."""
        while True:
            self.given.acquire()
            try:
                assert self.task is not None
                self.task()
            except BaseException as error:
                self.error = error
            self.task = None
            self.done.release()


_workers: list[_Worker] = []
_busy = threading.Lock()


def _forget() -> None:
    """In a process that was forked the threads are gone, and whoever held the lock with them."""
    global _busy
    _workers.clear()
    _busy = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def in_parallel(tasks: Sequence[Callable[[], Any]]) -> None:
    """Run all tasks, the first on this thread; machine code holds no lock, so the others run beside it.

    A second caller at the same time, on a thread of its own, runs its tasks one after the other.
    """
    if len(tasks) < 2 or not _busy.acquire(blocking=False):
        for task in tasks:
            task()
        return
    try:
        while len(_workers) < len(tasks) - 1:
            _workers.append(_Worker())
        used = _workers[: len(tasks) - 1]
        for worker, task in zip(used, tasks[1:], strict=True):
            worker.task = task
            worker.given.release()
        try:
            tasks[0]()
        finally:
            for worker in used:
                worker.done.acquire()
            errors = [worker.error for worker in used if worker.error is not None]
            for worker in used:
                worker.error = None
        if errors:
            raise errors[0]
    finally:
        _busy.release()

"""Work shared by threads: how many there are, and tasks that run at the same time.

What is shared, and where it is cut, its owner decides.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from minigrad.compiled import jit


def threads() -> int:
    """How many threads share the work: as many as this process may use processors, or ``MINIGRAD_THREADS``.

    Raises:
        ValueError: that variable holds something else than a number.
    """
    if given := os.environ.get("MINIGRAD_THREADS"):
        return max(1, int(given))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


PATIENCE = 10_000
"""How often a thread looks whether there is news before it goes to sleep: half a millisecond, more or less.

To wake a sleeping thread takes the system a tenth of that, and a training step passes on a dozen tasks with less than
half a millisecond between them.
"""

ASLEEP = 0.2
"""Seconds after which a sleeping thread looks again, in case it was interrupted when it should have been woken."""

_LOOK = """
define void @look(ptr %word, i64 %old, i64 %times) {{
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %wait]
  %now = load atomic i64, ptr %word acquire, align 8
  %same = icmp eq i64 %now, %old
  br i1 %same, label %wait, label %end
wait:{pause}
  %i1 = add i64 %i, 1
  %more = icmp ult i64 %i1, %times
  br i1 %more, label %loop, label %end
end:
  ret void
}}
"""
_PAUSE = "\n  call void @llvm.x86.sse2.pause()"


@functools.cache
def _look() -> Any:
    """Machine code that looks at a word until it changes, or for some time: without Python's lock, unlike Python."""
    pause = _PAUSE if jit.is_x86() else ""
    text = ("declare void @llvm.x86.sse2.pause()" if pause else "") + _LOOK.format(pause=pause)
    library = jit.compile_ir(text)
    function: Any = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(library.address("look"))
    function.library = library  # which must live as long
    return function


class _Worker(threading.Thread):
    """A thread that waits for a task, runs it, says so, and waits again.

    Two counts say how many tasks came and how many are done, each written by one side alone. The locks only wake a
    sleeper; whatever becomes of them when somebody is interrupted, the counts stay right.
    """

    def __init__(self) -> None:
        super().__init__(name="minigrad", daemon=True)
        self.task: Callable[[], Any] | None = None
        self.error: BaseException | None = None
        self.counts = (ctypes.c_int64 * 16)()  # the second is a cache line further
        self.given, self.done = threading.Lock(), threading.Lock()
        self.given.acquire()
        self.done.acquire()
        self.start()

    def _until(self, place: int, old: int, bell: threading.Lock) -> None:
        """Return when a count is no longer ``old``."""
        while self.counts[place] == old:
            _look()(ctypes.addressof(self.counts) + 8 * place, old, PATIENCE)
            if self.counts[place] == old:
                bell.acquire(timeout=ASLEEP)

    def give(self, task: Callable[[], Any]) -> None:
        """Let the thread run a task."""
        self.task = task
        self.counts[0] += 1
        _ring(self.given)

    def wait(self) -> None:
        """Until the task is done, even if somebody interrupts: it uses memory that is given back afterwards."""
        interrupted: BaseException | None = None
        while self.counts[8] != self.counts[0]:
            try:
                self._until(8, self.counts[0] - 1, self.done)
            except KeyboardInterrupt as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def run(self) -> None:
        """Work, as long as the process lives."""
        while True:
            self._until(0, self.counts[8], self.given)
            try:
                assert self.task is not None
                self.task()
            except BaseException as error:
                self.error = error
            self.task = None
            self.counts[8] += 1
            _ring(self.done)


def _ring(bell: threading.Lock) -> None:
    """Wake whoever sleeps at a lock."""
    with suppress(RuntimeError):  # it rings already
        bell.release()


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
    used: list[_Worker] = []
    try:
        try:
            for i, task in enumerate(tasks[1:]):
                if i == len(_workers):
                    _workers.append(_Worker())
                used.append(_workers[i])
                _workers[i].give(task)
            tasks[0]()
        finally:
            for worker in used:
                worker.wait()
            errors = [worker.error for worker in used if worker.error is not None]
            for worker in used:
                worker.error = None
        if errors:
            raise errors[0]
    finally:
        _busy.release()

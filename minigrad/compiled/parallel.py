"""Work shared by threads: how many there are, and tasks that run at the same time.

What is shared, and where it is cut, its owner decides.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable, Sequence
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


PATIENCE = 200_000
"""Processor cycles, a tenth of a millisecond, for which a thread looks whether there is news before it goes to sleep.

To wake a sleeping thread takes the system up to a tenth of a millisecond too, and a training step passes on a dozen
tasks with less than that between them.
"""

_LOOK = """
declare i64 @llvm.readcyclecounter()

define void @look(ptr %word, i64 %old, i64 %cycles) {{
entry:
  %start = call i64 @llvm.readcyclecounter()
  br label %loop
loop:
  %now = load atomic i64, ptr %word acquire, align 8
  %same = icmp eq i64 %now, %old
  br i1 %same, label %wait, label %end
wait:{pause}
  %time = call i64 @llvm.readcyclecounter()
  %past = sub i64 %time, %start
  %more = icmp ult i64 %past, %cycles
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
    """A thread that waits for a task, runs it, says so, and waits again."""

    def __init__(self) -> None:
        super().__init__(name="minigrad", daemon=True)
        self.task: Callable[[], Any] | None = None
        self.error: BaseException | None = None
        self.given, self.done = threading.Lock(), threading.Lock()
        self.given.acquire()
        self.done.acquire()
        self.counts = (ctypes.c_int64 * 16)()  # how many tasks came, and a cache line further how many are done
        self.address = ctypes.addressof(self.counts)
        self.look = _look()
        self.start()

    def give(self, task: Callable[[], Any]) -> None:
        """Let the thread run a task."""
        self.task = task
        self.counts[0] += 1
        self.given.release()

    def wait(self) -> None:
        """Until the task is done."""
        if self.counts[8] != self.counts[0]:
            self.look(self.address + 64, self.counts[0] - 1, PATIENCE)
        self.done.acquire()

    def run(self) -> None:
        """Work, as long as the process lives."""
        while True:
            if self.counts[0] == self.counts[8]:
                self.look(self.address, self.counts[8], PATIENCE)
            self.given.acquire()
            try:
                assert self.task is not None
                self.task()
            except BaseException as error:
                self.error = error
            self.task = None
            self.counts[8] += 1
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
            worker.give(task)
        try:
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

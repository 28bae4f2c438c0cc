"""Threads that run tasks in parallel."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from minigrad.compiled import jit
from minigrad.compiled.llvm import Function, module


def threads() -> int:
    """The number of threads: the processors this process may use, or ``MINIGRAD_THREADS``.

    Raises:
        ValueError: that variable is not a number.
    """
    if given := os.environ.get("MINIGRAD_THREADS"):
        return max(1, int(given))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


PATIENCE = 10_000
"""Number of polls for a new job before a thread sleeps: about half a millisecond.

Waking a sleeping thread takes the system a tenth of that, and a training step issues a dozen tasks less than half a
millisecond apart.
"""

FREE, TAKEN, DONE, OWN = range(4)
"""States of a task: not started, run by a worker, finished or cancelled, run by its owner."""


class _Code(NamedTuple):
    """Machine code for atomic access to words of memory.

    Attributes:
        poll: ``(word, old, times)`` returns when the word is no longer ``old``, or after so many polls. It does not
            hold the GIL.
        take: ``(words, count, as)`` writes ``as`` to the first word that is FREE, and returns its index; -1 without
            one.
        close: ``(words, count)`` writes DONE to all that are FREE, and returns when none is TAKEN.
    """

    poll: Callable[[int, int, int], None]
    take: Callable[[int, int, int], int]
    close: Callable[[int, int], None]
    library: jit.Library  # keeps the library alive


@functools.cache
def _code() -> _Code:
    library = jit.compile_ir(_ir())
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    return _Code(
        ctypes.CFUNCTYPE(None, pointer, number, number)(library.address("poll")),
        ctypes.PYFUNCTYPE(number, pointer, number, number)(library.address("take")),
        ctypes.CFUNCTYPE(None, pointer, number)(library.address("close")),
        library,
    )


def _ir() -> str:
    """The functions of ``_Code``. They must not be interrupted, and Python handles signals only between calls."""
    poll = Function("poll", "i64* word, i64 old, i64 times")
    word, old, times = poll.parameters
    with poll.loop(0, times):
        with poll.when(word.load_acquire().compare("ne", old)):
            poll.give()
        if jit.is_x86():
            poll.call("void", "llvm.x86.sse2.pause")

    take = Function("take", "i64* words, i64 count, i64 as", returns="i64")
    words, count, state = take.parameters
    with take.loop(0, count) as i, take.when((words + i).exchange(FREE, state)):
        take.give(i)
    take.give(-1)

    close = Function("close", "i64* words, i64 count")
    words, count = close.parameters
    with close.loop(0, count) as i:
        word = words + i
        word.exchange(FREE, DONE)
        with close.forever():
            close.call("void", "poll", word, TAKEN, PATIENCE)
            with close.when(word.load_acquire().compare("ne", TAKEN)):
                close.leave()
            if os.name == "posix":
                close.call("i32", "usleep", close.constant("i32", 50))
    return module(poll, take, close)


class _Job:
    """Tasks, each run once by the first thread to take it.

    Attributes:
        tasks: all of them.
        words: the state of each, for machine code.
        errors: the errors of tasks run by workers.
    """

    def __init__(self, tasks: Sequence[Callable[[], Any]]) -> None:
        self.tasks = tasks
        self.words = (ctypes.c_int64 * len(tasks))()
        self.errors: list[BaseException] = []

    def taken(self, state: int) -> Iterator[int]:
        """The indices of free tasks, each marked TAKEN or OWN for the caller on iteration."""
        return iter(functools.partial(_code().take, ctypes.addressof(self.words), len(self.words), state), -1)


class _Worker(threading.Thread):
    """A thread that helps with its last job, and waits for the next."""

    def __init__(self) -> None:
        super().__init__(name="minigrad", daemon=True)
        self.job: _Job | None = None
        self.news = (ctypes.c_int64 * 8)()  # the first counts jobs; the others pad its cache line
        self.bell = threading.Lock()
        self.bell.acquire()
        self.start()

    def give(self, job: _Job) -> None:
        """Offer a job to the thread; the caller does not wait if it does not help."""
        self.job = job
        self.news[0] += 1
        with suppress(RuntimeError):  # already signalled
            self.bell.release()

    def run(self) -> None:
        """Work until the process ends."""
        poll = _code().poll
        while True:
            seen = self.news[0]
            if self.job is not None:
                self._help(self.job)
            poll(ctypes.addressof(self.news), seen, PATIENCE)
            if self.news[0] == seen:
                self.bell.acquire()

    def _help(self, job: _Job) -> None:
        for i in job.taken(TAKEN):
            try:
                job.tasks[i]()
            except BaseException as error:
                job.errors.append(error)
            job.words[i] = DONE


_workers: list[_Worker] = []

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.clear)  # a forked process has none of the threads


def in_parallel(tasks: Sequence[Callable[[], Any]]) -> None:
    """Run all tasks, the first on this thread; machine code does not hold the GIL, so the others run in parallel.

    This thread also runs tasks that no other thread has started, so it waits only for running tasks. When it returns,
    no task is running or will run; after an exception, some may not have run.
    """
    if len(tasks) < 2:
        for task in tasks:
            task()
        return
    job = _Job(tasks)
    job.words[0] = OWN
    close, words, count = _code().close, ctypes.addressof(job.words), len(tasks)
    try:
        while len(_workers) < count - 1:
            _workers.append(_Worker())
        for worker in _workers[: count - 1]:
            worker.give(job)
        tasks[0]()
        for i in job.taken(OWN):
            tasks[i]()
    finally:
        close(words, count)  # first, before any signal is handled: tasks use memory that is released
        job.tasks = ()
    if job.errors:
        raise job.errors[0]

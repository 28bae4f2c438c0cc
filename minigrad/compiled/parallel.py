"""Work shared by threads: how many there are, and tasks that run at the same time.

What is shared, and where it is cut, its owner decides.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

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

FREE, TAKEN, DONE, OWN = range(4)
"""What becomes of a task: nobody has begun it, a worker has, it is over or called off, its owner runs it himself."""

# The functions that must not be interrupted are machine code: Python handles signals only between two calls of it.
_CODE = """
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

define i64 @take(ptr %words, i64 %count, i64 %as) {{
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %next]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %try, label %none
try:
  %word = getelementptr i64, ptr %words, i64 %i
  %pair = cmpxchg ptr %word, i64 {FREE}, i64 %as acq_rel acquire
  %mine = extractvalue {{i64, i1}} %pair, 1
  br i1 %mine, label %found, label %next
next:
  %i1 = add i64 %i, 1
  br label %loop
found:
  ret i64 %i
none:
  ret i64 -1
}}

define void @close(ptr %words, i64 %count) {{
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %next]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %try, label %end
try:
  %word = getelementptr i64, ptr %words, i64 %i
  %pair = cmpxchg ptr %word, i64 {FREE}, i64 {DONE} acq_rel acquire
  br label %runs
runs:
  call void @look(ptr %word, i64 {TAKEN}, i64 {PATIENCE})
  %now = load atomic i64, ptr %word acquire, align 8
  %same = icmp eq i64 %now, {TAKEN}
  br i1 %same, label %rest, label %next
rest:{rest}
  br label %runs
next:
  %i1 = add i64 %i, 1
  br label %loop
end:
  ret void
}}
"""


class _Code(NamedTuple):
    """Machine code that reads and writes words of memory.

    Attributes:
        look: ``(word, old, times)`` returns when the word is no longer ``old``, or after so many looks. It holds no
            lock of Python's.
        take: ``(words, count, as)`` writes ``as`` to the first word that is FREE, and gives its index; -1 without one.
        close: ``(words, count)`` writes DONE to all that are FREE, and returns when none is TAKEN.
    """

    look: Callable[[int, int, int], None]
    take: Callable[[int, int, int], int]
    close: Callable[[int, int], None]
    library: jit.Library  # which must live as long


@functools.cache
def _code() -> _Code:
    words = {"FREE": FREE, "TAKEN": TAKEN, "DONE": DONE, "PATIENCE": PATIENCE, "pause": "", "rest": ""}
    declarations = []
    if jit.is_x86():
        words["pause"] = "\n  call void @llvm.x86.sse2.pause()"
        declarations.append("declare void @llvm.x86.sse2.pause()")
    if os.name == "posix":
        words["rest"] = "\n  call i32 @usleep(i32 50)"
        declarations.append("declare i32 @usleep(i32)")
    library = jit.compile_ir("\n".join(declarations) + _CODE.format(**words))
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    return _Code(
        ctypes.CFUNCTYPE(None, pointer, number, number)(library.address("look")),
        ctypes.PYFUNCTYPE(number, pointer, number, number)(library.address("take")),
        ctypes.CFUNCTYPE(None, pointer, number)(library.address("close")),
        library,
    )


class _Job:
    """Tasks of which each is run once, by whichever thread takes it first.

    Attributes:
        tasks: all of them.
        words: what becomes of each, as machine code reads it.
        errors: those of tasks that workers ran.
    """

    def __init__(self, tasks: Sequence[Callable[[], Any]]) -> None:
        self.tasks = tasks
        self.words = (ctypes.c_int64 * len(tasks))()
        self.errors: list[BaseException] = []

    def taken(self, state: int) -> Iterator[int]:
        """The indices of free tasks, each taken for the caller, as TAKEN or OWN, when it is asked for."""
        return iter(functools.partial(_code().take, ctypes.addressof(self.words), len(self.words), state), -1)


class _Worker(threading.Thread):
    """A thread that helps with the job it was given last, and waits for the next."""

    def __init__(self) -> None:
        super().__init__(name="minigrad", daemon=True)
        self.job: _Job | None = None
        self.news = (ctypes.c_int64 * 8)()  # the first counts jobs; the others keep its cache line its own
        self.bell = threading.Lock()
        self.bell.acquire()
        self.start()

    def give(self, job: _Job) -> None:
        """Let the thread help, if it has the time: one that does not come is not waited for."""
        self.job = job
        self.news[0] += 1
        with suppress(RuntimeError):  # it rings already
            self.bell.release()

    def run(self) -> None:
        """Work, as long as the process lives."""
        look = _code().look
        while True:
            seen = self.news[0]
            if self.job is not None:
                self._help(self.job)
            look(ctypes.addressof(self.news), seen, PATIENCE)
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
    os.register_at_fork(after_in_child=_workers.clear)  # a process that was forked has none of the threads


def in_parallel(tasks: Sequence[Callable[[], Any]]) -> None:
    """Run all tasks, the first on this thread; machine code holds no lock, so the others run beside it.

    Whatever no other thread has begun by then, this one runs too, so it waits for nothing but tasks under way. When
    it returns no task runs, and none will; if an exception ends it, some may not have run.
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
        close(words, count)  # the first call here, so that no signal comes before: tasks use memory that is given back
        job.tasks = ()
    if job.errors:
        raise job.errors[0]

"""Work shared by threads: how many there are, and tasks that run at the same time.

What is shared, and where it is cut, its owner decides.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def threads() -> int:
    """How many threads share the work: as many as this process may use processors, or ``MINIGRAD_THREADS``."""
    if given := os.environ.get("MINIGRAD_THREADS"):
        return max(1, int(given))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parallel(tasks: Sequence[Callable[[], Any]]) -> None:
    """Run all tasks, the first on this thread; machine code holds no lock, so the others run beside it."""
    if len(tasks) == 1:
        tasks[0]()
        return
    futures = [_workers(len(tasks) - 1).submit(task) for task in tasks[1:]]
    tasks[0]()
    for future in futures:
        future.result()


@functools.cache
def _workers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="minigrad")

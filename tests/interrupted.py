"""Interrupt work on two threads 2,000 times at random moments; exit with 1 if that leaves damage."""

import faulthandler
import os
import random
import signal
import sys
import threading
import time
import timeit
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

TIMES = 2000


armed = False


def interrupt(*_: Any) -> None:
    if armed:  # a signal may come late
        raise KeyboardInterrupt


def drawing() -> tuple[Callable[[], Any], Callable[[], bool]]:
    """Draws a text from a network whose matrices two threads share."""
    from minigrad.scan import use_backend
    from rnn_cells.lstm import LSTM
    from rnn_plugins.language.model import Model

    model = Model(LSTM(29, 300), 29, dtype="float64")
    with use_backend("compiled"):
        step = model.stepper(model.init_params(np.random.default_rng(0)), model.init_carry(1))
    assert step is not None
    assert step._shared is not None  # type: ignore[attr-defined]
    return partial(step.sample, 4, np.random.default_rng(0).random(4), 1.0), lambda: True  # type: ignore[attr-defined]


def tasks() -> tuple[Callable[[], Any], Callable[[], bool]]:
    """Tasks that would be seen if they ran on when nobody waits for them any more."""
    from minigrad.compiled.parallel import in_parallel

    caller, running = threading.current_thread(), set[int]()

    def task(number: int) -> None:
        if threading.current_thread() is not caller:
            running.add(number)
            time.sleep(1e-5)
            running.discard(number)

    return partial(in_parallel, [partial(task, i) for i in range(4)]), lambda: not running


def main() -> int:
    global armed
    os.environ["MINIGRAD_THREADS"] = "2"
    work, is_at_rest = {"drawing": drawing, "tasks": tasks}[sys.argv[1]]()
    work()
    usual = min(timeit.repeat(work, number=1, repeat=50))
    rng = random.Random(0)
    signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    while interrupted < TIMES:
        faulthandler.dump_traceback_later(60, exit=True)
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 1.5 * usual))
            work()
            armed = False
        except KeyboardInterrupt:
            armed = False
            interrupted += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not is_at_rest():
            print("a task runs on")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

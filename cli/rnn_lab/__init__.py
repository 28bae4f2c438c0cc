"""The laboratory as a library: train networks, load runs, measure, compare and report.

>>> import rnn_lab
>>> run = rnn_lab.train("book.txt", cell="gru", epochs=2)
>>> print(run.sample(200))

No function prints, asks or installs a signal handler; the user's mistakes raise ``UserError``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rnn_lab.api import (
        Report,
        Run,
        Training,
        UserError,
        cells,
        check_cell,
        check_task,
        compare,
        describe_cell,
        load,
        report,
        tasks,
        train,
        training,
    )

__all__ = [
    "Report", "Run", "Training", "UserError", "cells", "check_cell", "check_task", "compare", "describe_cell", "load",
    "report", "tasks", "train", "training",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # The command line imports modules of this package before it needs NumPy.
    if name in __all__:
        return getattr(import_module("rnn_lab.api"), name)
    raise AttributeError(f"module 'rnn_lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]

"""Which backend carries out the time loop, by the names that users give.

What backends there are, and how they work, stands in ``minigrad.scan``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from minigrad.compiled.parallel import threads
from minigrad.scan import available_backends, use_backend
from rnn_plugins.errors import UserError
from rnn_plugins.settings import Backend


def is_compiled(backend: Backend) -> bool:
    """Whether compiled code may run on it."""
    return backend in ("auto", "compiled")


def environment(backend: Backend) -> dict[str, str]:
    """What a result depends on beside what every result does: the compiler, and how many threads add up gradients.

    Raises:
        UserError: the number of threads is given, and is none.
    """
    if not is_compiled(settled(backend)):
        return {}
    try:
        count = threads()
    except ValueError:
        given = os.environ.get("MINIGRAD_THREADS")
        raise UserError(f"the environment variable MINIGRAD_THREADS is {given!r}; it must be a whole number") from None
    return {"llvmlite": version("llvmlite"), "threads": str(count)}


def settled(backend: Backend) -> Backend:
    """The backend that stands for ``backend`` here, wherever it is asked again: ``auto`` without a compiler is NumPy.

    Raises:
        UserError: it is ``compiled``, and there is no compiler.
    """
    if "compiled" in available_backends():
        return backend
    if backend == "compiled":
        raise UserError("--backend compiled needs the library llvmlite: install rnn-lab[jit], or leave the option out")
    return "numpy" if backend == "auto" else backend


@contextmanager
def on_backend(backend: Backend) -> Iterator[None]:
    """Within this block time loops run on the backend; ``auto`` chooses for each.

    Raises:
        UserError: it is ``compiled``, and there is no compiler; or the number of threads is given, and is none.
    """
    environment(backend)
    with use_backend(None if backend == "auto" else settled(backend)):
        yield

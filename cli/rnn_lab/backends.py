"""Which backend carries out the time loop, by the names that users give.

What backends there are, and how they work, stands in ``minigrad.scan``.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import numpy as np

from minigrad import blas
from minigrad.compiled import jit
from minigrad.compiled.parallel import threads
from minigrad.scan import available_backends, use_backend
from rnn_lab.settings import Backend
from rnn_plugins.errors import UserError


def is_compiled(backend: Backend) -> bool:
    """Whether compiled code may run on it."""
    return backend in ("auto", "compiled")


OF_A_BACKEND = ("backend", "blas", "processor", "llvmlite", "threads", "target")
"""What ``environment`` and ``compiled_for`` tell, of one backend or another."""


def environment(backend: Backend) -> dict[str, str]:
    """What a result depends on beside what every result does: what ran, on which processor, on how many threads.

    Raises:
        UserError: the number of threads is given, and is none.
    """
    compiled = is_compiled(settled(backend))
    ran = {"backend": "compiled" if compiled else backend, "blas": blas.name(), "processor": _processor()}
    return ran | ({"llvmlite": version("llvmlite"), "threads": str(_threads())} if compiled else {})


def compiled_for(backend: Backend) -> dict[str, str]:
    """The processor that code was compiled for, as the key ``target``; empty before any was."""
    return {"target": jit.processor()} if is_compiled(backend) and jit.is_loaded() else {}


def _threads() -> int:
    try:
        return threads()
    except ValueError:
        given = os.environ.get("MINIGRAD_THREADS")
        raise UserError(f"the environment variable MINIGRAD_THREADS is {given!r}; it must be a whole number") from None


def _processor() -> str:
    """The kind of processor, with the sets of instructions that it has and NumPy uses."""
    found = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
    return " ".join([platform.machine(), *found])


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
    if is_compiled(settled(backend)):
        _threads()
    with blas.managed(), use_backend(None if backend == "auto" else settled(backend)):
        yield

"""The backend of the time loop, by the name that users give; ``minigrad.scan`` describes the backends."""

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
    """Whether the backend may run compiled code."""
    return backend in ("auto", "compiled")


BACKEND_KEYS = ("backend", "blas", "processor", "llvmlite", "threads", "target")
"""All keys that ``environment`` and ``compiled_for`` may return."""


def environment(backend: Backend) -> dict[str, str]:
    """The parts of a run's environment that depend on the backend: BLAS, processor, threads.

    Raises:
        UserError: the given number of threads is not a number.
    """
    compiled = is_compiled(resolved(backend))
    ran = {"backend": "compiled" if compiled else backend, "blas": blas.name(), "processor": _processor()}
    return ran | ({"llvmlite": version("llvmlite"), "threads": str(_threads())} if compiled else {})


def compiled_for(backend: Backend) -> dict[str, str]:
    """The processor that code was compiled for, as the key ``target``; empty if nothing has been compiled."""
    return {"target": jit.processor()} if is_compiled(backend) and jit.is_loaded() else {}


def _threads() -> int:
    try:
        return threads()
    except ValueError:
        given = os.environ.get("MINIGRAD_THREADS")
        raise UserError(f"the environment variable MINIGRAD_THREADS is {given!r}; it must be a whole number") from None


def crowded(backend: Backend) -> list[str]:
    """A notice if the user gives matrix products several threads beside those of the compiled time loop.

    A thread of OpenBLAS that has no work waits for it without sleeping, on a processor that the loop needs.
    """
    given = blas.given_by()
    if not given or not is_compiled(resolved(backend)) or _threads() < 2 or blas.counts().small < 2:
        return []
    return [
        f"{given} gives matrix products {blas.counts().small} threads beside the {_threads()} of the time loop, which "
        f"usually makes training slower: set {given}=1, or unset it, and rnn chooses the number"
    ]


def _processor() -> str:
    """The kind of processor, with the instruction sets that it has and NumPy uses."""
    found = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
    return " ".join([platform.machine(), *found])


def resolved(backend: Backend) -> Backend:
    """The backend that ``backend`` means on this machine: without a compiler, ``auto`` is NumPy.

    Raises:
        UserError: it is ``compiled``, and there is no compiler.
    """
    if "compiled" in available_backends():
        return backend
    if backend == "compiled":
        raise UserError(
            "--backend compiled needs the library llvmlite: pip install 'rnn-lab[jit]', or leave the option out"
        )
    return "numpy" if backend == "auto" else backend


@contextmanager
def on_backend(backend: Backend) -> Iterator[None]:
    """Within this block time loops run on the backend; ``auto`` chooses one for each loop.

    Raises:
        UserError: it is ``compiled``, and there is no compiler; or the given number of threads is not a number.
    """
    if is_compiled(resolved(backend)):
        _threads()
    with blas.managed(), use_backend(None if backend == "auto" else resolved(backend)):
        yield

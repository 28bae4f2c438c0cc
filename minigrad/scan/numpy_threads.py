"""NumPy's executor, with the measured number of threads for large products."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from minigrad import blas
from minigrad.scan import numpy_backend
from minigrad.scan.numpy_backend import Saved
from minigrad.scan.program import Program
from minigrad.tensor import Array

T = TypeVar("T")


class Executor(numpy_backend.Executor):
    """Runs a program with NumPy.

    Attributes:
        product: the shape (k, n) of a matrix with as much work as all products of one row of a step.
    """

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        shapes = [op.values[1].shape for stage in program.stages for op in stage.forward.ops if op.name == "matmul"]
        deepest = max((shape[-2] for shape in shapes), default=1)
        self.product = deepest, sum(map(math.prod, shapes)) // deepest
        self._itself = object()  # a unique key, which does not keep the program alive

    def forward(self, *args: Any, steps: int, batch: int, **options: Any) -> tuple[list[Array], list[Array], Any]:
        """Run all steps, as ``numpy_backend.Executor.forward`` does."""
        call = functools.partial(super().forward, *args, steps=steps, batch=batch, **options)
        return self._run(call, "forward", steps, batch)

    def backward(
        self, saved: Saved, d_carry: Sequence[Array | None], d_ys: Sequence[Array | None]
    ) -> tuple[list[Array], list[Array], list[Array | None], list[Array | None]]:
        """Run all steps backwards, as ``numpy_backend.Executor.backward`` does."""
        call = functools.partial(super().backward, saved, d_carry, d_ys)
        return self._run(call, "backward", saved.options["steps"], saved.options["batch"])

    def _run(self, call: Callable[[], T], name: str, steps: int, batch: int) -> T:
        return blas.run(call, (self.product[1], self.product[0], batch), (self._itself, name, batch), steps)

"""Run a planned step once at a time as machine code, and draw symbols from it, many per call, for sampling."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad.compiled import jit, sampler
from minigrad.compiled.memory import address, empty, readable
from minigrad.compiled.parallel import in_parallel, threads
from minigrad.scan.compiled_backend import Executor, Products
from minigrad.scan.compiled_code import function
from minigrad.scan.lookup import Lookup, checked_indices
from minigrad.tensor import Array

CACHE_OF_ONE = 1_500_000
"""Bytes of matrices beyond which a single row's step is memory-bound, so that two cores' caches help."""


class _SharedProduct:
    """A product of one row that two threads can share.

    Attributes:
        address: the address of its code.
        help: shares the products of a call of ``sample``, given its word ``state``.
    """

    def __init__(self, products: Products) -> None:
        tile = products.tile
        self.library = jit.compile_ir(sampler.shared_ir(tile.scalar, tile.columns))
        function(self.library, "use", "P")(products.gemm)
        self.address = self.library.address("shared")
        self.help = function(self.library, "help", "P")


class Stepper:
    """Runs a program one step at a time, for few sequences and without gradients.

    What is the same at every step is computed once. The program has one input, which is looked up in a table.

    Args:
        executor: the program, ready to run.
        params: as for ``Executor.forward``.
        carry: the initial carry, (B, ...) arrays.
        table: the table of inputs by symbol.
        context: as for ``Executor.forward``.

    Attributes:
        ys: the outputs of the last step, (B, ...) arrays; the next step overwrites them.
    """

    def __init__(
        self,
        executor: Executor,
        params: Sequence[Array],
        carry: Sequence[Array],
        table: Array,
        context: Sequence[Array] = (),
    ) -> None:
        batch, program = len(carry[0]), executor.program
        (source,) = program.xs
        self._executor, self._size = executor, len(table)
        xs = [Lookup(table, np.zeros((1, batch), np.int64))]
        *_, saved = executor.forward(params, carry, xs, context, steps=1, batch=batch, reverse=False, keep=True)
        assert saved is not None
        saved.home = None  # the arguments of its workspace change below
        self._saved = saved  # its memory is in use
        self._index = saved.known[executor.inputs.indices[source]]
        self._carry = [
            (saved.known[before], saved.known[after])
            for stage in program.stages
            for before, after in zip(stage.carry, stage.carried, strict=True)
        ]
        parts = [
            saved.workspace.part(code) for code in executor.forwards if code.stage.name not in ("table", "context")
        ]
        self._calls = [call for part in parts for call in part.calls]
        for (before, after), first in zip(self._carry, carry, strict=True):
            after[0] = first
            before[0] = first
        bytes_read = sum(packed.nbytes for part in parts for packed in part.packed.values())
        self._shared: _SharedProduct | None = None
        if batch == 1 and bytes_read > CACHE_OF_ONE and threads() > 1:
            self._shared = _SharedProduct(executor.products)
            for arguments in (arguments for part in parts for arguments in part.arguments):
                arguments[0] = self._shared.address
        self.ys = [saved.known[y][0] for y in program.ys]

    def __call__(self, symbols: Any) -> list[Array]:
        """One step of every sequence: (B,) symbols -> the outputs."""
        symbols = checked_indices(symbols, self._size)
        for before, after in self._carry:
            before[0] = after[0]
        self._index[0] = symbols
        for call in self._calls:
            call()
        return self.ys

    @property
    def carry(self) -> list[Array]:
        """The carry after the last step."""
        return [np.array(after[0]) for _, after in self._carry]

    def sample(self, symbol: int, uniform: Array, temperature: float) -> Array:
        """Draw symbols one after another, each the next step's input, for a batch of one.

        Args:
            symbol: the first input.
            uniform: (N,) numbers in [0, 1), one for each draw.
            temperature: divides the scores; 0 takes the largest.

        Raises:
            ValueError: there are several sequences, or not one score for each symbol.

        Returns:
            (N,) symbols; -1 where the scores are NaN, and the following symbols are meaningless.
        """
        count = len(uniform)
        (scores,) = self.ys
        if scores.shape != (1, self._size):
            raise ValueError(f"the scores have shape {scores.shape}; to draw from them they must be (1, {self._size})")
        self._index[0] = checked_indices(symbol, self._size)
        out = np.empty(count, np.int64)
        copies = [word for before, after in self._carry for word in (address(after), address(before), before[0].nbytes)]
        calls: list[Any] = []
        for call in self._calls:
            function: Any = call.func
            calls += [ctypes.cast(function, ctypes.c_void_p).value, *call.args]
        given = [np.array(words, np.int64) for words in (calls, copies)]
        uniform = readable(uniform, np.float64)
        size = scores.shape[-1]
        work = empty((size + 64,), np.float64)
        state = ctypes.c_int64()
        draw = functools.partial(
            _sampler("float" if self._executor.dtype == np.float32 else "double"),
            address(given[0]), len(calls) // 7, address(given[1]), len(copies) // 3, address(self._index),
            address(scores), size, temperature, address(uniform), count, address(out), address(work),
            ctypes.addressof(state),
        )  # fmt: skip
        if self._shared is not None:
            in_parallel([draw, functools.partial(self._shared.help, ctypes.addressof(state))])
        else:
            draw()
        return out


@functools.cache
def _sampler(dtype: str) -> Any:
    library = jit.compile_ir(sampler.ir(dtype))
    draw = function(library, "sample", "PqPqPPqdPqPPP")
    draw.library = library  # keeps the library alive
    return draw

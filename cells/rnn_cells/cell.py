"""The base class of recurrent cells: a pure step function, initial parameters, and an initial carry."""

from __future__ import annotations

import typing
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np

from minigrad import scan, trees
from minigrad.initializers import glorot_uniform, zeros
from minigrad.trees import Tree


@dataclass(frozen=True)
class Cell:
    """The base of every cell; a subclass defines ``init_params`` and ``__call__``.

    Fields that a subclass adds are its options: they reach the command line as ``--cell-option NAME=VALUE``. The
    docstring of a subclass is its equations, its paper and the conventions chosen.

    Attributes:
        input_size: the width I of an input, (B, I).
        hidden_size: the width H of the hidden state, (B, H).

    Raises:
        ValueError: a size is not a whole number of at least 1, or an option is not a value of its ``Literal``.
    """

    input_size: int
    hidden_size: int

    suggested_learning_rate: ClassVar[float | None] = None
    """Suggested learning rate of Adam for one layer on text; None for the default of the command line."""

    suggested_warmup: ClassVar[int] = 0
    """Suggested warm-up steps of a cosine or linear schedule."""

    causal: ClassVar[bool] = True
    """Whether outputs never depend on later inputs."""

    def __post_init__(self) -> None:
        for name in ("input_size", "hidden_size"):
            size = getattr(self, name)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{type(self).__name__}: {name} is {size!r}; it must be a whole number of at least 1")
        hints = typing.get_type_hints(type(self))
        for field in fields(self):
            value, choices = getattr(self, field.name), typing.get_args(hints[field.name])
            if typing.get_origin(hints[field.name]) is Literal and value not in choices:
                expected = " or ".join(map(repr, choices))
                raise ValueError(f"{type(self).__name__}: {field.name} is {value!r}; it must be {expected}")

    @property
    def output_size(self) -> int:
        """The width of an output, (B, output_size)."""
        return self.hidden_size

    def init_params(self, rng: np.random.Generator) -> Tree:
        """Fresh parameters: a nested dict of float32 arrays.

        Raises:
            NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define init_params(self, rng)")

    def init_carry(self, batch_size: int) -> Tree:
        """The carry before the first step; by default one array of zeros, (B, H)."""
        return np.zeros((batch_size, self.hidden_size), np.float32)

    def __call__(self, params: Tree, carry: Tree, x: Any) -> tuple[Tree, Any]:
        """One step: ``(params, carry, x) -> (carry, y)``, x (B, I) and y (B, output_size).

        Raises:
            NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, params, carry, x)")

    @property
    def unrolls_itself(self) -> bool:
        """Whether it has its own method for running along a sequence, so that its steps cannot be changed."""
        return type(self).unroll is not Cell.unroll

    def unroll(
        self,
        params: Tree,
        carry: Tree,
        xs: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        reverse: bool = False,
        rng: np.random.Generator | None = None,
    ) -> tuple[Tree, Any]:
        """Run the cell along a sequence: xs (T, B, I) -> the last carry and the outputs, (T, B, output_size).

        Args:
            params: as ``init_params`` gives them.
            carry: the state to start from.
            xs: the inputs.
            lengths: (B,), where sequences end before T; see ``minigrad.scan``.
            mask: (T, B), instead of lengths.
            reverse: from the last step to the first.
            rng: draws dropout masks, in cells with dropout; None for none, as in evaluation.

        Raises:
            ValueError: shapes do not match, or a step returns a carry of another structure, shape or dtype.
            TypeError: ``xs`` does not contain arrays, or it or the carry has another dtype than the parameters.
        """
        self._check(params, carry, xs)
        return scan(self, params, carry, xs, lengths=lengths, mask=mask, reverse=reverse)

    def _check(self, params: Tree, carry: Tree, xs: Any) -> None:
        """Check inputs and carry, so that an error names them and not a matrix product."""
        name = type(self).__name__
        if not hasattr(xs, "shape"):
            if not all(hasattr(leaf, "shape") for leaf in trees.leaves(xs)):
                raise TypeError(
                    f"{name}: xs is a {type(xs).__name__} of plain numbers; expected an array (T, B, "
                    f"{self.input_size}): convert it, with np.asarray(xs, np.float32)"
                )
            return  # a subclass may take a tree of inputs
        if len(xs.shape) != 3:
            raise ValueError(
                f"{name}: xs has shape {xs.shape}; expected (T, B, {self.input_size}): steps, sequences, features"
            )
        if xs.shape[2] != self.input_size:
            raise ValueError(f"{name}: xs has {xs.shape[2]} features and the cell takes {self.input_size}")
        # A cell without parameters computes in the dtype of its inputs.
        typed = trees.leaves(params) or [xs]
        floats = {leaf.dtype.newbyteorder("=") for leaf in typed if leaf.dtype.kind == "f"}
        dtype = floats.pop() if len(floats) == 1 else None
        if dtype is not None and np.result_type(xs.dtype, dtype) != dtype:
            raise TypeError(
                f"{name}: xs has dtype {xs.dtype} and the parameters {dtype}: convert it, with xs.astype(np.{dtype})"
            )
        first = self.init_carry(xs.shape[1])
        try:
            pairs = trees.zip_leaves(first, carry)
        except ValueError as error:
            raise ValueError(f"{name}: the carry has another structure than init_carry gives it: {error}") from None
        for path, (expected, came) in zip(trees.paths(first), pairs, strict=True):
            which = f"the carry {path!r}" if path else "the carry"
            if np.shape(came) != expected.shape:
                raise ValueError(
                    f"{name}: {which} has shape {np.shape(came)}; expected {expected.shape}, as "
                    f"init_carry({xs.shape[1]}) gives it"
                )
            wanted = dtype if dtype is not None and expected.dtype == np.float32 else expected.dtype
            # A cell that names no dtype has float64 zeros, which training casts to the dtype of the parameters.
            fits = {wanted, dtype if dtype is not None and expected.dtype.kind == "f" else wanted}
            if came.dtype.newbyteorder("=") not in fits:
                raise TypeError(
                    f"{name}: {which} has dtype {came.dtype}; expected {wanted}: convert it, with "
                    f"minigrad.trees.cast(carry, np.{wanted})"
                )

    def dense(self, rng: np.random.Generator, inputs: int | None = None, *, bias: Any = 0.0) -> Tree:
        """``{"W", "b"}`` of an affine map onto the hidden size, for ``minigrad.affine``.

        W is (inputs, H), Glorot-uniform (Glorot and Bengio 2010); ``inputs`` is H + I where left out, the width of
        ``concat(h, x)``. b is (H,), and ``bias`` its value, a number or (H,).
        """
        inputs = self.hidden_size + self.input_size if inputs is None else inputs
        b = zeros(rng, (self.hidden_size,)) + np.float32(bias)
        return {"W": glorot_uniform(rng, (inputs, self.hidden_size)), "b": b}


def parameter_count(cell: Cell) -> int:
    """The number of trainable scalars of a cell."""
    return trees.count(cell.init_params(np.random.default_rng(0)))

"""Steps on rows with any number of axes, made at random as Python code, held against the reference loop.

Values and all gradients are compared on every backend, and nothing may run on another one unseen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scan_planned import Sample, assert_close, every_backend, no_reference_loop, outcome, poisoned_memory

import minigrad
from minigrad import stepgraph, trees
from minigrad.graph import Batch, Op, Value, evaluate
from minigrad.scan import Lookup, numpy_backend, planned, use_backend
from minigrad.scan.program import MAPS, plan

Shape = tuple[int, ...]
"""Of a row: the shape of a value without its batch axis."""

MOST = 200
"""Elements of a row of any value."""

TRIAL = 5
"""Sequences with which the shape of an expression is found."""

NAMESPACE: dict[str, Any] = {name: getattr(minigrad, name) for name in minigrad.__all__} | {"np": np}


@dataclass(repr=False)
class Step:
    """A step as Python code; its parameters, carries, inputs and contexts are dicts of arrays by name.

    Attributes:
        lines: the assignments, in order.
        params: the shapes of the parameters.
        carry: the shapes of a row of the carries.
        xs: likewise of the inputs.
        context: likewise of the contexts; without any the step takes none.
        carried: the names of the new carries.
        ys: the names of the outputs.
    """

    lines: list[str] = field(default_factory=list)
    params: dict[str, Shape] = field(default_factory=dict)
    carry: dict[str, Shape] = field(default_factory=dict)
    xs: dict[str, Shape] = field(default_factory=dict)
    context: dict[str, Shape] = field(default_factory=dict)
    carried: dict[str, str] = field(default_factory=dict)
    ys: list[str] = field(default_factory=list)

    @property
    def source(self) -> str:
        """The step's definition."""
        trees_of = {"carry": self.carry, "x": self.xs, "context": self.context}
        names = [f"{name} = {tree}[{name!r}]" for tree, shapes in trees_of.items() for name in shapes]
        new = ", ".join(f"{name!r}: {value}" for name, value in self.carried.items())
        result = f"return {{{new}}}, [{', '.join(self.ys)}]"
        arguments = "p, carry, x, context" if self.context else "p, carry, x"
        return "\n    ".join([f"def step({arguments}):", *names, *self.lines, result])

    def __repr__(self) -> str:
        return f"parameters {self.params}, carry {self.carry}, inputs {self.xs}, context {self.context}\n{self.source}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Hypothesis prints the code, not the fields."""
        printer.text(repr(self))

    def function(self) -> Callable[..., Any]:
        """The step."""
        namespace = dict(NAMESPACE)
        exec(compile(self.source, "<step>", "exec"), namespace)
        return namespace["step"]  # type: ignore[no-any-return]


class Draft:
    """A step that is being drawn.

    Attributes:
        draw: Hypothesis's.
        step: the step so far.
        shapes: of a row of every value so far.
        used: the values that an expression uses.
    """

    def __init__(self, draw: Any, carry: list[Shape], xs: list[Shape], context: list[Shape]) -> None:
        self.draw = draw
        named = [
            {f"{name}{i}": s for i, s in enumerate(some)}
            for name, some in zip("hxc", (carry, xs, context), strict=True)
        ]
        self.step = Step(carry=named[0], xs=named[1], context=named[2])
        self.shapes = self.step.carry | self.step.xs | self.step.context
        self.used: set[str] = set()
        self._arrays: dict[str, Any] = {name: _numbers((TRIAL, *shape)) for name, shape in self.shapes.items()}
        self._params: dict[str, Any] = {}

    def of(self, *choices: Any) -> Any:
        """One of these; examples shrink to the first."""
        return self.draw(st.sampled_from(choices))

    def number(self, low: int, high: int) -> int:
        """An integer, both ends included."""
        return int(self.draw(st.integers(low, high)))

    def value(self, least: int = 0, most: int = 4) -> tuple[str, Shape]:
        """An expression for a value whose rows have so many axes, and their shape."""
        name = self.of(*reversed(self.shapes))
        self.used.add(name)
        shape = self.shapes[name]
        if len(shape) < least:
            new = [None] * (least - len(shape))
            return f"{name}[..., {', '.join(map(str, new))}]", shape + (1,) * len(new)
        if len(shape) > most:
            shape = (*shape[: most - 1], math.prod(shape[most - 1 :]))
            return f"{name}.reshape({', '.join(map(str, (-1, *shape)))})", shape
        return name, shape

    def beside(self, shape: Shape, grows: bool = False) -> str:
        """An expression for a value that broadcasts with rows of a shape, which it may enlarge if it ``grows``."""
        found = [
            (name, index) for name, other in self.shapes.items() for index in _alignments(other, shape, grows=grows)
        ]
        if found:
            name, index = self.of(*reversed(found))
            self.used.add(name)
            return f"{name}{index}"
        a, other = self.value()
        ones = ", ".join(["-1", *["1"] * len(shape)])
        return f"{a}.reshape(-1, {math.prod(other)}).mean(axis=1).reshape({ones})"

    def param(self, *shape: int) -> str:
        """A parameter of a shape: a new one, or one that was used before, or one computed from it."""
        fitting = [name for name, known in self.step.params.items() if known == shape]
        if fitting and self.draw(st.booleans()):
            name = str(self.of(*fitting))
        else:
            name = f"w{len(self.step.params)}"
            self.step.params[name] = shape
            self._params[name] = _numbers(shape)
        form = self.of("p[{!r}]", "p[{!r}]", "p[{!r}]", "tanh(p[{!r}])")
        return str(form.format(name))

    def spread(self, shape: Shape) -> str:
        """A parameter that broadcasts with rows of a shape."""
        start = self.number(0, len(shape))
        return self.param(*(self.of(n, n, 1) for n in shape[start:]))

    def axes(self, count: int) -> str:
        """Some of the axes of a row with so many of them, as an argument."""
        chosen = [i for i in range(1, count + 1) if self.draw(st.booleans())] or [count]
        given_axes = [i - self.of(0, 0, count + 1) for i in chosen]
        return str(given_axes[0] if len(chosen) == 1 else tuple(given_axes))

    def axis(self, count: int) -> int:
        """An axis of a row with so many of them, counted from either end."""
        return self.number(1, count) - int(self.of(0, count + 1))

    def add(self, text: str) -> str | None:
        """Assign an expression to a new name; None if its rows have too many elements."""
        shape = np.shape(eval(text, NAMESPACE, {"p": self._params, **self._arrays}))
        assert shape[:1] == (TRIAL,), (text, shape)
        if not 0 < math.prod(shape[1:]) <= MOST or len(shape) > 5:
            return None
        name = f"v{len(self.step.lines)}"
        self.step.lines.append(f"{name} = {text}")
        self.shapes[name] = shape[1:]
        self._arrays[name] = _numbers(shape)
        return name


def _numbers(shape: Shape) -> Any:
    return np.random.default_rng(0).standard_normal(shape)


def _alignments(mine: Shape, other: Shape, *, grows: bool) -> list[str]:
    """The indices that give rows of one shape as many axes as rows of another, which they then broadcast with."""
    if len(mine) > len(other):
        return []
    found = []
    for kept in itertools.combinations(range(len(other)), len(mine)):
        shape = [1] * len(other)
        for i, n in zip(kept, mine, strict=True):
            shape[i] = n
        if all(n in (1, m) or (grows and m == 1) for n, m in zip(shape, other, strict=True)):
            parts = [":" if i in kept else "None" for i in range(len(other))]
            found.append(f"[:, {', '.join(parts)}]" if "None" in parts else "")
    return found


# --- kinds of expressions ---------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[Draft], str]] = {}
KINKED: set[str] = set()
"""Kinds whose gradient jumps where rounding may decide; they are for float64 alone."""


def kind(make: Callable[[Draft], str]) -> Callable[[Draft], str]:
    KINDS[make.__name__.strip("_").replace("_", " ")] = make
    return make


def kinked(make: Callable[[Draft], str]) -> Callable[[Draft], str]:
    KINKED.add(make.__name__.strip("_").replace("_", " "))
    return kind(make)


@kind
def elementwise(d: Draft) -> str:
    a, shape = d.value()
    b = d.beside(shape, grows=True)
    return d.of(f"{a} + {b}", f"{a} - {b}", f"{b} * tanh({a})", f"{a} / (1.5 + {b} * {b})", f"np.add({b}, {a})")


@kind
def function(d: Draft) -> str:
    a, _ = d.value()
    return d.of(
        f"tanh({a})", f"sigmoid({a})", f"-{a}", f"0.5 * {a} + 0.25", f"softplus({a})", f"sin({a})", f"exp(tanh({a}))",
        f"sqrt(1 + {a} * {a})", f"tanh({a}) ** 2", f"log1p(square({a}))", f"np.tanh({a})",
    )  # fmt: skip


@kinked
def kink(d: Draft) -> str:
    a, shape = d.value()
    b = d.beside(shape, grows=True)
    return d.of(
        f"maximum({a}, {b})", f"minimum({b}, {a})", f"relu({a})", f"abs({a})", f"clip({a}, -0.5, 0.5)",
        f"where({b} > 0.1, {a}, 0.5 * {a})", f"where(({b} <= 0.1) & ({a} != 0.2), {b}, {a})",
    )  # fmt: skip


@kind
def parameter(d: Draft) -> str:
    a, shape = d.value()
    return d.of(f"{a} * {d.spread(shape)}", f"tanh({a} + {d.spread(shape)})", f"{d.spread(shape)} - {a}")


@kind
def constant(d: Draft) -> str:
    a, shape = d.value(1)
    n = shape[-1]
    flags = [d.draw(st.booleans()) for _ in range(n)]
    return d.of(
        f"{a} * np.linspace(0.5, 1.5, {n}, dtype={a}.dtype)", f"where(np.array({flags}), {a}, 0.5)",
        f"{a} + np.linspace(-1, 1, {math.prod(shape)}, dtype={a}.dtype).reshape{shape}",
    )  # fmt: skip


@kind
def rows_by_matrix(d: Draft) -> str:
    a, shape = d.value(1)
    k, n = shape[-1], d.number(1, 4)
    W = d.param(k, n)
    return d.of(
        f"tanh({a} @ {W})", f"tanh(np.dot({a}, {W}))", f"tanh(np.inner({a}, {W}.T))", f"tanh({a} @ {W} + {d.param(n)})",
        f"tanh(np.tensordot({a}, {W}, axes=1))", f"tanh({a} @ {d.param(n, k)}.T)", f"tanh(np.matmul({a}, {W}))",
        f"tanh(affine({{'W': {W}, 'b': {d.param(n)}}}, {a}))", f"tanh({a} @ {d.param(k)})",
    )  # fmt: skip


@kind
def matrix_by_rows(d: Draft) -> str:
    a, shape = d.value(1)
    m = d.number(1, 4)
    if len(shape) == 1:
        return str(d.of(f"tanh({d.param(m, shape[0])} @ {a}[..., None])", f"tanh({d.param(m, shape[0])} @ {a}.T).T"))
    return str(d.of(f"tanh({d.param(m, shape[-2])} @ {a})", f"tanh({d.param(shape[-2])} @ {a})"))


@kind
def matrix_per_head(d: Draft) -> str:
    a, shape = d.value(2)
    W = d.param(shape[-2] if len(shape) == 2 else shape[-3], shape[-1], d.number(1, 3))
    return f"tanh({a}[:, :, None] @ {W})[:, :, 0]" if len(shape) == 2 else f"tanh({a} @ {W})"


@kind
def rows_by_rows(d: Draft) -> str:
    a, shape = d.value(2)
    *lead, m, k = shape
    other = d.beside((*lead, d.of(1, m), k))
    W = d.param(k, d.number(1, 3))
    vector = d.beside((*lead, k))
    return d.of(
        f"tanh({a} @ np.swapaxes({a}, -1, -2))", f"tanh({a} @ np.swapaxes({a} + {other}, -2, -1))",
        f"tanh(np.swapaxes({a}, -1, -2) @ ({a} @ {W}))", f"tanh(np.swapaxes({a}, -1, -2) @ sin({a}))",
        f"tanh({a} @ ({a}[..., 0, :] + {vector})[..., None])[..., 0]",
        f"tanh(({a}[..., 0] * 0.5)[..., None, :] @ {a})[..., 0, :]",
    )  # fmt: skip


@kind
def outer_product(d: Draft) -> str:
    a, _ = d.value(1, 1)
    b, _ = d.value(1, 1)
    return d.of(
        f"{a}[:, :, None] * tanh({b})[:, None, :]", f"einsum('bi,bj->bij', {a}, {b})",
        f"einsum('...i,...j->...ij', {a}, {b})", f"tanh({a}[..., None] @ {b}[:, None])",
    )  # fmt: skip


@kind
def _einsum(d: Draft) -> str:
    a, shape = d.value(1, 3)
    letters = "ijklmn"
    mine = letters[: len(shape)]
    lengths = dict(zip(mine, shape, strict=True))
    fixed = d.draw(st.booleans())
    if fixed:
        theirs = [d.of(*mine, letters[len(shape)]) for _ in range(d.number(1, 2))]
        theirs = list(dict.fromkeys(theirs))
        for label in theirs:
            lengths.setdefault(label, d.number(1, 3))
        b = d.param(*(lengths[label] for label in theirs))
    else:
        b, other = d.value(0, 3)
        theirs = []
        for i, n in enumerate(other):
            known = [label for label in mine if lengths[label] == n and label not in theirs]
            label = letters[3 + i]
            theirs.append(d.of(*known, label))
            lengths[theirs[-1]] = n
    kept = [label for label in dict.fromkeys([*mine, *theirs]) if d.draw(st.booleans())]
    out = "".join(d.draw(st.permutations(kept)))
    batch = "..." if (fixed or len(shape) < 3) and d.draw(st.booleans()) else "b"
    terms = [batch + mine, ("" if fixed else batch) + "".join(theirs)]
    operands = [a, b]
    if d.draw(st.booleans()):
        terms, operands = terms[::-1], operands[::-1]
    return f"tanh(einsum('{','.join(terms)}->{batch}{out}', {', '.join(operands)}))"


@kind
def three_in_one_einsum(d: Draft) -> str:
    a, shape = d.value(2, 2)
    b, _ = d.value(1, 1)
    W = d.param(shape[1], d.number(1, 3))
    return f"tanh(einsum('bij,jk,bl->{d.of('bikl', 'blk', 'bil', 'bk')}', {a}, {W}, {b}))"


@kind
def _cumsum(d: Draft) -> str:
    a, shape = d.value(1)
    return f"tanh({d.of('np.', '')}cumsum({a}, axis={d.axis(len(shape))}))"


@kind
def new_axis(d: Draft) -> str:
    a, shape = d.value(0, 3)
    where = d.number(1, len(shape) + 1)
    index = ", ".join([":"] * where + ["None"])
    return d.of(f"{a}[{index}]", f"np.expand_dims({a}, {where})", f"{a}[..., None]", f"np.expand_dims({a}, -1)")


@kind
def squeeze(d: Draft) -> str:
    a, shape = d.value(1)
    ones = [i for i, n in enumerate(shape, 1) if n == 1]
    if not ones:
        axis = d.axis(len(shape))
        return f"np.squeeze({a}.mean(axis={axis}, keepdims=True), axis={axis})"
    axis = d.of(*ones)
    return d.of(f"np.squeeze({a}, axis={axis})", f"{a}[{', '.join([':'] * axis + ['0'])}]")


@kind
def _stack(d: Draft) -> str:
    a, shape = d.value(0, 3)
    b = d.beside(shape)
    where = d.of(-1, *range(1, len(shape) + 1))
    return f"{d.of('np.', '')}stack([{a}, {a} * {b}], axis={where})"


@kind
def concatenation(d: Draft) -> str:
    a, shape = d.value(1)
    axis = d.number(0, len(shape) - 1)
    rest = [
        (name, other)
        for name, other in d.shapes.items()
        if len(other) == len(shape)
        and all(i == axis or n == m for i, (n, m) in enumerate(zip(other, shape, strict=True)))
    ]
    b = d.of(*reversed(rest))[0] if rest else a
    d.used.add(b)
    axis = axis + 1 - d.of(0, len(shape) + 1)
    joined = f"concatenate([{a}, {b}{d.of('', f', tanh({a})')}], axis={axis})"
    return f"np.{joined}" if axis != -1 else d.of(f"np.{joined}", f"concat({a}, {b})", joined)


@kind
def _slice(d: Draft) -> str:
    a, shape = d.value(1)
    parts: list[str] = []
    count = d.number(1, len(shape))
    fancy = d.of(-1, *range(count))
    for i, n in enumerate(shape[-count:]):
        if d.of(False, False, False, True):
            parts.append("None")
        if i == fancy:
            parts.append(_fancy(d, n))
        elif fancy < 0 and d.draw(st.booleans()):
            parts.append(str(d.number(-n, n - 1)))
        else:
            s = d.draw(st.slices(n))
            parts.append(":".join("" if part is None else str(part) for part in (s.start, s.stop, s.step)))
    before = "..." if d.draw(st.booleans()) else ", ".join([":"] * (1 + len(shape) - count))
    return f"{a}[{before}, {', '.join(parts)}]"


def _fancy(d: Draft, n: int) -> str:
    """Indices along an axis of length n: integers with repeats, from either end, or a mask."""
    flags = [d.draw(st.booleans()) for _ in range(n)]
    if any(flags) and d.draw(st.booleans()):
        return f"np.array({flags})"
    indices = [d.number(-n, n - 1) for _ in range(d.number(1, 5))]
    return d.of(f"np.array({indices})", f"{indices}")


@kind
def several_indices(d: Draft) -> str:
    """Arrays and numbers together, which NumPy broadcasts; apart from each other they move to the front."""
    a, shape = d.value(2, 3)
    m, n = shape[:2]
    rows = [d.number(-m, m - 1) for _ in range(2)]
    columns = [d.number(-n, n - 1) for _ in range(2)]
    if len(shape) == 2:
        return str(d.of(f"{a}[:, {rows}, {columns}]", f"{a}[:, np.array({rows})[:, None], {columns}]",
                        f"{a}[:, {rows[0]}, {columns}]"))  # fmt: skip
    last = d.number(0, shape[2] - 1)
    return str(d.of(f"np.moveaxis({a}[:, {rows}, :, {last}], 0, 1)", f"{a}[:, :, {columns}, {last}]",
                    f"np.swapaxes({a}[:, {rows[0]}, :, [{last}]], 0, 1)"))  # fmt: skip


@kind
def _take(d: Draft) -> str:
    a, shape = d.value(1)
    axis = d.axis(len(shape))
    n = shape[axis - 1] if axis > 0 else shape[axis]
    indices = [d.number(-n, n - 1) for _ in range(d.number(1, 4))]
    return f"{d.of('np.', '')}take({a}, {d.of(indices, indices[0])}, axis={axis})"


@kind
def moved_axes(d: Draft) -> str:
    a, shape = d.value(2)
    i, j = d.axis(len(shape)), d.axis(len(shape))
    order = (0, *d.draw(st.permutations(range(1, len(shape) + 1))))
    return d.of(
        f"np.swapaxes({a}, {i}, {j})", f"np.moveaxis({a}, {i}, {j})", f"np.transpose({a}, {order})",
        f"{a}.transpose{order}",
    )  # fmt: skip


@kind
def moved_batch(d: Draft) -> str:
    a, shape = d.value(1, 3)
    v = d.param(*shape[1:], 1) if len(shape) > 1 else d.param(shape[0], 1)
    first = d.param(shape[-1], d.number(1, 3))
    found = [
        f"np.moveaxis(tanh(np.moveaxis({a}, 0, -1) * {v}), -1, 0)",
        f"np.moveaxis(np.moveaxis({a}, 0, -1) - 0.5, -1, 0)",
        f"np.moveaxis(np.moveaxis({a}, 0, 1)[::-1], 1, 0)",
        f"np.moveaxis({a}, 0, 1).sum(axis=0)",
        f"np.moveaxis(np.stack([{a}, tanh({a})]), 0, -1)",
        f"np.stack([{a}, sin({a})]).sum(axis=0)",
    ]
    if len(shape) == 1:
        found += [f"tanh({first}.T @ {a}.T).T", f"np.concatenate([{a}.T, tanh({a}).T]).T"]
    else:
        found += [f"np.swapaxes(tanh(np.swapaxes({a}, 0, 1) @ {first}), 0, 1)"]
    return str(d.of(*found))


@kind
def heads(d: Draft) -> str:
    a, shape = d.value(1)
    size = math.prod(shape)
    n = d.of(*[n for n in range(1, size + 1) if size % n == 0])
    m = d.of(*[m for m in range(1, size // n + 1) if (size // n) % m == 0])
    return d.of(
        f"{a}.reshape(-1, {size})", f"{a}.reshape(len({a}), {n}, -1)", f"{a}.reshape(-1, {n}, {size // n})",
        f"np.reshape({a}, ({a}.shape[0], {m}, {size // n // m}, {n}))",
        f"np.swapaxes({a}.reshape(-1, {n}, {size // n}), 1, 2).reshape(len({a}), -1)",
    )  # fmt: skip


@kind
def merged_rows(d: Draft) -> str:
    a, shape = d.value(2)
    *lead, n = shape
    W = d.param(n, d.number(1, 3))
    flat = f"{a}.reshape(-1, {n})"
    back = ", ".join(map(str, (-1, *lead)))
    return d.of(
        f"tanh({flat} @ {W}).reshape({back}, {d.step.params[W.split(chr(39))[1]][1]})",
        f"layer_norm({flat}, 1.5, 0.5, epsilon=0.1).reshape({back}, {n})",
        f"tanh({flat} * {d.param(n)}).reshape({back}, {n})",
        f"tanh({flat}.sum(axis=1)).reshape({back})",
        f"np.concatenate([{flat}, {flat}[:, ::-1]], axis=1).reshape({back}, {2 * n})",
        f"log_softmax({flat}).reshape(len({a}), {', '.join(map(str, lead))}, -1)",
    )  # fmt: skip


@kind
def reduction(d: Draft) -> str:
    a, shape = d.value(1)
    axes, keep = d.axes(len(shape)), d.of("", ", keepdims=True")
    return d.of(
        f"tanh({a}.sum(axis={axes}{keep}))", f"{a}.mean(axis={axes}{keep})", f"np.mean({a}, {axes})",
        f"logsumexp({a}, axis={axes}{keep})", f"np.linalg.norm(2 + tanh({a}), axis={d.axis(len(shape))}{keep})",
        f"tanh(np.prod({a}, axis={axes}))", f"np.var({a}, axis={axes}{keep})", f"np.std({a} + 3, axis={axes})",
    )  # fmt: skip


@kinked
def extremum(d: Draft) -> str:
    a, shape = d.value(1)
    axes, keep = d.axes(len(shape)), d.of("", ", keepdims=True")
    return d.of(f"{a}.max(axis={axes}{keep})", f"np.min({a}, axis={axes}{keep})", f"np.amax({a}, axis={axes})")


@kind
def normalisation(d: Draft) -> str:
    a, shape = d.value(1)
    axis = d.axis(len(shape))
    return d.of(
        f"log_softmax({a}, axis={axis})", f"softmax({a}, axis={axis})",
        f"layer_norm({a}, 1.5, 0.5, axis={axis}, epsilon=0.1)",
        f"layer_norm({a}, {d.param(shape[-1])}, {d.param(shape[-1])}, epsilon=0.1)",
    )  # fmt: skip


@kind
def attention(d: Draft) -> str:
    a, shape = d.value(2, 2)
    q = d.beside((shape[1],))
    return d.of(
        f"einsum('bs,bsd->bd', softmax(einsum('bsd,bd->bs', {a}, {a}[:, 0] * {q})), {a})",
        f"(softmax(({a} * ({a}[:, -1] + {q})[:, None]).sum(axis=-1))[:, :, None] * {a}).sum(axis=1)",
        f"(softmax({a} @ np.swapaxes({a}, 1, 2)) @ {a})",
    )  # fmt: skip


@kind
def _pad(d: Draft) -> str:
    a, shape = d.value(1)
    widths = [(d.number(0, 2), d.number(0, 2)) for _ in shape]
    return f"np.pad({a}, {((0, 0), *widths)})"


@kind
def shift(d: Draft) -> str:
    a, shape = d.value(1)
    axis, n = d.number(1, len(shape)), len(shape)
    before = ", ".join([":"] * axis)
    return d.of(
        f"np.roll({a}, {d.number(-2, 2)}, axis={d.axis(n)})", f"np.flip({a}, axis={d.axes(n)})",
        f"np.concatenate([{a}[{before}, 1:], {a}[{before}, :1]], axis={axis})",
    )  # fmt: skip


@kind
def repetition(d: Draft) -> str:
    a, shape = d.value(1, 3)
    axis = d.number(1, len(shape))
    counts = [d.number(0, 2) for _ in range(shape[axis - 1])]
    reps = (1, *(d.number(1, 2) for _ in shape))
    return d.of(
        f"np.repeat({a}, {d.of(2, counts if any(counts) else 1)}, axis={axis})", f"np.tile({a}, {reps})",
        f"np.broadcast_to({a}[:, None], ({d.of(f'len({a})', f'{a}.shape[0]')}, 2, *{a}.shape[1:]))",
    )  # fmt: skip


@kind
def parts(d: Draft) -> str:
    a, shape = d.value(1)
    axis = d.number(1, len(shape))
    n = shape[axis - 1]
    divisors = [k for k in range(1, n + 1) if n % k == 0]
    k = d.of(*reversed(divisors))
    taken = f"split({a}, {k}, axis={axis})"
    return d.of(f"{taken}[{d.number(0, k - 1)}]", f"np.stack({taken}).mean(axis=0)", f"np.stack({taken}, axis=1)")


# --- steps ------------------------------------------------------------------------------------------------------------

SHAPES: tuple[Shape, ...] = (
    (3,), (2, 3), (), (1,), (4,), (2, 2, 3), (3, 2), (1, 4), (3, 1), (17,), (2, 16), (3, 1, 2), (12, 8),
)  # fmt: skip


@st.composite
def steps(draw: Any, kinks: bool = True, context: bool = False, inputs: int = 2) -> Step:
    """Steps of all kinds of expressions, or of those without kinks; every value is used or an output."""
    kinds = [name for name in KINDS if kinks or name not in KINKED]
    shapes = st.sampled_from(SHAPES)
    bounds = ((1, 2), (1, inputs), (int(context), 2 * context))
    d = Draft(draw, *[draw(st.lists(shapes, min_size=least, max_size=most)) for least, most in bounds])
    for _ in range(draw(st.integers(1, 6))):
        used = set(d.used)
        if d.add(KINDS[draw(st.sampled_from(kinds))](d)) is None:
            d.used = used
    made = [name for name in d.shapes if name.startswith("v")]
    for name, shape in d.step.carry.items():
        fitting = [value for value in made if d.shapes[value] == shape]
        if fitting:
            value = draw(st.sampled_from(fitting[::-1]))
            text = value
        else:
            value = draw(st.sampled_from([*made[::-1], *d.shapes]))
            width, size = math.prod(d.shapes[value]), math.prod(shape)
            text = (
                f"({value}.reshape(-1, {width}) @ {d.param(width, size)}).reshape({', '.join(map(str, (-1, *shape)))})"
            )
        d.used.add(value)
        new = d.add(f"tanh({text} + {name})")
        assert new is not None
        d.step.carried[name] = new
    d.step.ys = [name for name in made if name not in d.used]
    d.step.ys += draw(st.lists(st.sampled_from(list(d.shapes)), max_size=2))
    return d.step


def sample(step: Step, length: int, batch: int, dtype: Any, looked_up: bool, options: dict[str, Any]) -> Sample:
    """A call with random numbers; a product is about as large as what went in."""
    rng = np.random.default_rng(0)

    def numbers(*shape: int, scale: float = 1) -> Any:
        return (scale * rng.standard_normal(shape)).astype(dtype)

    def inputs(shape: Shape) -> Any:
        if looked_up:
            return Lookup(numbers(3, *shape), rng.integers(0, 3, (length, batch)))
        return numbers(length, batch, *shape)

    params = {name: numbers(*s, scale=1 / np.sqrt(s[-2] if len(s) > 1 else 1)) for name, s in step.params.items()}
    carry = {name: numbers(batch, *shape) for name, shape in step.carry.items()}
    context = {name: numbers(batch, *shape) for name, shape in step.context.items()} or None
    xs = {name: inputs(shape) for name, shape in step.xs.items()}
    return Sample(step.function(), params, carry, xs, options, context)


@contextmanager
def nothing_but(backend: str, divided: bool) -> Iterator[None]:
    """Whatever runs on another backend within this block fails; ``divided`` shares the least work between threads."""

    def fail(program: Any) -> Any:
        raise AssertionError("it ran on the NumPy backend")

    with no_reference_loop(), pytest.MonkeyPatch.context() as patch:
        if divided:
            patch.setattr(numpy_backend, "_BLOCK", 40)
        if backend == "numpy":
            yield
            return
        from minigrad.scan import compiled_backend

        patch.setattr(numpy_backend, "Executor", fail)
        if divided:
            patch.setattr(compiled_backend, "BLOCK", 3)
            patch.setattr(compiled_backend, "WORTH_SHARING", 0)
            patch.setenv("MINIGRAD_THREADS", "2")
        with poisoned_memory():
            yield


def check(
    step: Step, backend: str, length: int, batch: int, dtype: Any, looked_up: bool, options: Any, divided: bool = False
) -> None:
    """A step is planned, and its values and gradients on a backend are those of the reference loop."""
    call = sample(step, length, batch, dtype, looked_up, options)
    expected = outcome(call, "reference")
    with nothing_but(backend, divided):
        found = outcome(call, backend)
    for actual, right in zip(found, expected, strict=True):
        assert_close(actual, right, dtype)


@st.composite
def calls(draw: Any) -> dict[str, Any]:
    """Lengths of batches and sequences, and what a scan is called with beside them."""
    length, batch = draw(st.sampled_from([2, 1, 3])), draw(st.sampled_from([2, 1, 3, 9]))
    rng = np.random.default_rng(1)
    options: dict[str, Any] = {"reverse": True} if draw(st.booleans()) else {}
    masked = draw(st.sampled_from(["", "", "lengths", "mask"]))
    if masked == "lengths":
        options["lengths"] = rng.integers(0, length + 1, batch)
    elif masked == "mask":
        options["mask"] = rng.random((length, batch)) < 0.6
    return {
        "length": length,
        "batch": batch,
        "looked_up": draw(st.sampled_from([False, False, True])),
        "options": options,
        "divided": draw(st.booleans()),
    }


@every_backend
@settings(max_examples=max(1, settings().max_examples // 2))  # compiling takes its time
@given(data=st.data())
def test_any_step_on_rows_of_any_shape(backend, data):
    dtype = data.draw(st.sampled_from([np.float64, np.float32]))
    step = data.draw(steps(kinks=dtype == np.float64, context=data.draw(st.booleans())))
    check(step, backend, dtype=dtype, **data.draw(calls()))


@every_backend
@settings(max_examples=max(1, settings().max_examples // 5))
@given(data=st.data(), batch=st.sampled_from([1, 3]))
def test_any_step_is_prepared_to_run_once_at_a_time(backend, batch, data):
    step = data.draw(steps(context=data.draw(st.booleans()), inputs=1))
    call = sample(step, 3, batch, np.float64, True, {})
    ((name, x),) = call.xs.items()
    carry, more = call.carry, [] if call.context is None else [call.context]

    @dataclass(frozen=True)
    class Cell:
        def __call__(self, params: Any, carry: Any, x: Any, *context: Any) -> Any:
            return call.step(params, carry, {name: x}, *context)

    with use_backend(backend):
        prepared = planned.stepper(Cell(), call.params, carry, x.table, call.context)
    assert prepared is not None
    for symbols in x.indices:
        carry, ys = call.step(call.params, carry, {name: x.table[symbols]}, *more)
        assert_close(prepared(symbols), ys, np.float64)
        assert_close(prepared.carry, trees.leaves(carry), np.float64)


def graph_of(call: Sample) -> stepgraph.StepGraph:
    x = trees.map(lambda array: array[0], call.xs)
    return stepgraph.of(call.step, call.params, call.carry, x, call.context)


@given(step=steps(context=True))
def test_the_graph_of_any_step_holds_for_every_batch(step):
    for batch in (1, 2):
        call = sample(step, 1, batch, np.float64, False, {})
        x = trees.map(lambda array: array[0], call.xs)
        found = evaluate(graph_of(call).graph, trees.leaves((call.params, call.carry, call.context, x)))
        right = call.step(call.params, call.carry, x, call.context)
        assert_close(found, trees.leaves(right), np.float64)


# --- programs ---------------------------------------------------------------------------------------------------------


def row_of(x: Value) -> Shape:
    """The shape of a row of a value, whose first axis is the batch, and no other."""
    assert isinstance(x.shape[0], Batch)
    assert x.shape[0].times == 1
    assert not any(isinstance(n, Batch) for n in x.shape[1:])
    return x.shape[1:]


def spreads(part: Shape, whole: Shape) -> bool:
    """Whether an array of one shape broadcasts to another."""
    return len(part) <= len(whole) and all(n in (1, m) for n, m in zip(part[::-1], whole[::-1], strict=False))


def chooses(index: Any, shape: Shape) -> Shape:
    """The shape of what an index of rows takes: slices, and at most one array of integers."""
    first, *others = index
    assert first == slice(None)
    assert len(others) == len(shape)
    assert sum(isinstance(part, np.ndarray) for part in others) <= 1
    for part in others:
        assert isinstance(part, slice) or (part.ndim == 1 and part.dtype.kind == "i")
    return np.broadcast_to(0, shape)[tuple(others)].shape


def check_operation(op: Op, fixed: set[Value]) -> None:
    """An operation on rows is one of those that backends have, in the form that they expect."""
    inner, options = row_of(op.output), op.options
    rows = [row_of(x) for x in op.values if x not in fixed]
    given_rows = rows[0] if rows else ()
    if op.name == "matmul":
        a, b = op.values
        (*lead, m, k), matrix = ((*a.shape[1:-1], 1, a.shape[-1]) if a.ndim == 2 else row_of(a)), b.shape
        if b in fixed:
            assert (b.ndim, matrix[0], inner) == (2, k, (*row_of(a)[:-1], matrix[1]))
        else:
            *other, rows_of_b, n = row_of(b)
            assert (rows_of_b, inner) == (k, (*np.broadcast_shapes(tuple(lead), tuple(other)), m, n))
    elif op.name in ("pick", "place"):
        row, indices = rows
        assert (*indices, row[-1] if op.name == "pick" else options["size"]) == (row if op.name == "pick" else inner)
    elif op.name in MAPS:
        for x in op.values:
            assert spreads(x.shape, inner) if x in fixed else spreads(row_of(x), inner) and x.ndim == op.output.ndim
    elif op.name == "reshape":
        assert math.prod(given_rows) == math.prod(inner)
    elif op.name == "transpose":
        assert options["axes"][0] == 0
        assert tuple(given_rows[axis - 1] for axis in options["axes"][1:]) == inner
    elif op.name == "concatenate":
        assert options["axis"] % op.output.ndim >= 1
        assert len(rows) == len(op.inputs)
    elif op.name == "getitem":
        assert chooses(options["index"], given_rows) == inner
    elif op.name == "scatter":
        for row, index in zip(rows, options["indices"], strict=True):
            assert chooses(index, inner) == row
    elif op.name in ("sum", "max"):
        assert all(axis % (1 + len(given_rows)) > 0 for axis in np.atleast_1d(options["axis"]))
    else:
        assert op.name == "cumsum"
        assert options["axis"] % op.output.ndim > 0


@given(step=steps(context=True))
def test_a_program_of_any_step_consists_of_operations_on_rows(step):
    found = graph_of(sample(step, 1, 2, np.float64, False, {}))
    wanted = [True] * len(found.graph.inputs)
    program = plan(found, wanted=wanted)
    for stage in program.stages:
        assert stage.backward is not None
        for body in (stage.forward, stage.backward):
            fixed = {x for x in body.prologue.outputs if isinstance(x, Value)}
            for op in body.ops:
                check_operation(op, fixed)
            for total in body.sums:
                if total.left is not None:
                    (*rest, m), (*same, n) = row_of(total.left), row_of(total.right)
                    assert (rest, (m, n)) == (same, total.op.output.shape)

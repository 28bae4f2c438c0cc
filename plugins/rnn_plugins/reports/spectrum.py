"""How far one step of a cell stretches and shrinks what it carries, along a text. It changes nothing and draws nothing.

The Jacobians of the carry along a text, and the matrices in the step that the carried states go through, are found here
for any cell; whoever needs them finds them here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import scan, trees
from minigrad.graph import Graph, Op, TraceError, Value, columns_of, evaluate, prune
from minigrad.scan.passes import Level, classify, depends_on, split
from minigrad.scan.planned import graph_of
from minigrad.tensor import PRIMITIVES
from minigrad.trees import Tree
from rnn_cells import Cell, Stacked
from rnn_cells.anatomy import State, anatomy, jacobians, places_of_states
from rnn_plugins.errors import UserError
from rnn_plugins.reports.probing import places, read, windows
from rnn_plugins.reports.report import Chart, Curve, Figure, Findings, Look, Quantity, Report, Table
from rnn_plugins.reports.subject import Subject
from rnn_plugins.text.vocabulary import NOUNS

Array: TypeAlias = NDArray[Any]

STRETCHES = 3
"""Stretches of text along which Jacobians are multiplied, at most."""

MOST_JACOBIANS = 300
"""Jacobians that are looked at, at most."""

WORK = 75 * 512**3
"""Jacobians that are looked at, times the cube of their width: a few seconds' work."""

LEAST_STEPS = 8
"""Steps of each stretch, however wide the carry is."""

DECOMPOSED = 24
"""Jacobians of which all singular values are computed, about; of the others only the largest."""

LAGS = 12
"""Lengths at which the norm of the product is computed."""

NUMBERS_AT_ONCE = 2_000_000
"""Numbers of Jacobians that are held together."""

ROUNDING = 1e-6
"""How far from 1 a singular value must be not to count as 1: parameters are rounded to float32."""

SLOPES = {"tanh": 1.0, "sigmoid": 0.25, "relu": 1.0, "": 1.0}
"""The steepest slope of each activation, and of none."""

DECADE = float(np.log(10))
"""The logarithm of a factor from which on what is carried is said to shrink or to be stretched."""

TALLEST_BOUND = float(np.log(1e4))
"""How far above what was measured a bound is drawn, so that it does not flatten all the rest: a logarithm."""

PER_DECADE = 10
"""Bars of the histogram to a factor of 10."""

LOWEST = 1e-6
"""The smallest singular value that the histogram shows."""


class Stretches(NamedTuple):
    """Where Jacobians are taken: stretches of text, and the states that reading what comes before them leads to.

    Attributes:
        cell: whose.
        params: its parameters, float64.
        carry: before the first step, (B, ...) each.
        xs: (T, B, I), what it sees.
        read: symbols that it has read before.
        notices: what had to be done otherwise than asked.
    """

    cell: Cell
    params: Tree
    carry: Tree
    xs: Array
    read: int
    notices: tuple[str, ...]


def stretches(subject: Subject, look: Look, steps: int, count: int) -> Stretches:
    """Stretches of a subject's text, in float64, each read from a first carry of its own ``look.lags`` symbols before.

    Args:
        subject: the model and its text.
        look: how much is read before, and the seed of the choice.
        steps: T, the length of each.
        count: B, how many.

    Raises:
        UserError: the text is too short, or the cell carries nothing.
    """
    model, params = replace(subject.model, dtype="float64"), trees.cast(subject.params, "float64")
    if not width_of_carry(model.cell):
        raise UserError("the cell carries no state from step to step, so there is no Jacobian to look at")
    available = len(subject.tokens) - 1
    if available < 2:
        raise UserError(
            f"the text has {len(subject.tokens)} symbols, and a Jacobian along it takes 3: give a longer one"
        )
    short = min(steps, max(available - look.lags, available // 2))
    before = min(look.lags, available - short)
    reduced = [
        f"the steps {name} from {asked} to {used}"
        for name, asked, used in (("looked at", steps, short), ("read before them", look.lags, before))
        if asked != used
    ]
    notices = (f"the text is short ({available + 1:,} symbols), which reduces {' and '.join(reduced)}",)
    ends = places(len(subject.tokens), before + short, count, np.random.default_rng(look.seed))
    text = windows(subject.tokens, ends, before + short)
    carry = read(model, params, text[:before])
    xs = np.asarray(model.table(params))[text[before:]]
    return Stretches(model.cell, params["cell"], carry, xs, before, notices if reduced else ())


def effort(width: int, lags: int) -> tuple[int, int]:
    """How many steps of how many stretches to look at, where so many numbers are carried."""
    count = min(MOST_JACOBIANS, WORK // max(1, width) ** 3)
    steps = min(lags, max(LEAST_STEPS, count // STRETCHES))
    return steps, min(STRETCHES, max(1, count // steps))


def width_of_carry(cell: Cell) -> int:
    """How many numbers a cell carries, D: the states of one sequence."""
    carry = cell.init_carry(1)
    leaves = trees.leaves(carry)
    return sum(int(leaves[place].size) for place in places_of_states(carry))


def jacobians_along(cell: Cell, params: Tree, carry: Tree, xs: Array) -> Iterator[Array]:
    """The derivatives of the carry after each step by that before it, along sequences.

    Args:
        cell: whose steps.
        params: its parameters.
        carry: before the first step, (B, ...) each.
        xs: inputs (T, B, I).

    Yields:
        (B, D, D) for each of the T steps, as ``rnn_cells.anatomy.jacobians`` gives them.

    Raises:
        UserError: the states grow beyond all numbers.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        _, after = scan(_Carries(cell), params, carry, xs)
    before = trees.map(lambda first, later: np.concatenate([np.asarray(first)[None], later[:-1]]), carry, after)
    if not all(np.isfinite(leaf).all() for leaf in trees.leaves(before)):
        raise UserError(
            "the network's states grow beyond all numbers along the text: take a smaller recurrent matrix, or train "
            "with clipping (--grad-clip 1)"
        )
    batch, width = xs.shape[1], width_of_carry(cell)
    together = max(1, NUMBERS_AT_ONCE // (batch * width * width))
    for start in range(0, len(xs), together):
        stop = start + together
        carries = trees.map(lambda leaf: leaf[start:stop].reshape(-1, *leaf.shape[2:]), before)  # noqa: B023
        J = jacobians(cell, params, carries, xs[start:stop].reshape(-1, xs.shape[-1]))
        yield from J.reshape(-1, batch, width, width)


@dataclass(frozen=True)
class _Carries:
    """The step of a cell with its carry in place of the output."""

    cell: Cell

    def __call__(self, params: Tree, carry: Tree, x: Any) -> tuple[Tree, Tree]:
        """One step."""
        carry, _ = self.cell(params, carry, x)
        return carry, carry


class Measured(NamedTuple):
    """Singular values along stretches of text.

    Attributes:
        values: (N, D), all of some Jacobians, the largest first.
        norms: (T, B), the largest of every one.
        lags: (K,), lengths of products.
        products: (K, B), the logarithm of the norm of the product of the first k Jacobians; minus infinity where it is
            nothing.
    """

    values: Array
    norms: Array
    lags: Array
    products: Array


def measure_spectrum(steps: Iterable[Array], length: int) -> Measured:
    """The singular values of Jacobians (B, D, D), ``length`` of them one after another, and of their products."""
    lags = np.unique(np.geomspace(1, length, LAGS).round().astype(int))
    values: list[Array] = []
    norms: list[Array] = []
    products: list[Array] = []
    product: Array | None = None
    scale: Any = 0.0
    for k, J in enumerate(steps, start=1):
        if (k - 1) % max(1, length * len(J) // DECOMPOSED) == 0:
            values.append(np.linalg.svd(J, compute_uv=False))
        norms.append(norm(J))
        product = J if product is None else J @ product
        # The product is kept at size 1 and its size beside it, for after many steps it is no number any more.
        size = np.linalg.norm(product, axis=(1, 2))
        product = product / np.where(size > 0, size, 1.0)[:, None, None]
        scale = scale + log(size)
        if k in lags:
            products.append(scale + log(norm(product)))
    return Measured(np.concatenate(values), np.array(norms), lags, np.array(products))


def norm(matrices: Array) -> Array:
    """The largest singular value of each of some matrices, (B, D, D) -> (B,)."""
    # The square root of an eigenvalue is as precise as a singular value where it is the largest, in half the time.
    return np.sqrt(np.maximum(np.linalg.eigvalsh(matrices @ matrices.swapaxes(1, 2))[:, -1], 0))


def log(values: Any) -> Array:
    """The natural logarithm, minus infinity of 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(values))


def exp(logs: Any) -> Array:
    """The exponential, infinity where it is too large for a number."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(logs))


@dataclass(frozen=True)
class Recurrent:
    """A matrix in a cell's step that multiplies what is made of the carried states.

    Attributes:
        name: of the parameter, with rows and columns where it is not the whole of it.
        operand: what it multiplies.
        matrix: (rows, columns); the operand comes from the left.
    """

    name: str
    operand: str
    matrix: Array


@dataclass(frozen=True)
class Basic:
    """A basic network, s_t = activation(s_{t-1} W + what is made of the input).

    Attributes:
        activation: ``tanh``, ``sigmoid``, ``relu``, or empty for none.
        matrix: W, (D, D).
    """

    activation: str
    matrix: Array

    @property
    def bound(self) -> float:
        """The steepest slope of the activation times the largest singular value of W.

        No Jacobian's norm is above it (Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063, section 2.1).
        """
        return SLOPES[self.activation] * float(np.linalg.norm(self.matrix, 2))


class _Step:
    """The graph of a cell's step with its parameters, in float64: products with a concatenation taken apart."""

    def __init__(self, cell: Cell, params: Tree) -> None:
        """Trace it.

        Raises:
            TraceError: the step cannot be traced.
        """
        params, carry = trees.cast((params, cell.init_carry(1)), np.float64)
        xs = np.zeros((1, 1, cell.input_size))
        graph = graph_of(cell, params, carry, xs)
        counts = len(trees.leaves(params)), len(trees.leaves(carry))
        levels = dict.fromkeys(graph.inputs, Level.INPUT)
        levels |= dict.fromkeys(graph.inputs[: counts[0]], Level.FIXED)
        levels |= dict.fromkeys(graph.inputs[counts[0] : sum(counts)], Level.STATE)
        self.graph = split(graph, levels)
        self.level = classify(self.graph, levels)
        self.makers = self.graph.makers()
        states = anatomy(cell).states
        self.states: dict[Value, State] = {self.graph.inputs[counts[0] + state.place]: state for state in states}
        self.new_states = [self.graph.outputs[state.place] for state in states]
        self._arrays = [*trees.leaves(params), *trees.leaves(carry), xs[0]]

    def products(self) -> list[Op]:
        """Products of something that is made of a state with a matrix that is not."""
        return [
            op
            for op in self.graph.ops
            if op.name == "matmul"
            and [self.level[x] for x in op.values] == [Level.STATE, Level.FIXED]
            and op.values[1].ndim == 2
        ]

    def value(self, x: Value) -> Array:
        """The value of what depends on parameters alone."""
        graph = self.graph
        alone = prune(Graph(graph.inputs, [x], graph.ops, graph.constants, graph.names))
        return np.asarray(evaluate(alone, self._arrays)[0])

    def name(self, matrix: Value, columns: tuple[int, int]) -> str:
        """The parameters that some columns of a matrix are made of, with their rows and columns where not all are."""
        made_of = depends_on(self.graph, [matrix])
        names = [name.removeprefix("params.") for x, name in self.graph.names.items() if x in made_of]
        whole, taken = matrix, []
        while (maker := self.makers.get(whole)) and maker.name == "getitem":
            taken.append(maker.options["index"])
            (whole,) = maker.values
        where = ""
        if whole.ndim == 2:
            numbers = np.arange(whole.shape[0] * whole.shape[1]).reshape(whole.shape)
            part = numbers
            for index in reversed(taken):
                part = part[index]
            part = part[:, slice(*columns)]
            top, left = divmod(int(part[0, 0]), whole.shape[1])
            bottom, right = top + part.shape[0], left + part.shape[1]
            if np.array_equal(part, numbers[top:bottom, left:right]):
                rows, across = _span(top, bottom, whole.shape[0]), _span(left, right, whole.shape[1])
                where = f"[{rows}, {across}]" if across != ":" else f"[{rows}]" if rows != ":" else ""
        return (" ".join(names) or "constant") + where

    def operand(self, x: Value) -> str:
        """What a value is, by the states that it is made of."""
        if x in self.states:
            return self.states[x].name
        made_of = depends_on(self.graph, [x])
        for state, new in zip(self.states.values(), self.new_states, strict=False):
            if x is new:
                return f"new {state.name}"
        maker = self.makers[x]
        names = [state.name for value, state in self.states.items() if value in made_of]
        gated = [self.states[value].name for value in maker.values if value in self.states]
        return f"gated {gated[0]}" if maker.name == "multiply" and gated else f"made of {', '.join(names)}"

    def parts(self, product: Op) -> list[tuple[int, int]]:
        """The columns that a product is taken apart into, such as those of several gates; all where it is not."""
        users = self.graph.users()
        found: set[tuple[int, int]] = set()
        todo = [product.output]
        while todo:
            x = todo.pop()
            for op in users.get(x, []):
                columns = columns_of(op) if op.name == "getitem" else None
                if columns:
                    found.add(columns)
                elif op.output.shape == x.shape and op.name in PRIMITIVES and PRIMITIVES[op.name].broadcasts:
                    todo.append(op.output)
        return sorted(found) or [(0, product.output.shape[-1])]


def _span(start: int, stop: int, size: int) -> str:
    """Places along an axis, as a slice; ``:`` for all of them."""
    return ":" if (start, stop) == (0, size) else f"{start}:{stop}"


def recurrent_matrices(cell: Cell, params: Tree) -> list[Recurrent]:
    """The matrices that multiply carried states in a cell's step, or what is made of them in it, found from its graph.

    Where a state enters a product together with an input, as in ``concat(h, x) @ W``, it is the rows of W that the
    state meets; where the product is taken apart into gates, there is a matrix for each.

    Raises:
        TraceError: the step cannot be traced.
    """
    if isinstance(cell, Stacked):
        return [
            replace(found, name=f"layer{i + 1}.{found.name}")
            for i, below in enumerate(cell.cells)
            for found in recurrent_matrices(below, params[str(i)])
        ]
    step = _Step(cell, params)
    found = []
    for op in step.products():
        operand, W = op.values
        matrix = step.value(W)
        for start, stop in step.parts(op):
            found.append(Recurrent(step.name(W, (start, stop)), step.operand(operand), matrix[:, start:stop]))
    return found


def basic_form(cell: Cell, params: Tree) -> Basic | str:
    """The step as that of a basic network; where it is none, why, as the end of a sentence.

    Raises:
        TraceError: the step cannot be traced.
    """
    if isinstance(cell, Stacked):
        return "it has several layers"
    step = _Step(cell, params)
    if len(step.states) != 1:
        return f"it carries {len(step.states)} states"
    (state,), (new,) = step.states, step.new_states
    if not isinstance(new, Value) or step.level[new] != Level.STATE:
        return "the new state does not depend on the old one"
    maker = step.makers.get(new)
    activation, total = (maker.name, maker.values[0]) if maker and maker.name in SLOPES else ("", new)
    terms = [x for x in _terms(total, step.makers) if step.level[x] == Level.STATE]
    products = [op for op in step.products() if op.output in terms]
    if len(terms) != 1 or len(products) != 1 or products[0].values[0] is not state:
        return "its new state is no activation of a sum in which one product has the old state"
    matrix = step.value(products[0].values[1])
    if matrix.shape[1] != state.shape[-1]:
        return "its recurrent matrix is not square"
    return Basic(activation, matrix)


def _terms(x: Value, makers: dict[Value, Op]) -> list[Value]:
    """What is added up to a value; a sign does not count."""
    maker = makers.get(x)
    if maker is None or maker.name not in ("add", "subtract", "negative"):
        return [x]
    return [term for value in maker.values for term in _terms(value, makers)]


class Spectrum(Report):
    """How far a step stretches the state: singular values of its Jacobian.

    Singular values of the one-step Jacobian of the whole carry along a text, the norm of the product of Jacobians over
    k steps, which is what backpropagation through time multiplies, the recurrent matrices, and for a basic network the
    bound of Pascanu, Mikolov and Bengio (2013, arXiv:1211.5063). All in float64.
    """

    title: ClassVar[str] = "Spectrum of the Jacobian"
    question: ClassVar[str] = "How far does a step stretch or shrink what is carried, and what is left after k steps?"

    def measure(self, subject: Subject, look: Look) -> Findings:
        """Look at one model on one text.

        Raises:
            UserError: the text is too short, the cell carries nothing, or its states grow beyond all numbers.
        """
        width = width_of_carry(subject.model.cell)
        along = stretches(subject, look, *effort(width, look.lags))
        length, batch = along.xs.shape[:2]
        steps_of = jacobians_along(along.cell, along.params, along.carry, along.xs)
        measured = measure_spectrum(steps_of, length)
        notices = list(along.notices)
        matrices: list[Recurrent] = []
        try:
            matrices = recurrent_matrices(along.cell, along.params)
            form = basic_form(along.cell, along.params)
        except TraceError as error:
            form = f"it cannot be read: {error}"
            notices.append(f"the recurrent matrices are not looked for, because the step cannot be read: {error}")
        where = (
            f"of the {length * batch} Jacobians along {batch} stretches of the text, of {length} steps each, "
            f"after {along.read} steps to come to a state"
        )
        unit = f"{NOUNS[subject.vocabulary.level]}s"
        figures: list[Figure] = [*_charts(measured, form, where, unit)]
        if matrices:
            figures.append(_table(matrices))
        quantities = _quantities(measured, matrices, form, where)
        return Findings(quantities, tuple(figures), _verdict(measured, form), tuple(notices))


def _charts(measured: Measured, form: Basic | str, where: str, unit: str) -> tuple[Chart, ...]:
    values, lags = measured.values, measured.lags
    width = values.shape[1]
    some = f"of {len(values)} {where}"
    low, high = np.quantile(values, [0.1, 0.9], axis=0)
    logs = measured.products
    products = [Curve("product", lags, exp(logs.mean(axis=1)), exp(logs.min(axis=1)), exp(logs.max(axis=1)))]
    norms = np.cumsum(log(measured.norms), axis=0)[lags - 1].mean(axis=1)
    products.append(Curve("its norms multiplied", lags, _drawn(norms, logs), role="bound"))
    if isinstance(form, Basic):
        products.append(Curve("bound by W", lags, _drawn(lags * log(form.bound), logs), role="reference"))
    return (
        Chart(
            "products",
            "The product of the Jacobians of k steps",
            f"k, {unit}",
            "largest singular value",
            tuple(products),
            log_y=True,
            definition=f"The largest singular value of the product {where}: the geometric mean, and a band from the "
            "least to the greatest stretch. It is at most the product of the largest singular values of each, also a "
            "geometric mean, and in a basic network at most (steepest slope x largest singular value of W)^k; these "
            "bounds are drawn as far as they are of use.",
        ),
        Chart(
            "histogram",
            "Singular values of the one-step Jacobian",
            "singular value",
            f"share in 1/{PER_DECADE} of a decade",
            (Curve("", *histogram(values), role="steps"),),
            log_x=True,
            definition=f"How many of the {width} singular values {some}, lie in each range; those below {LOWEST:g} are "
            "not drawn.",
        ),
        Chart(
            "singular_values",
            "Singular values of the one-step Jacobian, in order",
            "share of the dimension",
            "singular value",
            (Curve("", np.arange(1, width + 1) / width, values.mean(axis=0), low, high),),
            log_y=True,
            definition=f"The largest, the second and so on {some}: the mean, and the band that holds 80 % of them.",
        ),
    )


def _drawn(bound: Array, products: Array) -> Array:
    """A bound, from logarithms, as far as it is not so far above all products that it would flatten them."""
    return np.where(bound <= max(products.max(), 0.0) + TALLEST_BOUND, exp(bound), np.nan)


def histogram(values: Array) -> tuple[Array, Array]:
    """The share of values in each tenth of a decade, as an outline: lower ends of ranges, and shares, 0 at last."""
    total = values.size
    values = values[values >= LOWEST]
    # Ranges have powers of 10^(1/10) in their middle, so that rounding does not throw values at 1 to both sides.
    ranges = np.round(PER_DECADE * np.log10(values)).astype(int)
    first, last = (int(ranges.min()), int(ranges.max())) if len(ranges) else (0, 0)
    shares = np.bincount(ranges - first, minlength=last - first + 1) / total
    return 10 ** ((np.arange(first, last + 2) - 0.5) / PER_DECADE), np.append(shares, 0.0)


def _table(matrices: list[Recurrent]) -> Table:
    rows = []
    for found in matrices:
        square = found.matrix.shape[0] == found.matrix.shape[1]
        rows.append(
            (
                found.name,
                found.operand,
                " x ".join(map(str, found.matrix.shape)),
                spectral_radius(found.matrix) if square else None,
                float(np.linalg.norm(found.matrix, 2)),
            )
        )
    return Table(
        "recurrent",
        "Recurrent matrices",
        ("matrix", "multiplies", "size", "spectral radius", "largest singular value"),
        tuple(rows),
        "The parameters that multiply a carried state, or their rows and columns that do. The spectral radius is the "
        "largest modulus of an eigenvalue; a matrix that is not square has none.",
    )


def spectral_radius(matrix: Array) -> float:
    """The largest modulus of an eigenvalue of a square matrix."""
    return float(np.abs(np.linalg.eigvals(matrix)).max())


def _quantities(measured: Measured, matrices: list[Recurrent], form: Basic | str, where: str) -> tuple[Quantity, ...]:
    largest = f"largest singular value {where}"
    squares = [found.matrix for found in matrices if found.matrix.shape[0] == found.matrix.shape[1]]
    end = int(measured.lags[-1])
    nothing = "minus infinity"
    return (
        Quantity(
            "largest_mean",
            "largest singular value, mean",
            float(measured.norms.mean()),
            "",
            f"The mean of the {largest}: how far a step stretches what it stretches most.",
        ),
        Quantity(
            "largest_max",
            "largest singular value, greatest",
            float(measured.norms.max()),
            "",
            f"The greatest of the {largest}.",
        ),
        Quantity(
            "bound",
            "its bound by W",
            form.bound if isinstance(form, Basic) else None,
            "",
            "For s_t = f(s_{t-1} W + ...): the steepest slope of f (1 for tanh and relu, 1/4 for sigmoid) times the "
            "largest singular value of W (Pascanu, Mikolov and Bengio 2013). Below 1 gradients vanish on any text.",
            "no basic network",
        ),
        Quantity(
            "share_above_one",
            "singular values above 1",
            float((measured.values > 1 + ROUNDING).mean()),
            "of all",
            f"The share of all singular values of {len(measured.values)} {where}, that are above 1 by {ROUNDING:g}.",
        ),
        Quantity(
            "growth",
            "growth of the product",
            _finite(float(measured.products[-1].mean()) / end),
            "nats a step",
            f"The logarithm of the largest singular value of the product {where}, divided by {end}: the mean of the "
            "stretches.",
            nothing,
        ),
        Quantity(
            "bound_growth",
            "growth of its norms multiplied",
            _finite(float(log(measured.norms).mean())),
            "nats a step",
            f"The mean logarithm of the {largest}: the product grows no faster.",
            nothing,
        ),
        Quantity(
            "spectral_radius",
            "largest spectral radius",
            max(map(spectral_radius, squares), default=None),
            "",
            "The largest modulus of an eigenvalue of a square recurrent matrix; the table has each of them.",
            "no square matrix",
        ),
    )


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _verdict(measured: Measured, form: Basic | str) -> tuple[str, ...]:
    """What it means: what the products do, and what the matrix alone would have told."""
    end, growth = int(measured.lags[-1]), float(measured.products[-1].mean())
    steps = f"{end} steps" if end > 1 else "1 step"
    if growth == -np.inf:
        first = f"Forgets: nothing of what is carried is left after {steps}."
    else:
        word = "Shrinks" if growth < -DECADE else "Stretches" if growth > DECADE else "Holds"
        first = (
            f"{word}: the largest singular value over {steps} is {exp(growth):.3g}, a factor of "
            f"{exp(growth / end):.3f} a step, while that of one step is {measured.norms.mean():.3f}."
        )
    if isinstance(form, str):
        return first, f"The bound of Pascanu, Mikolov and Bengio (2013) is for a basic network; this is none: {form}."
    bound, greatest = f"{SLOPES[form.activation]:g} x sigma_max(W) = {form.bound:.3f}", measured.norms.max()
    if form.bound < 1 - ROUNDING:
        second = f"Its matrix decides: {bound} is below 1, so that gradients vanish on any text."
    else:
        second = (
            f"Its matrix does not decide: {bound} is not below 1, so that gradients need not vanish, and may explode "
            f"if it is above. Along this text no step stretches by more than {greatest:.3f}."
        )
    return first, second

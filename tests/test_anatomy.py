"""The parts of a step, found in its graph: names for every cell, and taps that change or show them."""

import numpy as np
import pytest
from known_cells import Copy, Deciding, Linear, Odd, Stabilised

from minigrad import affine, concat, grad, scan, sigmoid, split, tanh, trees, value_and_grad
from minigrad.graph import TraceError
from minigrad.scan import use_backend
from rnn_cells import Cell, Stacked
from rnn_cells.anatomy import Tapped, anatomy, jacobians
from rnn_plugins import registry


def cell_of(name, input_size=4, hidden_size=5, **options):
    return registry.make_cell(name, input_size, hidden_size, options)


INSTALLED = [entry.name for entry in registry.entries("cells")]
CELLS = {
    **{name: cell_of(name) for name in INSTALLED},
    "gru reset=after": cell_of("gru", reset="after"),
    "stack": Stacked([cell_of("lstm"), cell_of("gru", 5, 3)]),
    "odd": Odd(4, 5),
}


def sample(cell, batch=3, steps=4, seed=0):
    rng = np.random.default_rng(seed)
    params, carry = trees.cast((cell.init_params(rng), cell.init_carry(batch)), np.float64)
    carry = trees.map(lambda leaf: rng.normal(0, 1, leaf.shape) if leaf.dtype.kind == "f" else leaf, carry)
    return params, carry, rng.normal(0, 1, (steps, batch, cell.input_size))


def names(cell):
    found = anatomy(cell)
    return [state.label for state in found.states], [part.label for part in found.activations]


def test_states_and_activations_have_the_names_of_the_field():
    assert names(cell_of("rnn")) == (["h"], ["tanh"])
    assert names(cell_of("irnn")) == (["h"], ["relu"])
    assert names(cell_of("lstm")) == (["h", "c"], ["forget", "input", "output", "candidate", "c.tanh"])
    assert names(cell_of("gru")) == (["h"], ["update", "reset", "candidate"])
    assert names(CELLS["stack"]) == (
        ["layer1.h", "layer1.c", "layer2.h"],
        [f"layer1.{part}" for part in ("forget", "input", "output", "candidate", "c.tanh")]
        + [f"layer2.{part}" for part in ("update", "reset", "candidate")],
    )
    assert [state.size for state in anatomy(CELLS["stack"]).states] == [5, 5, 3]


def test_states_keep_the_names_of_the_carry_and_only_numbers_are_states():
    found = anatomy(Odd(4, 5))
    assert [(state.name, state.size, state.index) for state in found.states] == [("rows", 10, 1), ("trace", 5, 2)]


class Pair(Cell):
    """A carry of two arrays, the first of which is the output."""

    def init_params(self, rng):
        return {"a": self.dense(rng), "gate": self.dense(rng, self.input_size)}

    def init_carry(self, batch_size):
        return tuple(np.zeros((batch_size, self.hidden_size), np.float32) for _ in range(2))

    def __call__(self, params, carry, x):
        h, other = carry
        h, other = self.step(tanh(affine(params["a"], concat(h, x))), sigmoid(affine(params["gate"], x)), h, other)
        return (h, other), h


def shown(factor, function, new):
    """A step's results: the output, a factor times a function of the new state, and that state."""
    return factor * function(new), new


PAIRS = {
    "a memory cell": (lambda a, gate, h, c: shown(gate, tanh, gate * c + a), "c"),
    "a memory cell, shown as it is": (lambda a, gate, h, c: shown(a, lambda c: c, a + c * 0.5), "c"),
    "a running mean": (lambda a, gate, h, mean: (a, 0.9 * mean + 0.1 * a), "s1"),
    "a velocity": (lambda a, gate, h, v: (tanh(a + v), 0.9 * v + gate), "s1"),
    "the state before": (lambda a, gate, h, before: (a + before, h), "s1"),
    "a memory without a sum": (lambda a, gate, h, c: shown(gate, tanh, c * a), "s1"),
}


@pytest.mark.parametrize("what", PAIRS)
def test_the_second_of_two_states_is_called_c_where_the_step_uses_it_so(what):
    step, name = PAIRS[what]

    class Two(Pair):
        def step(self, *values):
            return step(*values)

    assert [state.name for state in anatomy(Two(4, 5)).states] == ["h", name]
    assert [state.name for state in anatomy(Stabilised(4, 5)).states] == ["h", "s1", "s2", "s3"]


class Packed(Cell):
    """All gates from one matrix, and cut apart afterwards."""

    def init_params(self, rng):
        return {"gates": {"W": np.ones((self.hidden_size + self.input_size, 3 * self.hidden_size), np.float32)}}

    def __call__(self, params, h, x):
        a, b, c = split(sigmoid(concat(h, x) @ params["gates"]["W"]), 3)
        h = a * h + b * tanh(x[:, : self.hidden_size]) * c
        return h, h


class Decaying(Cell):
    """A state that leaks at a learnt rate, which is the same at every step, projected; carried twice."""

    def init_params(self, rng):
        return {
            "decay": np.zeros(self.hidden_size, np.float32),
            "in": self.dense(rng),
            "out": self.dense(rng, self.hidden_size),
        }

    def init_carry(self, batch_size):
        return super().init_carry(batch_size), super().init_carry(batch_size)

    def __call__(self, params, carry, x):
        h = sigmoid(params["decay"]) * carry[0] + sigmoid(affine(params["in"], concat(carry[1], x)))
        return (h, h), h @ params["out"]["W"]


def test_what_is_the_same_at_every_step_is_no_activation_and_twins_have_no_name_of_their_own():
    assert names(Decaying(5, 5)) == (["s0", "s1"], ["in"])
    stack = Stacked([Decaying(5, 5), Decaying(5, 5)])
    assert names(stack)[1] == ["layer1.in", "layer2.in"]  # though the second sees the first through a product alone


def test_gates_cut_from_one_product_are_told_apart():
    found = anatomy(Packed(7, 5))
    assert [(part.label, part.size, part.whole) for part in found.activations] == [
        ("gates#1", 5, False), ("gates#2", 5, False), ("gates#3", 5, False), ("tanh", 5, True),
    ]  # fmt: skip


def test_a_step_that_cannot_be_traced_has_states_and_a_reason():
    found = anatomy(Deciding(4, 5))
    assert [state.label for state in found.states] == ["h"]
    assert found.activations == ()
    assert found.reason
    with pytest.raises(TraceError):
        Tapped(Deciding(4, 5), shown=(0,))(*sample(Deciding(4, 5))[:2], np.zeros((3, 4)))


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("backend", ["reference", "numpy", "compiled"])
def test_a_tapped_step_computes_what_the_cell_does(cell, backend):
    params, carry, xs = sample(cell)
    found = anatomy(cell)
    with use_backend(backend):
        last, ys = scan(cell, params, carry, xs)
        step = Tapped(cell, tuple(part.op for part in found.activations))
        tapped, (outputs, states, shown) = scan(step, params, carry, xs)
    for a, b in trees.zip_leaves((last, ys), (tapped, outputs)):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    for state, along in zip(found.states, states, strict=True):
        np.testing.assert_array_equal(along[-1], trees.leaves(tapped)[state.index])
    limits = {"sigmoid": (0, 1), "tanh": (-1, 1), "relu": (0, np.inf)}
    for part, along in zip(found.activations, shown, strict=True):
        low, high = limits[part.function]
        assert along[0, 0].size == part.size
        assert low <= along.min() <= along.max() <= high


def loss_of(ys):
    rng = np.random.default_rng(9)
    return (ys[-1] * rng.normal(0, 1, ys.shape[1:])).sum() + (ys[1] ** 2).sum()


@pytest.mark.parametrize("cell", [*CELLS.values(), Copy(4, 5), Deciding(4, 5)], ids=[*CELLS, "copy", "deciding"])
@pytest.mark.parametrize("backend", ["reference", "numpy", "compiled"])
def test_the_gradient_by_a_nudge_is_that_by_the_hidden_state_itself(cell, backend):
    """Against ``grad`` by the very tensors that the steps carry, in a loop written out."""
    params, carry, xs = sample(cell)
    places = [state.index for state in anatomy(cell).states]

    def by_hand(start):
        carry, outputs, found = start, [], []
        for x in xs:
            carry, y = cell(params, carry, x)
            # A copy is another tensor than what it copies, as the state of this step is another than that before it.
            leaves = trees.leaves(carry)
            if isinstance(cell, Copy):
                leaves = [leaf * 1.0 for leaf in leaves]
                y = leaves[0]
            carry = trees.unflatten(carry, leaves)
            named = dict(zip(trees.paths(carry), leaves, strict=True))
            found.append([named[trees.paths(start)[place]] for place in places])
            outputs.append(y)
        from minigrad import stack

        return grad(loss_of(stack(outputs)), found), found

    from minigrad.gradients import _leaf

    start = trees.map(lambda leaf: _leaf(leaf) if leaf.dtype.kind == "f" else leaf, carry)
    expected, _ = by_hand(start)
    nudges = tuple(np.zeros((4, *trees.leaves(carry)[place].shape)) for place in places)

    def nudged(nudges):
        _, (ys, _, _) = scan(Tapped(cell, nudged=True), params, carry, (xs, nudges))
        return loss_of(ys)

    with use_backend(backend):
        _, gradients = value_and_grad(nudged)(nudges)
    for t, of_step in enumerate(expected):
        for place, g in enumerate(of_step):
            np.testing.assert_allclose(gradients[place][t], g, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_jacobians_are_those_of_finite_differences(cell):
    params, carry, xs = sample(cell)
    places = [state.index for state in anatomy(cell).states]
    found = jacobians(cell, params, carry, xs[0])
    leaves = trees.leaves(carry)
    flat = np.concatenate([leaves[place].reshape(3, -1) for place in places], axis=1)

    def after(flat):
        given, start = list(leaves), 0
        for place in places:
            size = leaves[place][0].size
            given[place] = flat[:, start : start + size].reshape(leaves[place].shape)
            start += size
        new, _ = cell(params, trees.unflatten(carry, given), xs[0])
        aligned = [leaf for _, leaf in trees.zip_leaves(carry, new)]
        return np.concatenate([aligned[place].reshape(3, -1) for place in places], axis=1)

    assert found.shape == (3, flat.shape[1], flat.shape[1])
    for j in range(flat.shape[1]):
        step = np.zeros_like(flat)
        step[:, j] = 1e-6
        numerical = (after(flat + step) - after(flat - step)) / 2e-6
        np.testing.assert_allclose(found[:, :, j], numerical, rtol=1e-6, atol=1e-8)


def test_the_jacobian_of_a_linear_cell_is_its_matrix():
    cell = Linear(4, 5)
    params, carry, xs = sample(cell)
    params["A"] = np.random.default_rng(1).normal(0, 1, (5, 5))
    for J in jacobians(cell, params, carry, xs[0]):
        np.testing.assert_allclose(J, params["A"].T, atol=1e-14)

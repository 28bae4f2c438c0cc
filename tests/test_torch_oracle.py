"""PyTorch's own networks as an outside oracle: the same weights, the same outputs and the same gradients, in float64.

Its cells were written by others and its gradients by hand, so an error common to ours and to our checks shows here.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import trees, vjp
from minigrad.trees import Tree
from rnn_cells import Bidirectional, Cell, Stacked
from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM
from rnn_cells.rnn import IRNN, RNN

torch: Any = None

TOLERANCE = 1e-10

Arrays = dict[str, np.ndarray[Any, Any]]
KINDS = ("rnn", "irnn", "lstm", "lstm with two biases", "gru")


@pytest.fixture(scope="module", autouse=True)
def pytorch() -> None:
    """PyTorch, imported when its tests begin: that takes longer than to find all others."""
    global torch
    torch = pytest.importorskip("torch")


def torch_module(kind: str, *sizes: int, **kwargs: Any) -> Any:
    if kind in ("rnn", "irnn"):
        kwargs["nonlinearity"] = "tanh" if kind == "rnn" else "relu"
    module = {"r": torch.nn.RNN, "i": torch.nn.RNN, "l": torch.nn.LSTM, "g": torch.nn.GRU}[kind[0]]
    return module(*sizes, dtype=torch.float64, **kwargs)


def our_cell(kind: str, inputs: int, hidden: int) -> Cell:
    if kind == "gru":
        return GRU(inputs, hidden, reset="after")
    if kind.startswith("lstm"):
        return LSTM(inputs, hidden, second_bias="two" in kind)
    return RNN(inputs, hidden) if kind == "rnn" else IRNN(inputs, hidden)


def mapped(kind: str, theirs: Arrays, layer: str, gradient: bool) -> Tree:
    """PyTorch's arrays of one layer (``l0``, ``l1_reverse``), weights or their gradients, as our tree.

    Where they have two biases that are only ever added, we have one: their sum; its gradient is that of either.
    """
    weight_x, weight_h, bias_x, bias_h = (
        theirs[f"{name}_{layer}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    bias = bias_x if gradient else bias_x + bias_h
    if kind in ("rnn", "irnn"):
        return {"U": weight_x.T, "W": weight_h.T, "b": bias}
    gates = {"lstm": ("input", "forget", "candidate", "output"), "gru ": ("reset", "update", "candidate")}
    names = gates[f"{kind} "[:4]]
    parts = {
        name: {"x": wx.T, "h": wh.T, "b": b, "bx": bx, "bh": bh}
        for name, wx, wh, b, bx, bh in zip(
            names, *(np.split(a, len(names)) for a in (weight_x, weight_h, bias, bias_x, bias_h)), strict=True
        )
    }
    if kind == "gru":
        candidate = parts.pop("candidate")
        params = {name: {"W": np.vstack([p["h"], p["x"]]), "b": p["b"]} for name, p in parts.items()}
        # Their z is the share of the old state, ours of the new: sigmoid(-a) is 1 - sigmoid(a).
        params["update"] = trees.map(np.negative, params["update"])
        hidden, inputs = {"W": candidate["h"], "b": candidate["bh"]}, {"W": candidate["x"], "b": candidate["bx"]}
        return params | {"candidate": {"input": inputs, "hidden": hidden}}
    params = {name: {"W": np.vstack([p["h"], p["x"]])} for name, p in parts.items()}
    for name, p in parts.items():
        params[name] |= {"b": p["bx"], "b2": p["bh"]} if "two" in kind else {"b": p["b"]}
    return params


def arrays_of(module: Any, gradient: bool) -> Arrays:
    return {name: (p.grad if gradient else p).detach().numpy() for name, p in module.named_parameters()}


def their_state(kind: str, state: Any) -> Any:
    """PyTorch's state, (layers, B, H) or a pair of them, as one state a layer."""
    if kind.startswith("lstm"):
        return [(h, c) for h, c in zip(*state, strict=True)]
    return list(state)


def compare(what: str, ours: Tree, theirs: Tree) -> None:
    for a, b in trees.zip_leaves(ours, theirs):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, err_msg=what)


def check_against_torch(
    kind: str,
    seed: int,
    *,
    steps: int,
    batch: int,
    inputs: int,
    hidden: int,
    layers: int = 1,
    both: bool = False,
    lengths: Any = None,
) -> None:
    """Outputs, last states, and the gradients by all weights, the inputs and the first states are the same."""
    rng = np.random.default_rng(seed)
    module = torch_module(kind, inputs, hidden, num_layers=layers, bidirectional=both)
    for p in module.parameters():
        p.data = torch.from_numpy(rng.normal(0, 0.5, tuple(p.shape)))
    ways = 2 if both else 1
    shape = (layers * ways, batch, hidden)
    pair = kind.startswith("lstm")
    xs, *state = (rng.normal(size=s) for s in [(steps, batch, inputs), shape, *([shape] if pair else [])])
    dys, *dstate = (rng.normal(size=s) for s in [(steps, batch, hidden * ways), shape, *([shape] if pair else [])])

    # Theirs.
    x = torch.from_numpy(xs).requires_grad_()
    start = [torch.from_numpy(s).requires_grad_() for s in state]
    given = x
    if lengths is not None:
        given = torch.nn.utils.rnn.pack_padded_sequence(x, torch.from_numpy(lengths), enforce_sorted=False)
        dys = dys * (np.arange(steps)[:, None] < lengths)[:, :, None]
    out, last = module(given, tuple(start) if pair else start[0])
    if lengths is not None:
        out, _ = torch.nn.utils.rnn.pad_packed_sequence(out, total_length=steps)
    ends = list(last) if pair else [last]
    loss = (out * torch.from_numpy(dys)).sum()
    for end, d in zip(ends, dstate, strict=True):
        loss = loss + (end * torch.from_numpy(d)).sum()
    loss.backward()

    def states(arrays: list[Any]) -> Tree:
        """One carry a layer; where there are two directions, a pair in each layer."""
        flat = their_state(kind, arrays if pair else arrays[0])
        each = [(flat[2 * i], flat[2 * i + 1]) for i in range(layers)] if both else flat
        return tuple(each) if layers > 1 else each[0]

    def weights(gradient: bool) -> Tree:
        theirs = arrays_of(module, gradient)
        each = [mapped(kind, theirs, f"l{i}", gradient) for i in range(layers)]
        if both:
            back = [mapped(kind, theirs, f"l{i}_reverse", gradient) for i in range(layers)]
            each = [{"forward": f, "backward": b} for f, b in zip(each, back, strict=True)]
        return {str(i): p for i, p in enumerate(each)} if layers > 1 else each[0]

    # Ours.
    cells: list[Cell] = []
    for i in range(layers):
        width = inputs if i == 0 else hidden * ways
        cell = our_cell(kind, width, hidden)
        cells.append(Bidirectional(cell, our_cell(kind, width, hidden)) if both else cell)
    cell = Stacked(cells) if layers > 1 else cells[0]
    params = weights(gradient=False)
    assert trees.map(np.shape, params) == trees.map(np.shape, cell.init_params(rng)), "all our parameters are mapped"

    def unroll(params: Tree, carry: Tree, xs: Any) -> Tree:
        return cell.unroll(params, carry, xs, lengths=lengths)

    (carry, ys), pullback = vjp(unroll, params, states(state), xs)
    compare("outputs", ys, out.detach().numpy())
    compare("last states", carry, states([end.detach().numpy() for end in ends]))
    dparams, dcarry, dxs = pullback((states(dstate), dys))
    compare("gradients of weights", dparams, weights(gradient=True))
    compare("gradients of the first states", dcarry, states([s.grad.numpy() for s in start]))
    compare("gradients of the inputs", dxs, x.grad.numpy())


seeds = st.integers(0, 2**32 - 1)
sizes = st.fixed_dictionaries(
    {"steps": st.integers(1, 6), "batch": st.integers(1, 4), "inputs": st.integers(1, 5), "hidden": st.integers(1, 6)}
)
few = settings(max_examples=max(15, settings.default.max_examples // 4))  # each one runs two networks


@pytest.mark.parametrize("kind", KINDS)
@few
@given(seed=seeds, sizes=sizes)
def test_one_layer(kind, seed, sizes):
    check_against_torch(kind, seed, **sizes)


@pytest.mark.parametrize("kind", KINDS)
@few
@given(seed=seeds, sizes=sizes)
def test_two_layers(kind, seed, sizes):
    check_against_torch(kind, seed, **sizes, layers=2)


@pytest.mark.parametrize("kind", KINDS)
@few
@given(seed=seeds, sizes=sizes, layers=st.integers(1, 2))
def test_both_directions(kind, seed, sizes, layers):
    check_against_torch(kind, seed, **sizes, layers=layers, both=True)


@pytest.mark.parametrize("kind", KINDS)
@few
@given(seed=seeds, sizes=sizes, layers=st.integers(1, 2), both=st.booleans(), data=st.data())
def test_sequences_of_several_lengths(kind, seed, sizes, layers, both, data):
    drawn = st.lists(st.integers(1, sizes["steps"]), min_size=sizes["batch"], max_size=sizes["batch"])
    lengths = np.array(data.draw(drawn, label="lengths"), np.int64)
    check_against_torch(kind, seed, **sizes, layers=layers, both=both, lengths=lengths)


def test_the_oracle_notices_a_difference():
    # The other form of the GRU is so close to PyTorch's that a careless comparison would take it for the same.
    rng = np.random.default_rng(0)
    after, before = GRU(3, 4, reset="after"), GRU(3, 4, reset="before")
    params = trees.cast(after.init_params(rng), np.float64)
    parts = params["candidate"]
    joined = {"W": np.vstack([parts["hidden"]["W"], parts["input"]["W"]]), "b": parts["input"]["b"]}
    xs, h = rng.normal(size=(1, 2, 3)), rng.normal(size=(2, 4))
    _, ys = after.unroll(params, h, xs)
    _, others = before.unroll(params | {"candidate": joined}, h, xs)
    with pytest.raises(AssertionError, match="outputs"):
        compare("outputs", ys, others)

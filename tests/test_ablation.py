"""Activations of a cell's step fixed or left out: the step is the cell's without them, wherever and however it runs."""

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import SMALL, refused, settle, trained
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import TEXT, train

from minigrad import affine, concat, sigmoid, stepgraph, tanh, trees, value_and_grad
from minigrad import sum as total
from minigrad.scan import available_backends, scan, use_backend
from minigrad.scan.plans import plan_of
from rnn_cells import Stacked
from rnn_cells.ablated import Ablated
from rnn_cells.anatomy import anatomy
from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM, CoupledLSTM, PeepholeLSTM
from rnn_cells.rnn import RNN
from rnn_cli.main import rnn
from rnn_lab.evaluation import evaluate
from rnn_lab.runs import Run, network_of
from rnn_lab.sessions import repeat, resume, same_weights, start
from rnn_lab.settings import Settings
from rnn_plugins import registry
from rnn_plugins.data.vocabulary import Vocabulary
from rnn_plugins.errors import UserError
from rnn_plugins.tasks.language_model import LanguageModel
from rnn_plugins.testing import check_cell

BACKENDS = ("reference", *available_backends())
CELLS = [RNN(3, 4), GRU(3, 4), GRU(3, 4, reset="after"), LSTM(3, 4), CoupledLSTM(3, 4), PeepholeLSTM(3, 4)]
ABLATIONS = [(cell, activation) for cell in CELLS for activation in anatomy(cell).activations]


def ablated(cell, **fixed):
    places = {activation.name: activation.op for activation in anatomy(cell).activations}
    return Ablated(cell, tuple((places[name.replace("_", ".")], number) for name, number in fixed.items()))


def by_hand(input=sigmoid, forget=sigmoid, output=sigmoid, candidate=tanh, squash=tanh):
    """An LSTM's step with other functions in place of its activations."""

    def step(params, carry, x):
        h, c = carry
        hx = concat(h, x)
        c = forget(affine(params["forget"], hx)) * c + input(affine(params["input"], hx)) * candidate(
            affine(params["candidate"], hx)
        )
        h = output(affine(params["output"], hx)) * squash(c)
        return (h, c), h

    return step


def one(_):
    return 1.0


def same(x):
    return x


GREFF = {
    "no input gate": ({"input": 1.0}, by_hand(input=one)),
    "no forget gate": ({"forget": 1.0}, by_hand(forget=one)),
    "no output gate": ({"output": 1.0}, by_hand(output=one)),
    "no input activation": ({"candidate": None}, by_hand(candidate=same)),
    "no output activation": ({"c_tanh": None}, by_hand(squash=same)),
    "a gate half open": ({"output": 0.5}, by_hand(output=lambda x: 0.5)),
    "two at once": ({"input": 1.0, "c_tanh": None}, by_hand(input=one, squash=same)),
}


def run(step, cell, batch, backend, dtype="float64"):
    """A loss along a random sequence, what comes out and the gradients of parameters, carry and inputs."""
    rng = np.random.default_rng(2)
    params = trees.map(lambda p: (p + rng.normal(0, 0.4, p.shape)).astype(dtype), cell.init_params(rng))
    carry = trees.map(lambda c: rng.standard_normal(c.shape).astype(dtype), cell.init_carry(batch))
    xs = rng.standard_normal((5, batch, cell.input_size)).astype(dtype)

    def loss(given):
        last, ys = scan(step, *given)
        # What nothing goes into has the gradient 0, and must not be the whole loss.
        return total(ys * ys) + sum(total(tanh(leaf)) for leaf in (*trees.leaves(last), given[2])), ys

    with use_backend(backend):
        (value, ys), gradients = value_and_grad(loss, has_aux=True)((params, carry, xs))
    return {"loss": np.asarray(value), "ys": np.asarray(ys)} | trees.flatten(gradients)


def assert_alike(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-11, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("fixed", "hand"), GREFF.values(), ids=GREFF)
def test_an_ablated_lstm_is_one_written_without_the_part(fixed, hand, backend):
    cell = LSTM(3, 4)
    found = run(ablated(cell, **fixed), cell, 2, backend)
    assert_alike(found, run(hand, cell, 2, "reference"))
    for name, number in fixed.items():
        gradients = [found[f"0.{name}.{part}"] for part in "Wb"] if name in ("input", "forget", "output") else []
        assert all((g == 0).all() for g in gradients)
        assert number is None or gradients


@given(st.sampled_from(ABLATIONS), st.one_of(st.none(), st.sampled_from([0.0, 1.0, -0.7])), st.integers(1, 3))
def test_every_backend_computes_the_same(ablation, number, batch):
    cell, activation = ablation
    step = Ablated(cell, ((activation.op, number),))
    expected = run(step, cell, batch, "reference")
    for backend in available_backends():
        assert_alike(run(step, cell, batch, backend), expected)


# Without its one tanh, an RNN's carry would depend on nothing at all.
PLANNED = [(cell, activation) for cell, activation in ABLATIONS if not isinstance(cell, RNN)]


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize(("cell", "activation"), PLANNED, ids=[f"{type(c).__name__}-{a.name}" for c, a in PLANNED])
def test_it_is_planned_with_fewer_products_where_a_gate_is_gone(cell, activation, backend):
    params, carry = cell.init_params(np.random.default_rng(0)), cell.init_carry(2)

    def products(step):
        program = plan_of(stepgraph.of(step, params, carry, np.zeros((2, 3), np.float32)), backend=backend)
        shapes = [op.values[1].shape for s in program.stages for op in s.forward.ops if op.name == "matmul"]
        return sum(map(np.prod, shapes))

    plain = products(cell)
    assert products(Ablated(cell, ((activation.op, None),))) == plain
    fixed = products(Ablated(cell, ((activation.op, 1.0),)))
    assert fixed == plain if activation.name == "c.tanh" else fixed < plain


@pytest.mark.parametrize(
    "cell",
    [
        ablated(LSTM(3, 4), output=1.0),
        ablated(LSTM(3, 4), c_tanh=None),
        ablated(GRU(3, 4), update=0.5),
        ablated(RNN(3, 4), tanh=None),
        Stacked([ablated(LSTM(3, 4), forget=1.0), GRU(4, 5)]),
        Ablated(LSTM(3, 4), clamped=((0, 1, 0.5), (1, 3, -2.0))),
        Ablated(ablated(LSTM(3, 4), input=1.0), clamped=((1, 0, 1.0),)),
    ],
    ids=str,
)
def test_it_passes_what_every_cell_must(cell):
    check_cell(cell).raise_if_failed()


def test_it_says_of_itself_what_the_cell_says():
    cell = ablated(LSTM(3, 4), output=1.0)
    assert (cell.input_size, cell.hidden_size, cell.output_size, cell.causal) == (3, 4, 4, True)
    assert cell.suggested_learning_rate == LSTM.suggested_learning_rate
    assert [a.name for a in anatomy(cell).activations] == ["forget", "input", "candidate", "c.tanh"]
    assert [s.name for s in anatomy(cell).states] == ["h", "c"]


class Counted(LSTM):
    """It counts how often its code is run."""

    def __call__(self, params, carry, x):
        CALLS.append(1)
        return super().__call__(params, carry, x)


CALLS: list[int] = []


def test_single_steps_do_not_trace_the_cell_again():
    cell = ablated(Counted(3, 4), output=1.0)
    params, carry = cell.init_params(np.random.default_rng(0)), cell.init_carry(1)
    CALLS.clear()
    for _ in range(5):
        carry, _ = cell(params, carry, np.ones((1, 3), np.float32))
    assert len(CALLS) == 2  # a trace consists of two trials


# --- from settings ---------------------------------------------------------------------------------------------------


def model_of(cell="lstm", layers=1, **ablate):
    settings = Settings(cell=cell, hidden_size=4, num_layers=layers, embedding_size=0, ablate=ablate)
    network = network_of(settings, lambda size: registry.make_cell(cell, size, 4, {}))
    return LanguageModel().model({"vocabulary": Vocabulary.build(["abc"]).to_json()}, network)


def test_a_name_is_for_all_layers_and_may_be_for_one():
    place = {a.name: a.op for a in anatomy(LSTM(3, 4)).activations}
    all_layers = Ablated(LSTM(3, 4), ((place["output"], 1.0),)), Ablated(LSTM(4, 4), ((place["output"], 1.0),))
    assert model_of(layers=2, output="1").cell == Stacked(all_layers)
    one_layer = LSTM(3, 4), Ablated(LSTM(4, 4), ((place["c.tanh"], None),))
    assert model_of(layers=2, **{"layer2.c.tanh": "identity"}).cell == Stacked(one_layer)
    assert model_of(**{"layer1.output": 1}).cell == all_layers[0]
    assert model_of().cell == LSTM(3, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"forgett": "1"}, "the cell 'lstm' has no activation called 'forgett'. Did you mean 'forget'? "
         "Its activations: forget, input, output, candidate, c.tanh"),
        ({"layer1.zzz": "1"}, "the cell 'lstm' has no activation called 'zzz'. "
         "Its activations: forget, input, output, candidate, c.tanh"),
        ({"layer2.forget": "1"}, "--ablate is layer2.forget=1; the network has 1 layer, counted from 1"),
        ({"forget": "open"},
         "--ablate is forget=open; write a number, or identity to leave the activation out"),
        ({"forget": "inf"}, "--ablate is forget=inf; write a number, or identity to leave the activation out"),
        ({"forget": True}, "--ablate is forget=True; write a number, or identity to leave the activation out"),
    ],
)  # fmt: skip
def test_mistakes_are_sentences(given, message):
    with pytest.raises(UserError) as caught:
        model_of(**given)
    assert str(caught.value) == message


PACKED = """
from dataclasses import dataclass
from minigrad import affine, concat, sigmoid
from rnn_cells import Cell

@dataclass(frozen=True)
class Packed(Cell):
    def init_params(self, rng):
        return {"gates": {"W": self.dense(rng)["W"].repeat(2, axis=1), "b": self.dense(rng)["b"].repeat(2)}}

    def __call__(self, params, h, x):
        gates = sigmoid(affine(params["gates"], concat(h, x)))
        h = gates[:, : self.hidden_size] * h + gates[:, self.hidden_size :]
        return h, h

class Decides(Packed):
    def __call__(self, params, h, x):
        return super().__call__(params, h, x) if h.sum() < 1e9 else (h, h)

class Winding(Packed):
    def unroll(self, params, carry, xs, **options):
        return super().unroll(params, carry, xs, **options)
"""


def test_a_part_of_an_activation_can_be_fixed_and_not_left_out(tmp_path):
    (tmp_path / "packed.py").write_text(PACKED)
    spec = f"{tmp_path}/packed.py:Packed"
    assert [a.name for a in anatomy(model_of(spec).cell).activations] == ["gates#1", "gates#2"]
    cell, rng = model_of(spec, **{"gates#1": "0"}).cell, np.random.default_rng(0)
    params = trees.cast(cell.init_params(rng), np.float64)
    h, x = rng.standard_normal((2, 4)), rng.standard_normal((2, 3))
    gates = sigmoid(affine(params["gates"], concat(h, x)))
    np.testing.assert_allclose(cell(params, h, x)[1], gates[:, 4:])
    with pytest.raises(UserError) as caught:
        model_of(spec, **{"gates#1": "identity"})
    assert str(caught.value) == (
        "--ablate is gates#1=identity; gates#1 is only a part of the result of one sigmoid, so it cannot be left "
        "out: replace it by a number"
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Decides", "its step cannot be written as a graph: it decides by the value of a tensor (if, while, bool, "
         "float, int or item)"),
        ("Winding", "it has its own method for running along a sequence"),
    ],
)  # fmt: skip
def test_cells_that_cannot_be_ablated(tmp_path, name, reason):
    (tmp_path / "packed.py").write_text(PACKED)
    with pytest.raises(UserError) as caught:
        model_of(f"{tmp_path}/packed.py:{name}", gates="1")
    assert str(caught.value) == f"the cell '{tmp_path}/packed.py:{name}' cannot be ablated, because {reason}"


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ablation")


@pytest.fixture(scope="module")
def noog(folder):
    """A run without output gates, of two layers with dropout."""
    return train(folder, TEXT, "noog", cell="lstm", ablate={"output": "1"}, num_layers=2, dropout=0.2)


@pytest.fixture
def runs(folder, monkeypatch):
    monkeypatch.setenv("RNN_RUNS", str(folder / "runs"))
    monkeypatch.setenv("RNN_LAB_CACHE", str(folder / "cache"))


def test_a_run_has_its_ablation_on_record_and_is_rebuilt_with_it(noog, folder):
    assert noog.manifest["settings"]["ablate"] == {"output": "1"}
    assert noog.manifest["cell"]["cell"] == "lstm"
    assert noog.summary().cell == "lstm, output=1"
    assert noog.settings.learning_rate == LSTM.suggested_learning_rate
    assert all(isinstance(layer, Ablated) for layer in noog.model.cell.cells)
    weights = noog.params()["cell"]
    assert (weights["0"]["output"]["b"] == 0).all()  # as it began: its gradient is zero
    assert (weights["0"]["input"]["b"] != 0).any()
    assert evaluate(noog).assessment.scores[0].metrics["loss"] == pytest.approx(
        noog.model.evaluate(noog.params(), held_out(noog, folder)), rel=1e-6
    )


def held_out(run, folder):
    tokens = run.language.vocabulary.encode((folder / f"{run.name}.txt").read_text())
    return tokens[-run.manifest["data"]["valid"] :]


def test_the_session_says_what_is_ablated(folder, runs):
    session = start({"files": (str(folder / "noog.txt"),), "cell": "lstm", "steps": 1, "hidden_size": 4,
                     "ablate": {"output": "1", "c.tanh": "identity"}})  # fmt: skip
    session.run.release()
    assert "the cell is ablated: output is 1 throughout, c.tanh is left out" in session.notices


def test_it_goes_on_and_is_repeated_bit_for_bit(noog, folder, runs):
    half = train(folder, TEXT, "half", cell="lstm", ablate={"output": "1"}, num_layers=2, dropout=0.2, steps=60)
    again = repeat(half, name="again")
    events = again.trainer.events()
    while again.trainer.state.step < 25:
        next(events)
    again.trainer.stop()
    for _ in events:
        pass
    again.run.release()
    resumed = resume(Run(again.run.path), {})
    for _ in resumed.trainer.events():
        pass
    resumed.run.release()
    assert same_weights(half, resumed.run)
    with pytest.raises(UserError) as caught:
        resume(Run(half.path), {"ablate": {"forget": "1"}, "steps": 70})
    assert str(caught.value) == (
        "--ablate is output=1, forget=1, and the run 'half' has output=1: leave it out, or start a new run without "
        "--resume"
    )


def test_another_run_begins_with_its_weights_and_its_ablation(noog, folder, runs):
    session = start({"files": (str(folder / "noog.txt"),), "steps": 1}, name="child", init_from=noog)
    session.run.release()
    assert session.run.model.cell.cells == noog.model.cell.cells


def test_from_the_command_line(tmp_path, monkeypatch):
    settle(tmp_path, monkeypatch)
    ablations = ["--ablate", "output=1", "--ablate", "layer2.c.tanh=identity"]
    made, result = trained("fox.txt", "--cell", "lstm", "--num-layers", "2", *SMALL, *ablations)
    assert "Note: the cell is ablated: output is 1 throughout, layer2.c.tanh is left out.\n" in result.stderr
    listing = CliRunner().invoke(rnn, ["runs"]).stdout
    assert "  lstm, output=1, layer2.c.tanh=identity  " in listing
    written = CliRunner().invoke(rnn, ["sample", made.name, "--length", "20", "--seed", "1"])
    assert written.exit_code == 0, written.output
    assert refused("fox.txt", "--cell", "gru", *SMALL, "--ablate", "forget=1") == (
        "the cell 'gru' has no activation called 'forget'. Its activations: update, reset, candidate"
    )

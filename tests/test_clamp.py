"""``rnn sample --clamp``, ``--save-state`` and ``--load-state``: clamped units, saved states, and continued texts."""

import itertools
import re
import signal
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from test_sample_command import started
from tiny_runs import TEXT, train

from minigrad import affine, checkpoint, concat, sigmoid, tanh, trees
from minigrad.scan import available_backends, use_backend
from minigrad.scan.planned import DrawingStepper
from rnn_cells import Cell, Stacked
from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM
from rnn_cells.rnn import RNN
from rnn_cli.main import rnn
from rnn_lab.language import state
from rnn_lab.paths import BEST
from rnn_lab.runs import Run
from rnn_plugins.errors import UserError
from rnn_plugins.language import sampling
from rnn_plugins.language.model import Model
from rnn_plugins.language.sampling import Choice, beam_search, begin, follow, sample

BACKENDS = ("reference", *available_backends())
V = 7


def model_of(cell, dtype="float64"):
    model = Model(cell, V, dtype=dtype)
    rng = np.random.default_rng(0)
    return model, trees.map(lambda p: p + rng.normal(0, 0.5, p.shape).astype(p.dtype), model.init_params(rng))


# --- clamped units ---------------------------------------------------------------------------------------------------


def one_hot(symbol):
    return np.eye(V)[[symbol]]


def held(array, **units):
    array = np.array(array)
    for unit, value in units.items():
        array[:, int(unit[1:])] = value
    return array


def gru(params, carry, symbol):
    """A GRU whose unit 2 is held at 0.9."""
    h, _ = GRU(V, 5)(params, carry, one_hot(symbol))
    h = held(h, u2=0.9)
    return h, h


def lstm(params, carry, symbol):
    """An LSTM with c.3 held at -2 and h.0 at 0.5."""
    (h, c), hx = carry, concat(carry[0], one_hot(symbol))
    f, i, o = (sigmoid(affine(params[gate], hx)) for gate in ("forget", "input", "output"))
    c = held(f * c + i * tanh(affine(params["candidate"], hx)), u3=-2)
    h = held(o * tanh(c), u0=0.5)
    return (h, c), h


def stack(params, carry, symbol):
    """Two layers; in the first, whose output the second reads, unit 1 is held at 1, and in the second unit 4 at 0."""
    h, _ = RNN(V, 3)(params["0"], carry[0], one_hot(symbol))
    h = held(h, u1=1)
    g, _ = GRU(3, 5)(params["1"], carry[1], h)
    g = held(g, u4=0)
    return (h, g), g


@dataclass(frozen=True)
class Clocked(Cell):
    """A basic network that counts its steps: a number that is no state, and comes before the states."""

    def init_params(self, rng):
        return self.dense(rng)

    def init_carry(self, batch_size):
        return {"clock": np.zeros(batch_size, np.int64), "h": np.zeros((batch_size, self.hidden_size), np.float32)}

    def __call__(self, params, carry, x):
        h = tanh(affine(params, concat(carry["h"], x)))
        return {"clock": carry["clock"] + 1, "h": h}, h


def clocked(params, carry, symbol):
    """A network with a clock whose unit 1 is held at 0.5."""
    carry, _ = Clocked(V, 5)(params, carry, one_hot(symbol))
    carry["h"] = held(carry["h"], u1=0.5)
    return carry, carry["h"]


def clocked_stack(params, carry, symbol):
    """Two layers with clocks; unit 2 of the first is held at -1, and unit 0 of the second at 1."""
    first, _ = Clocked(V, 3)(params["0"], carry[0], one_hot(symbol))
    first["h"] = held(first["h"], u2=-1)
    second, _ = Clocked(3, 4)(params["1"], carry[1], first["h"])
    second["h"] = held(second["h"], u0=1)
    return (first, second), second["h"]


HELD = {
    "h.2": (GRU(V, 5), ["h.2=0.9"], gru),
    "a bare number": (GRU(V, 5), ["2=0.9"], gru),
    "h and c": (LSTM(V, 5), ["c.3=-2", "h.0=0.5"], lstm),
    "the later one wins": (LSTM(V, 5), ["c.3=7", "0=0.5", "c.3=-2"], lstm),
    "layers": (Stacked([RNN(V, 3), GRU(3, 5)]), ["layer1.h.1=1", "layer2.h.4=0"], stack),
    "after what is no state": (Clocked(V, 5), ["h.1=0.5"], clocked),
    "likewise in layers": (
        Stacked([Clocked(V, 3), Clocked(3, 4)]),
        ["layer1.h.2=-1", "layer2.h.0=1"],
        clocked_stack,
    ),
    "the last layer": (Stacked([RNN(V, 3), GRU(3, 5)]), ["layer1.h.1=1", "4=0"], stack),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("cell", "units", "by_hand"), HELD.values(), ids=HELD)
def test_units_are_held_where_they_are_computed(cell, units, by_hand, backend):
    model, params = model_of(cell)
    changed = state.clamped(model, units)
    symbols = np.random.default_rng(3).integers(0, V, 9)
    carry = model.init_carry(1)
    with use_backend(backend):
        read, logits = changed.unroll(params, carry, symbols[:, None])
        step = changed.stepper(params, carry)
    assert (step is None) == (backend == "reference")
    floats = all(leaf.dtype.kind == "f" for leaf in trees.leaves(carry))  # integers are not compiled
    assert isinstance(step, DrawingStepper) == (backend == "compiled" and floats)
    alone = carry
    for t, symbol in enumerate(symbols):
        alone, one_row = changed.step(params, alone, np.array([symbol]))
        carry, y = by_hand(params["cell"], carry, symbol)
        expected = affine(params["head"], y)
        rows = [logits[t], one_row, *(step([symbol]) if step else [])]
        for row in rows:
            np.testing.assert_allclose(row, expected, rtol=1e-11, atol=1e-12)
    for found in (read, alone):
        for new, old in zip(trees.leaves(found), trees.leaves(carry), strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_clamped_model_writes_the_same_text_on_every_backend(backend):
    model, params = model_of(LSTM(V, 9), "float32")
    texts = []
    for changed in (model, state.clamped(model, ["h.1=1", "c.2=0.5"])):
        for name in ("reference", backend):
            with use_backend(name):
                symbols = sample(changed, params, [1, 2], Choice(), np.random.default_rng(4))
                texts.append(list(itertools.islice(symbols, sampling.BEFORE_PLANNING + 300)))
    assert texts[0] == texts[1] != texts[2] == texts[3]


class Decides(LSTM):
    """Not to be traced."""

    def __call__(self, params, carry, x):
        return super().__call__(params, carry, x) if x.sum() < 1e9 else (carry, carry[0])


def test_a_step_that_cannot_be_traced_is_held_from_outside():
    model, params = model_of(Decides(V, 5))
    changed = state.clamped(model, ["s0.0=0.5"])
    carry, logits = changed.step(params, model.init_carry(1), np.array([3]))
    plain, _ = model.step(params, model.init_carry(1), np.array([3]))
    h = held(plain[0], u0=0.5)
    np.testing.assert_allclose(carry[0], h)
    np.testing.assert_allclose(carry[1], plain[1])
    np.testing.assert_allclose(logits, affine(params["head"], h))


UNITS = "the units of this network are layer1.h.0 to layer1.h.2, layer2.h.0 to layer2.h.4, layer2.c.0 to layer2.c.4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h.1", "--clamp is 'h.1'; write it as UNIT=VALUE, such as h.17=1"),
        ("h.1=1", f"--clamp is 'h.1=1'; {UNITS}"),
        ("layer2.h.5=1", f"--clamp is 'layer2.h.5=1'; {UNITS}"),
        ("layer2.h.-1=1", f"--clamp is 'layer2.h.-1=1'; {UNITS}"),
        ("layer3.h.0=1", f"--clamp is 'layer3.h.0=1'; {UNITS}"),
        ("five=1", f"--clamp is 'five=1'; {UNITS}"),
        ("5=1", f"--clamp is '5=1'; {UNITS}"),
        ("=1", f"--clamp is '=1'; {UNITS}"),
        ("4=high", "--clamp is '4=high'; a unit must be clamped to a number"),
        ("4=nan", "--clamp is '4=nan'; a unit must be clamped to a number"),
    ],
)
def test_units_that_there_are_not(text, message):
    model, _ = model_of(Stacked([GRU(V, 3), LSTM(3, 5)]))
    with pytest.raises(UserError) as caught:
        state.clamped(model, [text])
    assert str(caught.value) == message


# --- places in a text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("choice", [Choice(), Choice(greedy=True), Choice(top_k=3)])
@given(cut=st.integers(0, 45), cell=st.sampled_from([GRU(V, 6), Stacked([GRU(V, 4), LSTM(4, 6)])]))
def test_a_text_goes_on_from_any_place_as_if_nothing_had_been(backend, choice, cut, cell):
    with pytest.MonkeyPatch.context() as patch, use_backend(backend):
        patch.setattr(sampling, "BEFORE_PLANNING", 20)
        model, params = model_of(cell, "float32")
        whole = list(itertools.islice(sample(model, params, [1, 2, 3], choice, np.random.default_rng(7)), 90))
        rng, first = np.random.default_rng(7), begin(model, params, [1, 2, 3])
        begun = list(itertools.islice(follow(model, params, first, choice, rng), cut))
        at = begun[-1][1] if begun else first
        assert (at.read, at.drawn) == (3 + cut, cut)
        with closing(sample(model, params, [], choice, rng, at)) as rest:
            assert [symbol for symbol, _ in begun] + list(itertools.islice(rest, 90 - cut)) == whole


def test_a_prime_is_read_from_the_place_on():
    model, params = model_of(GRU(V, 6))
    first = begin(model, params, [1, 2, 3])
    assert begin(model, params, [], first) is first
    on, whole = begin(model, params, [4, 5], first), begin(model, params, [1, 2, 3, 4, 5])
    assert (on.read, on.drawn) == (5, 0)
    np.testing.assert_allclose(on.scores, whole.scores)
    [found] = beam_search(model, params, [4, 5], 6, 1, first)
    [expected] = beam_search(model, params, [1, 2, 3, 4, 5], 6, 1)
    assert found.symbols == expected.symbols


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clamp")
    train(folder, TEXT, "other", hidden_size=12, cell="lstm", seed=2)
    train(folder, TEXT, "large", hidden_size=13, cell="lstm")
    train(folder, TEXT + "Z", "wordy", hidden_size=12, cell="lstm")
    train(folder, TEXT, "hamlet", cell="lstm", steps=150, newest=True)
    return folder


@pytest.fixture
def call(folder, tmp_path, monkeypatch):
    """Runs ``rnn sample`` and gives its text without the last line feed, if it ended with none, and what it says."""
    monkeypatch.setenv("RNN_RUNS", str(folder / "runs"))
    monkeypatch.chdir(tmp_path)

    def call(*args, length=None):
        more = [] if length is None else ["--length", str(length)]
        result = CliRunner().invoke(rnn, ["sample", *args, *more])
        return result.stdout if length is None else result.stdout[:length], result.stderr, result.exit_code

    return call


@pytest.mark.parametrize("first", [50, 199, 200, 201, 700])
@pytest.mark.parametrize("options", [["--greedy"], ["--temperature", "0.7"], ["--clamp", "c.3=1"]], ids=str)
def test_a_text_in_two_parts_is_the_text_in_one(call, folder, options, first):
    seed = [] if "--greedy" in options else ["--seed", "5"]
    whole, _, _ = call(*options, *seed, length=900)
    begun, said, _ = call(*options, *seed, "--save-state", "s.safetensors", length=first)
    read = len(Run(folder / "runs" / "hamlet").language.opening) + first
    assert said.endswith(f"The state after {read} symbols is in s.safetensors.\n")
    rest, said, code = call(*options, "--load-state", "s.safetensors", length=900 - first)
    assert code == 0
    assert (
        said
        == f"From the run hamlet, from the state in s.safetensors{'; the random draws continue' if seed else ''}.\n"
    )
    assert begun + rest == whole


def test_draws_go_on_unless_a_seed_is_given(call):
    call("--seed", "5", "--save-state", "s", length=30)
    on, _, _ = call("--load-state", "s", length=60)
    seeded, said, _ = call("--load-state", "s", "--seed", "6", length=60)
    assert said == "From the run hamlet, from the state in s, with --seed 6.\n"
    assert seeded != on
    assert call("--load-state", "s", "--seed", "6", length=60)[0] == seeded
    call("--greedy", "--save-state", "s", length=30)
    assert re.fullmatch(r".* in s, with --seed \d+\.\n", call("--load-state", "s", length=60)[1])


def test_a_prime_is_read_from_the_state_on(call):
    begun = call("--seed", "1", "--prime", "to be", "--save-state", "s", "--length", "40")[0][:45]
    whole = call("--seed", "2", "--prime", begun + "whether", "--length", "60")[0]
    assert begun + call("--seed", "2", "--load-state", "s", "--prime", "whether", "--length", "60")[0] == whole


def test_several_texts_and_beams_begin_at_the_state(call):
    call("--seed", "3", "--save-state", "s", length=30)
    texts, _, _ = call("--load-state", "s", "--count", "2", "--seed", "1", "--length", "40")
    first, second = re.split(r"--- \d of 2 ---\n", texts)[1:]
    assert first.strip("\n") == call("--load-state", "s", "--seed", "1", length=40)[0].strip("\n") != second
    beamed, said, _ = call("--load-state", "s", "--beam", "1", length=20)
    assert beamed == call("--load-state", "s", "--greedy", length=20)[0]
    assert said.startswith("From the run hamlet, from the state in s.\n")
    assert call("--beam", "3", "--clamp", "c.3=9", length=20)[1] != call("--beam", "3", length=20)[1]


def test_what_the_file_holds(call, folder):
    call("--seed", "5", "--save-state", "s", length=30)
    tree, notes = checkpoint.load("s")
    assert [leaf.shape for leaf in trees.leaves(tree["carry"])] == [(1, 12), (1, 12)]
    assert (notes["run"], notes["cell"], notes["drawn"]) == ("hamlet", "lstm", 30)
    assert notes["symbols"] - 30 == len(Run(folder / "runs" / "hamlet").language.opening)


def test_a_state_of_other_weights_is_noted(call):
    call("--greedy", "--save-state", "s", length=30)
    _, said, code = call("other", "--greedy", "--load-state", "s", length=5)
    assert (code, said) == (
        0,
        "Note: The state is from other weights, those of the run 'hamlet': its units may mean something else here.\n"
        "From the run other, from the state in s.\n",
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["large", "--load-state", "s"],
         "--load-state 's' is of the run 'hamlet', which carries h (12), c (12), and the run 'large' carries h (13), "
         "c (13): a state needs a network of the same sizes"),
        (["wordy", "--load-state", "s"],
         "--load-state 's' is of the run 'hamlet', which knows 23 symbols, and the run 'wordy' knows 24: a state needs "
         "a network of the same sizes"),
        (["--load-state", "gone"], "--load-state: there is no file 'gone'; give the path of a checkpoint"),
        (["--load-state", "{best}"],
         "--load-state '{best}' contains no state: expected a file from rnn sample --save-state"),
        (["--save-state", "no/s"], "--save-state is 'no/s', and there is no folder 'no': make it first"),
        (["--save-state", "s", "--count", "2"],
         "--save-state saves the state at the end of one drawn text: leave out --count"),
        (["--save-state", "s", "--beam", "2"],
         "--save-state saves the state at the end of one drawn text: leave out --beam"),
        (["--clamp", "h.12=1"], "--clamp is 'h.12=1'; the units of this network are h.0 to h.11, c.0 to c.11"),
    ],
)  # fmt: skip
def test_mistakes_are_sentences(call, folder, args, message):
    call("--greedy", "--save-state", "s", length=5)
    best = str(folder / "runs" / "hamlet" / BEST)
    text, said, code = call(*(arg.format(best=best) for arg in args))
    assert (text, said, code) == ("", f"Error: {message.format(best=best)}\n", 2)


def test_a_folder_is_no_file(call, tmp_path):
    _, said, code = call("--greedy", "--save-state", str(tmp_path), length=5)
    assert code == 2
    assert said.endswith(f"Error: --save-state is {str(tmp_path)!r}, which is a folder: name a file in it\n")


def test_ctrl_c_keeps_the_state_too(folder, call, tmp_path):
    file = str(tmp_path / "s")
    with started(folder, "--length", "0", "--seed", "1", "--save-state", file) as process:
        begun = process.stdout.read(300)
        process.send_signal(signal.SIGINT)
        begun, said = (begun + process.stdout.read()).decode(), process.stderr.read().decode()
        assert process.wait() == 130
    drawn = checkpoint.load(file)[1]["drawn"]
    assert drawn in (len(begun), len(begun) - 1)  # a line feed is added where the text did not end with one
    assert said.endswith(f" symbols is in {file}.\n")
    whole, _, _ = call("--seed", "1", length=drawn + 300)
    assert begun[:drawn] + call("--load-state", file, length=300)[0] == whole

"""``rnn explain CELL``: its equations, computed from what is printed, give its numbers, for any cell."""

import json
import re
import string
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from minigrad import stepgraph
from rnn_cells.anatomy import anatomy, jacobians
from rnn_cli.main import rnn
from rnn_plugins.inspect.equations import equations
from rnn_plugins.inspect.gates import gates
from rnn_plugins.registry import entries, make_cell

KNOWN = f"{Path(__file__).parent / 'known_cells.py'}:"
MGU = f"{Path(__file__).parents[1] / 'plugins' / 'examples' / 'rnn-cell-mgu' / 'rnn_cell_mgu.py'}:MGU"
INSTALLED = sorted({entry.name for entry in entries("cells") if entry.distribution == "rnn-lab"})
OTHERS = [
    MGU,
    *(KNOWN + name for name in ("Gated", "Copy", "Unread", "Shift", "Odd", "Delayed", "Stateless", "Stabilised")),
]

PACKED = '''
from dataclasses import dataclass
import numpy as np
from minigrad import affine, concat, sigmoid, split, tanh
from rnn_cells import Cell

@dataclass(frozen=True)
class Packed(Cell):
    """An LSTM whose gates are packed into one matrix."""

    def init_params(self, rng):
        return {"W": rng.normal(0, 1, (self.input_size + self.hidden_size, 4 * self.hidden_size)).astype(np.float32)}

    def init_carry(self, batch_size):
        zeros = np.zeros((batch_size, self.hidden_size), np.float32)
        return zeros, zeros

    def __call__(self, params, carry, x):
        h, c = carry
        f, i, o, g = split(concat(h, x) @ params["W"], 4)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        return (h, c), h
'''


def call(*args):
    result = CliRunner().invoke(rnn, ["explain", *args])
    return result.exit_code, result.stdout, result.stderr


class Concatenated:
    """``C[a, b]`` is what an equation writes as ``[a, b]``."""

    def __getitem__(self, parts):
        return np.concatenate(parts, axis=-1)


FUNCTIONS = {
    "C": Concatenated(),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "exp": np.exp,
    "maximum": np.maximum,
}


def computed(text, names):
    """An equation as Python, with these names; names may have dots in them."""
    for letter, name in enumerate(sorted(names, key=len, reverse=True)):
        text = re.sub(rf"(?<![\w.]){re.escape(name)}(?![\w.(])", f"name{letter}_", text)
    text = re.sub(r"(?<![\w\])])\[", "C[", text)
    scope = {f"name{letter}_": names[name] for letter, name in enumerate(sorted(names, key=len, reverse=True))}
    return eval(text, FUNCTIONS | scope)


@pytest.mark.parametrize(
    "spec", [*INSTALLED, "gru:reset=after", "lstm:chrono=50", *OTHERS], ids=lambda s: s.rpartition("/")[2]
)
def test_every_equation_computes_the_numbers_beside_it(spec):
    cell, _, option = spec.partition(":") if "=" in spec else (spec, "", "")
    options = dict([option.split("=")]) if option else {}
    found = gates(cell, options, "hello world"[:7], 5, 2, 3)
    assert not found.reason
    for step in found.steps:
        # In this step's equations an array of rows has no batch axis, and slices are written with one.
        known = {f"{name}_{step.t - 1}": values[None] for name, values in step.before.items()} | {
            f"x_{step.t}": step.x[None]
        }
        known |= dict(found.parameters)
        for line in step.lines:
            result = np.asarray(computed(re.sub(r"\[(\d+:\d+)\]", r"[:, \1]", line.text), known))
            assert np.allclose(result, line.numbers[None], rtol=1e-4, atol=1e-5), (line.name, line.text)
            known[line.name] = line.numbers[None]


@pytest.mark.parametrize("spec", [*INSTALLED, MGU], ids=lambda s: s.rpartition("/")[2])
def test_its_states_are_those_of_the_time_loop_and_its_gates_those_of_the_anatomy(spec):
    found = gates(spec, {}, "hello", 4, 3, 7)
    assert found.difference is not None
    assert found.difference < 1e-6
    cell = make_cell(spec, 4, 3, {})
    parts = anatomy(cell)
    for step in found.steps:
        names = [line.name for line in step.lines]
        assert {f"{state.name}_{step.t}" for state in parts.states} <= set(names)
        if spec not in ("rnn", "irnn"):  # there the only activation is the state
            assert {activation.name for activation in parts.activations} <= set(names)
    params = cell.init_params(np.random.default_rng(7))
    carry, _ = cell.unroll(params, cell.init_carry(1), np.stack([step.x[None] for step in found.steps]))
    last = carry[0] if isinstance(carry, tuple) else carry
    assert np.allclose({line.name: line.numbers for line in found.steps[-1].lines}["h_4"], last[0], atol=1e-6)


def test_the_equations_of_the_lstm_are_its_docstring_s():
    cell = make_cell("lstm", 4, 3, {})
    step = stepgraph.of(
        cell, cell.init_params(np.random.default_rng(0)), cell.init_carry(1), np.zeros((1, 4), np.float32)
    )
    assert [f"{line.name} = {line.text}" for line in equations(step, anatomy(cell))] == [
        "a = [h_{t-1}, x_t] @ forget.W + forget.b",
        "forget = sigmoid(a)",
        "a = [h_{t-1}, x_t] @ input.W + input.b",
        "input = sigmoid(a)",
        "a = [h_{t-1}, x_t] @ output.W + output.b",
        "output = sigmoid(a)",
        "a = [h_{t-1}, x_t] @ candidate.W + candidate.b",
        "candidate = tanh(a)",
        "c_t = forget * c_{t-1} + input * candidate",
        "c.tanh = tanh(c_t)",
        "h_t = output * c.tanh",
    ]


def test_packed_gates_are_told_apart(tmp_path):
    (tmp_path / "packed.py").write_text(PACKED)
    found = gates(str(tmp_path / "packed.py"), {}, hidden_size=2)
    assert [f"{line.name} = {line.text}" for line in found.steps[0].lines] == [
        "v1 = [h_0, x_1] @ W",
        "W.sigmoid = sigmoid(v1[0:2])",
        "W#2 = sigmoid(v1[2:4])",
        "W#3 = tanh(v1[6:8])",
        "c_1 = W.sigmoid * c_0 + W#2 * W#3",
        "W#4 = sigmoid(v1[4:6])",
        "c.tanh = tanh(c_1)",
        "h_1 = W#4 * c.tanh",
    ]
    assert found.steps[0].lines[0].numbers.shape == (8,)


def test_the_norms_are_of_products_of_jacobians():
    found = gates("lstm", {}, seed=5)
    cell = make_cell("lstm", 4, 3, {})
    params, carry = cell.init_params(np.random.default_rng(5)), cell.init_carry(1)
    steps = []
    for step in found.steps:
        steps.append(jacobians(cell, params, carry, step.x[None])[0])
        carry, _ = cell(params, carry, step.x[None])
    products = [steps[2], steps[2] @ steps[1], steps[2] @ steps[1] @ steps[0]]
    assert found.norms == pytest.approx([np.linalg.norm(product, 2) for product in products], rel=1e-5)


# --- what is printed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [*INSTALLED, MGU, KNOWN + "Odd"], ids=lambda s: s.rpartition("/")[2])
def test_every_number_stands_on_the_terminal_within_its_width(spec, monkeypatch):
    found = gates(spec, {})
    for columns in (80, 40):
        monkeypatch.setenv("COLUMNS", str(columns))
        code, output, said = call(spec)
        assert (code, said) == (0, "")
        paths = [line for line in output.splitlines() if spec not in line]  # a path cannot be broken
        assert max(map(len, paths)) <= columns
        words = " ".join(output.split())
        for step in found.steps:
            assert f"t = {step.t} reads {step.symbol!r}" in words
            for line in step.lines:
                numbers = " ".join(
                    f"{x:.4f}".replace("-0.0000", "0.0000") for x in np.ravel(line.numbers).astype(float)
                )
                if line.numbers.dtype.kind == "f":
                    assert f"{line.name} {numbers}" in words
                assert f"= {line.text}" in words
        assert "The time loop computes the same states after 3 steps" in words
        assert f"is {', '.join(f'{norm:.3f}' for norm in found.norms)}." in words
        assert "-0.0000" not in output


def test_the_docstring_s_equations_come_first_and_options_change_the_cell():
    output = call("lstm:forget_bias=2", "--hidden-size", "2")[1]
    assert output.startswith("The cell lstm:forget_bias=2 reads 'h', 'e', 'l' of 'hello'.\n")
    assert "    f_t = sigmoid(W_f [h_{t-1}, x_t] + b_f)\n" in output
    assert "[ 2.0000  2.0000]" in output
    assert output == call("cell", "lstm", "--cell-option", "forget_bias=2", "--hidden-size", "2")[1]
    assert "rnn report --cell lstm:forget_bias=2 --kind saturation" in " ".join(output.split())


def test_a_step_that_cannot_be_traced_shows_its_states_and_says_why():
    code, output, said = call(KNOWN + "Deciding")
    assert (code, said) == (0, "")
    words = " ".join(output.split())
    assert "Only states are shown, because the step cannot be traced: in line 155 of known_cells.py it reads" in words
    found = gates(KNOWN + "Deciding", {})
    (line,) = found.steps[2].lines
    assert f"h_3 {' '.join(f'{x:.4f}' for x in line.numbers)}" in words
    W, U = found.parameters["W"], found.parameters["U"]
    assert np.allclose(line.numbers, np.tanh(found.steps[2].before["h"] @ W + found.steps[2].x @ U), atol=1e-6)
    assert "saturation" not in output


def test_a_cell_without_states_or_parameters():
    assert "derivative" not in call(KNOWN + "Stateless")[1]
    assert "It has no parameters." in call(KNOWN + "Copy")[1]


def test_equations_of_an_option_are_shown_where_it_is_used():
    plain = gates("lstm", {}, steps=1).written
    assert plain[-1] == "h_t = o_t * tanh(c_t)"
    assert gates("lstm", {"forget_bias": "3"}, steps=1).written == plain
    normalised = gates("lstm", {"layer_norm": "true"}, steps=1).written
    assert normalised[: len(plain) + 1] == (*plain, "with layer_norm:")
    assert normalised[-1] == "h_t = o_t * tanh(g_m * normal(c_t) + b_m)"


@pytest.mark.parametrize(
    ("docstring", "plain", "scaled"),
    [
        ("A cell:\n    h = 1\nand then\n    y = h\n", ("h = 1", "y = h"), ("h = 1", "y = h")),
        ("With ``scale``:\n\n    h = 1\n\n    y = h\n", ("h = 1",), ("h = 1", "with scale:", "y = h")),
        (
            "Cell.\n    \n    h = 1\n\n\n\nWith ``scale``, not ``that``:\n  \n    y = h\n\n"
            "    z = y\n\nAnd\n\n    u = z",
            ("h = 1", "u = z"),
            ("h = 1", "with scale:", "y = h", "z = y", "u = z"),
        ),
        ("Nothing.", (), ()),
    ],
)
def test_equations_are_found_however_a_docstring_is_laid_out(tmp_path, docstring, plain, scaled):
    source = PACKED.replace("class Packed(Cell):", "class Packed(Cell):\n    scale: float = 1.0", 1)
    source = source.replace('    """An LSTM whose gates are packed into one matrix."""\n', "", 1)
    (tmp_path / "packed.py").write_text(f"{source}\nPacked.__doc__ = {docstring!r}\n")
    cell = f"{tmp_path / 'packed.py'}:Packed"
    assert gates(cell, {}, steps=1).written == plain
    assert gates(cell, {"scale": "2"}, steps=1).written == scaled


def test_json_has_all_of_it():
    record, found = json.loads(call("gru", "--json", "--steps", "2")[1]), gates("gru", {}, steps=2)
    assert (record["cell"], record["symbols"], record["norms"]) == ("gru", list("helo"), list(found.norms))
    assert record["written"][0] == "z_t = sigmoid(W_z [h_{t-1}, x_t] + b_z)"
    assert record["activations"] == ["update", "reset", "candidate"]
    assert record["parameters"]["reset.W"] == found.parameters["reset.W"].tolist()
    for step, expected in zip(record["steps"], found.steps, strict=True):
        assert step["before"]["h"] == expected.before["h"].tolist()
        lines = [(line["name"], line["text"], line["numbers"]) for line in step["lines"]]
        assert lines == [(line.name, line.text, line.numbers.tolist()) for line in expected.lines]


def test_without_a_name_it_lists_what_can_be_explained():
    code, output, _ = call()
    names = [line.split()[0] for line in output.splitlines()[1:]]
    assert code == 0
    assert names == ["forward", "bptt", *(entry.name for entry in entries("cells"))]
    assert "gated recurrent unit" in output
    rows = json.loads(call("--json")[1])
    assert [row["name"] for row in rows] == names
    for name in INSTALLED:
        assert call(name, "--steps", "1", "--hidden-size", "1")[0] == 0


def test_a_cell_that_fails_is_named(tmp_path):
    (tmp_path / "failing.py").write_text(PACKED.replace("h, c = carry", "h, c, d = carry"))
    code, output, said = call(str(tmp_path / "failing.py"))
    assert (code, output) == (2, "")
    assert "failing.py' fails: ValueError: not enough values to unpack (expected 3, got 2); rnn cells check" in said


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["lsmt"],
            "there is nothing called 'lsmt' to explain. Did you mean 'lstm'? rnn explain lists all: forward, ",
        ),
        (
            ["forward", "two words"],
            "'two words' is a word too many; if it is the text to read: rnn explain forward --text 'two words'\n",
        ),
        (["lstm", "hello"], "'hello' is a word too many; if it is the text to read: rnn explain lstm --text hello\n"),
        (
            ["cell", "lstm", "hello", "--steps", "2"],
            "'hello' is a word too many; if it is the text to read: rnn explain cell lstm --text hello\n",
        ),
        (["lsmt", "hello"], "there is nothing called 'lsmt' to explain. Did you mean 'lstm'? rnn explain lists all: "),
        (["forwrad"], "there is nothing called 'forwrad' to explain. Did you mean 'forward'? rnn explain lists all: "),
        (["--json", "lstm"], "--json before a command is for the list of explanations: give it after that"),
        (["cell", "lsmt"], "no cell called 'lsmt'. Did you mean 'lstm'? Installed: "),
        (["missing.py:Cell"], "missing.py"),
        (["gru", "--steps", "6"], "--text is 'hello', 5 characters; 6 steps need 6"),
        (["gru", "--steps", "0"], "--steps is 0; it must be from 1 to 50"),
        (["gru", "--hidden-size", "8"], "--hidden-size is 8; it must be from 1 to 7, to be read as numbers"),
        (["gru", "--text", string.ascii_letters], "it must have from 2 to 7"),
        (["gru:reset=never"], "the option 'reset' of the cell 'gru' must be before or after, and it is 'never'"),
    ],
)
def test_mistakes_are_sentences(args, message):
    code, output, said = call(*args)
    assert (code, output) == (2, "")
    assert said.startswith("Error: ")
    assert message in said


def test_the_shell_completes_commands_and_cells(monkeypatch):
    from click.shell_completion import ShellComplete

    found = ShellComplete(rnn, {}, "rnn", "_RNN_COMPLETE").get_completions(["explain"], "")
    assert {"forward", "bptt", "cell", "gru", "lstm"} <= {item.value for item in found}
    found = ShellComplete(rnn, {}, "rnn", "_RNN_COMPLETE").get_completions(["explain"], "ls")
    assert [item.value for item in found] == ["lstm", "lstm-coupled", "lstm-peephole"]

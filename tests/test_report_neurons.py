"""Units that follow a feature of the text: a constructed counter is found, units that see only symbols are not."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_cells import Copy, Deciding, Forgetful, Linear, Odd, Stateless, on, subject_of

from minigrad import concat, tanh
from rnn_cells import Cell, Stacked
from rnn_plugins import registry
from rnn_plugins.data.features import features
from rnn_plugins.data.vocabulary import Vocabulary
from rnn_plugins.errors import UserError
from rnn_plugins.language.model import Model
from rnn_plugins.reports.neurons import Neurons, correlations, ranks, read_text, search
from rnn_plugins.reports.report import Colouring, Look

LETTERS = "\n abc"


@dataclass(frozen=True)
class Counter(Cell):
    """Unit ``place`` counts the characters since the last line feed, symbol 0; the others are a random network."""

    place: int = 2

    def init_params(self, rng):
        H = self.hidden_size
        return {
            "W": rng.normal(0, 0.5, (H, H)).astype(np.float32),
            "U": rng.normal(0, 1, (self.input_size, H)).astype(np.float32),
        }

    def __call__(self, params, h, x):
        count = (h[:, self.place : self.place + 1] + 1) * (1 - x[:, :1])
        others = tanh(tanh(h) @ params["W"] + x @ params["U"])
        h = concat(others[:, : self.place], count, others[:, self.place + 1 :])
        return h, h


def lines(length, seed=0):
    """Words of three letters in lines of random lengths."""
    rng = np.random.default_rng(seed)
    text = ""
    while len(text) < length:
        text += " ".join("".join(rng.choice(list("abc"), rng.integers(1, 6))) for _ in range(rng.integers(2, 9))) + "\n"
    return text[:length]


def subject_on(text, cell=None, vocabulary=None):
    vocabulary = vocabulary or Vocabulary.build([text])
    cell = cell or Counter(len(vocabulary), 6)
    model = Model(cell, len(vocabulary), dtype="float64")
    params = model.init_params(np.random.default_rng(3))
    tokens = vocabulary.encode(text, "replace")
    return on(subject_of(cell), model=model, params=params, tokens=tokens, vocabulary=vocabulary)


def table(findings, key="features"):
    (found,) = (figure for figure in findings.figures if figure.key == key)
    return {row[0]: dict(zip(found.heads, row, strict=True)) for row in found.rows}


def test_a_unit_that_counts_the_line_is_found_and_nothing_else():
    text = lines(6000)
    findings = Neurons().measure(subject_on(text), Look(positions=500))
    rows = table(findings)
    assert list(rows) == ["position in the line", "position in the word"]
    row = rows["position in the line"]
    assert (row["UNIT"], row["FOLLOWS"]) == ("h.2", "yes")
    assert row["r"] == pytest.approx(1)
    assert row["RANK r"] == pytest.approx(1)
    assert row["CHANCE"] < 0.3
    assert row["SYMBOL"] < 0.6
    (colouring,) = (figure for figure in findings.figures if isinstance(figure, Colouring))
    shown = "".join(colouring.symbols)
    assert len(shown) == 600
    assert shown in text
    expected = [position - (shown.rfind("\n", 0, position + 1)) for position in range(600)]
    np.testing.assert_array_equal(colouring.values, expected)
    values = {quantity.key: quantity.value for quantity in findings.quantities}
    assert values["followed"] == 1 + (rows["position in the word"]["FOLLOWS"] == "yes")
    assert values["looked_for"] == 2
    assert values["best_position_in_the_line"] == pytest.approx(1)
    assert findings.verdict[0].startswith("h.2 follows the position in the line: a correlation of 1.00, where chance ")


def test_units_that_see_the_last_symbol_alone_are_no_finding():
    findings = Neurons().measure(subject_on(lines(6000), Forgetful(5, 40)), Look(positions=500))
    for row in table(findings).values():
        assert abs(row["r"]) <= row["SYMBOL"] + 0.01  # which is adjusted, and so a little less than the best of them
        assert row["FOLLOWS"] == "no"
    assert findings.verdict == (
        "No single unit follows any of 2 features clearly better than chance, or than the symbol just read; what the "
        "network knows of them is spread over many units.",
    )
    assert not any(isinstance(figure, Colouring) for figure in findings.figures)


def test_what_does_not_belong_together_is_put_down_to_chance():
    reading = read_text(subject_on(lines(6000)), 500)
    noise = np.random.default_rng(0).standard_normal(len(reading.tokens))
    found = search(replace(reading, features={"noise": noise}))
    assert not found.found.any()
    assert 0 < found.chance[0] < 0.1
    assert found.symbol[0] < 0.05


def test_chosen_units_are_shown_whatever_they_follow():
    findings = Neurons().measure(subject_on(lines(6000)), Look(positions=500, units=("h.5", "h.2")))
    chosen = table(findings, "units")
    assert list(chosen) == ["h.5", "h.2"]
    assert chosen["h.2"]["POSITION"] == "1 of 6"
    assert chosen["h.2"]["FEATURE"] == "position in the line"
    colourings = [figure for figure in findings.figures if isinstance(figure, Colouring)]
    assert [figure.key for figure in colourings] == ["unit_h.5", "unit_h.2"]
    assert all(len(figure.symbols) == len(figure.values) for figure in colourings)


def test_gates_are_shown_as_the_cell_computes_them():
    """Each layer's gates and their means, against a loop over the equations of the two cells."""
    stack = Stacked([registry.make_cell("lstm", 5, 4, {}), registry.make_cell("gru", 4, 3, {})])
    subject = subject_on(lines(900), stack)
    names = ("layer1.forget.3", "layer1.c.tanh.0", "layer2.candidate.1", "layer2.h.2")
    gates = ("layer1.output", "layer2.update")
    reading = read_text(subject, 100, names, gates)
    assert list(reading.chosen) == [*names, *(f"{gate}, mean over units" for gate in gates)]
    assert reading.names == tuple(f"{layer}.{i}" for layer, n in LAYERS.items() for i in range(n))

    def dense(part, values):
        return values @ part["W"] + part["b"]

    lower, upper = subject.probe.params["0"], subject.probe.params["1"]
    h, c, top = np.zeros(4), np.zeros(4), np.zeros(3)
    expected = []
    for token in subject.examples:
        before = np.concatenate([h, np.eye(5)[token]])
        f, i, o = (1 / (1 + np.exp(-dense(lower[name], before))) for name in ("forget", "input", "output"))
        c = f * c + i * np.tanh(dense(lower["candidate"], before))
        h = o * np.tanh(c)
        z, r = (1 / (1 + np.exp(-dense(upper[name], np.concatenate([top, h])))) for name in ("update", "reset"))
        candidate = np.tanh(dense(upper["candidate"], np.concatenate([r * top, h])))
        top = (1 - z) * top + z * candidate
        expected.append((f[3], np.tanh(c)[0], candidate[1], top[2], o.mean(), z.mean()))
    found = np.stack(list(reading.chosen.values()), axis=1)
    count = len(subject.examples)
    start = np.array(expected)[count // 5 :][: len(found)]
    np.testing.assert_allclose(found, start, rtol=1e-6)


LAYERS = {"layer1.h": 4, "layer1.c": 4, "layer2.h": 3}


def test_chosen_gates_have_a_row_and_a_text_and_are_not_searched():
    subject = subject_on(lines(6000), registry.make_cell("lstm", 5, 6, {}))
    look = Look(positions=500, units=("forget.3", "c.1"), gates=("output",))
    findings = Neurons().measure(subject, look)
    chosen = table(findings, "units")
    assert list(chosen) == ["forget.3", "c.1", "output, mean over units"]
    assert chosen["forget.3"]["POSITION"] == "-"
    assert chosen["c.1"]["POSITION"].endswith(" of 12")
    coloured = {figure.key: figure for figure in findings.figures if isinstance(figure, Colouring)}
    assert list(coloured) == ["unit_forget.3", "unit_c.1", "unit_output"]
    assert coloured["unit_output"].value_label == "output, mean over units at each symbol"
    assert coloured["unit_c.1"].value_label == "c.1 after each symbol"
    assert all(0 < value < 1 for value in coloured["unit_forget.3"].values)
    assert table(findings) == table(Neurons().measure(subject, Look(positions=500)))


@pytest.mark.parametrize(
    ("cell", "look", "message"),
    [
        (
            None,
            Look(units=("h.6",)),
            r"there is no unit 'h.6'. Did you mean 'h.5'? There are h.0 to h.5, tanh.0 to tanh.5",
        ),
        (None, Look(units=("h.x",)), "there is no unit 'h.x'."),
        (None, Look(units=("forget",)), "there is no unit 'forget'."),
        (None, Look(units=("tanh",)), "'tanh' has 6 units: name one, such as tanh.0; --gate tanh shows the mean over "),
        (None, Look(units=("h",)), "'h' has 6 units: name one, such as h.0"),
        (
            Stacked([registry.make_cell("lstm", 5, 4, {}), registry.make_cell("gru", 4, 3, {})]),
            Look(units=("h.1",)),
            "there is no unit 'h.1'. There are layer1.h.0 to layer1.h.3, layer1.c.0 to layer1.c.3, layer2.h.0 to "
            "layer2.h.2, layer1.forget.0 to ",
        ),
        (
            registry.make_cell("gru", 5, 4, {}),
            Look(gates=("forget",)),
            "there is no gate 'forget'. There are update, reset and candidate",
        ),
        (Deciding(5, 5), Look(gates=("forget",)), "there is no gate 'forget'. The cell has none, because its step "),
        (Copy(5, 5), Look(gates=("forget",)), "there is no gate 'forget'. The cell has none"),
    ],
)
def test_an_unknown_unit_or_gate_is_a_mistake(cell, look, message):
    with pytest.raises(UserError) as error:
        Neurons().measure(subject_on(lines(500), cell), look)
    assert str(error.value).startswith(message)


def test_texts_in_which_nothing_can_be_followed():
    with pytest.raises(UserError) as error:
        Neurons().measure(subject_on("0110" * 100), Look())
    assert str(error.value) == (
        "the text has nothing that a unit could follow: no lines, words, quotes, brackets or environments"
    )
    with pytest.raises(UserError) as error:
        Neurons().measure(subject_on("ab\n" * 33), Look())
    assert str(error.value) == "the text has 99 symbols, too few to search for units: give one of 100 or more"


def test_cells_that_have_no_units_to_look_at():
    for cell in (Stateless(5, 4), Stacked([Stateless(5, 4), Stateless(4, 3)])):
        with pytest.raises(UserError) as error:
            Neurons().measure(subject_on(lines(500), cell), Look())
        assert str(error.value) == ("the cell carries no state from step to step, so there are no units to search")


def test_units_that_grow_beyond_all_numbers_give_no_verdict():
    with pytest.raises(UserError) as error:
        Neurons().measure(subject_on(lines(500), Linear(5, 4, 1e6)), Look(positions=500))
    assert str(error.value).startswith("the network's states overflow: ")


def test_what_rare_symbols_tell_is_not_overrated():
    """A feature, half of whose variance is of the symbol; with two of each symbol, chance explains half of the rest."""
    reading = read_text(subject_on(lines(6000)), 500)
    rng, count = np.random.default_rng(0), len(reading.tokens)
    tokens = rng.permutation(np.repeat(np.arange(count // 2), 2))
    half = rng.standard_normal(count // 2)[tokens] + rng.standard_normal(count)
    found = search(replace(reading, tokens=tokens, features={"half": half}))
    assert found.symbol[0] == pytest.approx(np.sqrt(1 / 2), abs=0.03)  # unadjusted it would be the root of 3/4


@pytest.mark.parametrize(
    "cell",
    [
        *(registry.make_cell(entry.name, 5, 5, {}) for entry in registry.entries("cells")),
        Stacked([registry.make_cell("lstm", 5, 4, {}), registry.make_cell("gru", 4, 3, {})]),
        Odd(5, 5),
        Deciding(5, 5),
        Copy(5, 5),
    ],
    ids=lambda cell: type(cell).__name__,
)
def test_any_cell_can_be_looked_at(cell):
    reading = read_text(subject_on(lines(900), cell), 100)
    found = search(reading)
    assert reading.units.shape == (len(reading.tokens), len(reading.names))
    assert np.isfinite(found.correlation).all()
    assert (np.abs(found.correlation) <= 1 + 1e-9).all()
    assert len(set(reading.names)) == len(reading.names)


def test_stretches_are_read_as_the_model_reads_them():
    subject = subject_on(lines(9000))
    reading = read_text(subject, 500)
    assert reading.length == 1000
    assert len(reading.tokens) == 2000
    np.testing.assert_array_equal(reading.tokens[:1000], subject.examples[500:1500])
    np.testing.assert_array_equal(reading.tokens[1000:], subject.examples[-1000:])
    np.testing.assert_array_equal(reading.units[:, 2], reading.features["position in the line"])


def test_bytes_are_characters_of_their_own():
    text = lines(1500).replace("b", "ö")
    subject = subject_on(text, Counter(256, 3), Vocabulary.build([], "byte"))
    reading = read_text(subject, 500)
    content = text.encode()
    start = len(content) // 5
    expected = [i - content.rfind(b"\n", 0, i + 1) for i in range(start, start + 1000)]
    np.testing.assert_array_equal(reading.features["position in the line"], expected)


def test_a_word_stands_where_its_last_character_does():
    text = lines(4000)
    vocabulary = Vocabulary.build([text], "word", 20)
    subject = subject_on(text, Counter(len(vocabulary), 3), vocabulary)
    decoded = vocabulary.decode(subject.examples)
    assert "<unk>" in decoded
    reading = read_text(subject, 10_000)
    ends = np.cumsum([len(vocabulary.symbols[token]) for token in subject.examples]) - 1
    start = len(ends) // 5
    expected = features(decoded)["position in the line"][ends[start : start + 1000]]
    np.testing.assert_array_equal(reading.features["position in the line"], expected)


def test_correlations_are_pearson_s_and_nothing_goes_with_what_stands_still():
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((50, 3)), rng.standard_normal((50, 4))
    right[:, 1] = 0.1
    found = correlations(left, right)
    for i in range(3):
        for j in (0, 2, 3):
            assert found[i, j] == pytest.approx(np.corrcoef(left[:, i], right[:, j])[0, 1])
    assert not found[:, 1].any()


def test_equal_numbers_share_their_rank():
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [4, 1, 4, 2, 4]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("position in the line", "ab\nc\n\nd", "1201001"),
        ("position in the word", "ab c1de", "1201012"),
        ("position in the paragraph", "a\n\nb\nc", "120123"),
        ("indentation of the line", "  a b\n c", "12222011"),
        ("in a word of capitals", "AB Ab ABc", "010000010"),
        ("inside quotes", 'a"b"c', "01100"),
        ("inside quotes", "``ab'' it's \"no\n\n\"", "011110" + "0" * 12),
        ("inside quotes", "“a” «b»", "1100110"),
        ("inside brackets", "a(b)c(", "011000"),
        ("inside brackets", "([)]", "1100"),
        ("nesting depth of brackets", "(a[b]{})", "11221210"),
        ("inside a formula", r"\a $x$ b", "00011000"),
        ("an open environment", r"\begin{a}x\end{a}y", "0" * 8 + "11" + "0" * 8),
        ("inside a", r"\begin{a}x\end{a}y", "0" * 8 + "11" + "0" * 8),
    ],
)
def test_what_can_be_read_off_a_text(name, text, expected):
    assert features(text)[name].astype(int).tolist() == list(map(int, expected))


def test_what_a_text_has_not_is_left_out():
    assert list(features("ab ab")) == ["position in the word"]
    assert "inside a formula" not in features("from $5 to $6 a piece")
    assert "an open environment" not in features(r"\begin{document} a \end{document} \begin{b}")


@given(st.text(alphabet="a B\n\t\"()[]{}$\\`'“”", min_size=1, max_size=200))
def test_any_text_has_a_value_at_every_character(text):
    for values in features(text).values():
        assert values.shape == (len(text),)
        assert values.min() >= 0
        assert np.ptp(values) > 0

"""The parameters as pictures: every matrix, its numbers or exact means of them, one symmetric scale each."""

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
from known_cells import on, subject_of

from minigrad import trees
from rnn_cells import Cell, Stacked
from rnn_cli.drawing import characters
from rnn_cli.drawing.characters import Screen
from rnn_lab.drawing import pictures
from rnn_lab.drawing.scales import image_axis
from rnn_plugins import registry
from rnn_plugins.data.vocabulary import Vocabulary
from rnn_plugins.errors import UserError
from rnn_plugins.language.model import Model
from rnn_plugins.reports.report import Image, Look, Table, compose
from rnn_plugins.reports.weights import SIDE, Weights


def look(subject):
    return Weights().measure(subject, Look())


def images(findings):
    return {figure.key.removeprefix("weights."): figure for figure in findings.figures if isinstance(figure, Image)}


def embedded(size, symbols):
    """A model with an embedding on a text of single letters."""
    vocabulary = Vocabulary.build([symbols])
    cell = registry.make_cell("lstm", 6, size, {})
    model = Model(cell, len(vocabulary), embedding_size=6)
    params = model.init_params(np.random.default_rng(3))
    return on(subject_of(registry.make_cell("gru", 7, 4, {})), model=model, params=params, vocabulary=vocabulary,
              tokens=np.zeros(50, int), training=np.zeros(50, int))  # fmt: skip


def test_every_matrix_has_a_picture_of_its_numbers_and_every_parameter_a_row():
    subject = embedded(5, "abc \n")
    findings = look(subject)
    leaves = trees.flatten(subject.params)
    found = images(findings)
    assert set(found) == {path for path, leaf in leaves.items() if leaf.ndim == 2}
    assert {"embedding", "head.W", "cell.forget.W"} <= set(found)
    for path, image in found.items():
        np.testing.assert_array_equal(image.values, leaves[path].astype(np.float64))
        assert image.title == f"{path}, {leaves[path].shape[0]} x {leaves[path].shape[1]}"
        most = np.abs(leaves[path]).max()
        assert image.signed
        assert (image_axis(image).low, image_axis(image).high) == pytest.approx((-most, most))
    assert subject.language.symbols == ("\n", " ", "a", "b", "c")
    assert found["embedding"].y_ticks == found["head.W"].x_ticks == (r"'\n'", "' '", "a", "b", "c")
    assert found["embedding"].x_ticks == found["cell.forget.W"].x_ticks == ()
    (table,) = (figure for figure in findings.figures if isinstance(figure, Table))
    assert [row[0] for row in table.rows] == list(leaves)
    for path, size, low, mean, high, spread in table.rows:
        leaf = leaves[path].astype(np.float64)
        assert size == " x ".join(map(str, leaf.shape))
        assert (low, mean, high, spread) == pytest.approx((leaf.min(), leaf.mean(), leaf.max(), leaf.std()))


def test_a_large_matrix_is_reduced_to_means_of_blocks_and_says_so():
    subject = subject_of(registry.make_cell("gru", 7, 2 * SIDE + 9, {}))
    leaf = trees.flatten(subject.params)["cell.update.W"]
    rows, columns = leaf.shape
    image = images(look(subject))["cell.update.W"]
    assert image.values.shape == (SIDE, SIDE)
    edges = [np.linspace(0, size, SIDE + 1).round().astype(int) for size in (rows, columns)]
    for row, column in ((0, 0), (3, 50), (SIDE - 1, SIDE - 1)):
        block = leaf[edges[0][row] : edges[0][row + 1], edges[1][column] : edges[1][column + 1]]
        assert image.values[row, column] == pytest.approx(block.mean())
        assert (image.y_ticks[row], image.x_ticks[column]) == (str(edges[0][row]), str(edges[1][column]))
    per_block = f"{rows / SIDE:.3g} x {columns / SIDE:.3g}"
    assert f"as the means of blocks of {per_block} (rows x columns)" in image.definition
    assert image.value_label == "mean weight"
    assert image.y_label == f"row, the first of each block of {rows / SIDE:.3g}"


def test_networks_side_by_side_share_the_scale_of_a_matrix():
    one = subject_of(registry.make_cell("gru", 7, 4, {}))
    two = replace(one, params=trees.map(lambda leaf: 3 * leaf, one.params))
    page = compose("weights", Weights(), {"one": look(one), "two": look(two)})
    most = 3 * np.abs(trees.flatten(one.params)["head.W"]).max()
    limits = [figure.limits for figure in page.figures if figure.key.startswith("weights.head.W")]
    assert limits == [pytest.approx((-most, most))] * 2


@dataclass(frozen=True)
class Cubic(Cell):
    """A parameter with three axes."""

    def init_params(self, rng):
        return {"A": rng.normal(0, 1, (2, self.input_size, self.hidden_size)).astype(np.float32)}

    def __call__(self, params, h, x):
        h = h * 0.5 + x @ params["A"][0] + x @ params["A"][1]
        return h, h


def test_of_more_axes_the_last_is_across():
    subject = subject_of(Cubic(7, 4))
    image = images(look(subject))["cell.A"]
    np.testing.assert_array_equal(image.values, subject.params["cell"]["A"].reshape(14, 4))
    assert image.title == "cell.A, 2 x 7 x 4"
    assert "whose rows are its first 2 axes, the last of them running fastest" in image.definition


@pytest.mark.parametrize(
    "cell",
    [
        *(registry.make_cell(entry.name, 7, 5, {}) for entry in registry.entries("cells")),
        Stacked([registry.make_cell("lstm", 7, 4, {}), registry.make_cell("gru", 4, 3, {})]),
    ],
    ids=lambda cell: type(cell).__name__,
)
def test_any_cell_can_be_shown(cell):
    findings = look(subject_of(cell))
    assert images(findings)
    assert findings.verdict[0].startswith("The weights of ")
    assert {quantity.key: quantity.value for quantity in findings.quantities}["matrices"] == len(images(findings))


def test_without_a_matrix_it_says_so():
    subject = replace(subject_of(registry.make_cell("gru", 7, 4, {})), params={"b": np.zeros(3)})
    with pytest.raises(UserError, match=r" has no matrix among its parameters, so there is no picture to show$"):
        look(subject)


def test_signed_colours_have_zero_in_the_middle_and_their_limits_beside_them():
    image = Image("i", "t", "column", "row", np.array([[-1.0, 0.5], [0.0, 0.25]]), "weight", signed=True)
    words = re.findall(r"<text[^>]*>([^<]*)</text>", pictures.svg(image, "f"))
    assert words[-4:] == ["-1", "0", "1", "weight"]
    coloured = characters.image(image, Screen(coloured=True))
    backgrounds = [span.style.bgcolor.name for line in coloured[1:3] for span in line.spans]
    assert backgrounds == [characters.SIGNED[level] for level in (0, 6, 4, 5)]
    assert image_axis(image).low == -image_axis(image).high == -1.0

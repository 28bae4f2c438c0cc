"""Curves in a terminal as dots of braille: where they are, whose colour they have, and where letters stay."""

from typing import Any

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from rich.color import Color
from rich.text import Text

from rnn_cli.drawing import characters, curves
from rnn_cli.drawing.characters import CHART_ROWS, Screen
from rnn_cli.drawing.curves import BRAILLE, COLOURS, MARK, SAMPLE, dots, letters
from rnn_lab.drawing.scales import Axis, axes, drawable
from rnn_plugins.reports.report import Chart, Curve

UNIT = Axis(0.0, 1.0)
COLOURED = Screen(coloured=True)


def places(drawn: curves.Drawn) -> set[tuple[int, int]]:
    """The dots that are drawn, by column and row from the lower left."""
    order = (
        (0x01, 0, 3),
        (0x02, 0, 2),
        (0x04, 0, 1),
        (0x40, 0, 0),
        (0x08, 1, 3),
        (0x10, 1, 2),
        (0x20, 1, 1),
        (0x80, 1, 0),
    )
    return {
        (2 * column + right, 4 * row + up)
        for (column, row), (character, _) in drawn.cells.items()
        if character != MARK
        for bit, right, up in order
        if (ord(character) - BRAILLE) & bit
    }


def line(label: str = "", **more: Any) -> Curve:
    return Curve(label, np.array([0.0, 1.0]), np.array([0.0, 1.0]), **more)


def chart(*some: Curve, **more: Any) -> Chart:
    return Chart("c", "title", "x", "y", some, **more)


def test_a_straight_line_is_a_straight_line_of_dots() -> None:
    """From the middle of the first cell to that of the last, so that it ends where the axes' ticks are."""
    drawn = dots([line()], UNIT, UNIT, 21, 11)
    found = places(drawn)
    assert {column for column, _ in found} == set(range(41))
    for column, row in found:
        assert abs(row - (1.5 + 40 * (column - 0.5) / 40)) <= 1


def test_a_level_is_at_the_height_of_its_tick() -> None:
    level = Curve("", np.array([0.0, 1.0]), np.array([0.5, 0.5]))
    assert {row for _, row in dots([level], UNIT, UNIT, 9, 9).cells} == {4}
    assert {row for _, row in letters([level], UNIT, UNIT, 9, 9).cells} == {4}


@given(st.lists(st.floats(-10, 10) | st.just(np.nan), min_size=1, max_size=15), st.booleans())
def test_dots_are_where_letters_would_be(values: list[float], steps: bool) -> None:
    assume(np.isfinite(values).any())
    curve = Curve("", np.arange(len(values)), np.array(values), role="steps" if steps else "measured")
    figure = chart(curve)
    known = drawable(figure)
    arguments = (known, *axes(figure, known), 40, CHART_ROWS)
    of_letters, of_dots = set(letters(*arguments).cells), set(dots(*arguments).cells)
    assert of_letters

    def near(cells: set[tuple[int, int]], others: set[tuple[int, int]]) -> bool:
        return all(any(abs(c - a) <= 1 and abs(r - b) <= 1 for a, b in others) for c, r in cells)

    assert near(of_dots, of_letters)
    assert near(of_letters, of_dots)


def test_curves_that_cross_keep_their_colours_and_all_their_dots() -> None:
    falling = Curve("", np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    both = dots([line(), falling], UNIT, UNIT, 21, 11)
    assert places(both) == places(dots([line()], UNIT, UNIT, 21, 11)) | places(dots([falling], UNIT, UNIT, 21, 11))
    assert both.cells[0, 0][1] == 0
    assert both.cells[0, 10][1] == 1
    assert both.behind == set()
    same = dots([line(), line(), line(role="bound")], UNIT, UNIT, 21, 11)
    assert {column % 2: index for (column, _), (_, index) in same.cells.items()} == {0: 0, 1: 1}
    assert same.behind == {2}


def test_curves_of_one_colour_are_dashed_differently() -> None:
    some = [line(style=1), line(style=1), line(style=2), line(style=1), line(style=1 + len(COLOURS))]
    samples = dots(some, UNIT, UNIT, 40, 11).samples
    assert samples[2] == samples[0]
    assert len({samples[0], samples[1], samples[3], samples[4]}) == 4
    assert {len(sample) for sample in samples} == {SAMPLE}
    alone = [len(places(dots([*some[:count], some[count]], UNIT, UNIT, 40, 11))) for count in range(2)]
    assert alone[0] == alone[1]  # what the second leaves out, the first draws
    dashed = len(places(dots([line(role="bound")], UNIT, UNIT, 40, 11)))
    dotted = len(places(dots([line(role="reference")], UNIT, UNIT, 40, 11)))
    assert dotted < dashed < alone[0]


def test_what_stands_out_and_what_is_a_single_point_is_a_disc() -> None:
    mark = Curve("", np.array([0.5]), np.array([0.5]), role="mark")
    drawn = dots([line(), mark], UNIT, UNIT, 21, 11)
    assert drawn.cells[10, 5] == (MARK, 1)
    assert drawn.samples[1] == MARK
    alone = Curve("", np.array([0.0, 0.5, 1.0]), np.array([np.nan, 0.5, np.nan]))
    assert dots([alone], UNIT, UNIT, 21, 11).cells == {(10, 5): (MARK, 0)}


def shown(figure: Chart, screen: Screen) -> list[Text]:
    return characters.chart(figure, screen)


def is_dotted(figure: Chart, screen: Screen) -> bool:
    text = "".join(line.plain for line in shown(figure, screen))
    return any(BRAILLE < ord(character) < BRAILLE + 256 for character in text)


def test_letters_stay_where_dots_could_not_be_told_apart() -> None:
    two = chart(line("a"), Curve("b", np.array([0.0, 1.0]), np.array([1.0, 0.0])))
    assert is_dotted(two, COLOURED)
    for screen in (Screen(), Screen(coloured=True, few=True), Screen(coloured=True, encoding="latin-1")):
        assert not is_dotted(two, screen)
        assert "o a   x b" in shown(two, screen)[-1].plain
    cloud = chart(Curve("a", np.arange(9.0), np.arange(9.0), role="points"))
    assert not is_dotted(cloud, COLOURED)


def test_the_legend_has_the_colours_of_the_curves_and_fits() -> None:
    figure = chart(line("first"), Curve("second", np.array([0.0, 1.0]), np.array([1.0, 0.0]), role="bound"))
    legend = shown(figure, COLOURED)[-1]
    words = legend.plain
    assert words.split() == ["⠤" * SAMPLE, "first", dots(drawable(figure), UNIT, UNIT, 9, 9).samples[1], "second"]
    styles = {words[span.start : span.end]: span.style for span in legend.spans}
    assert styles["⠤" * SAMPLE] == COLOURS[0]
    assert styles[words.split()[2]] == f"dim {COLOURS[1]}"
    assert all(Color.parse(name).triplet for name in COLOURS)
    long = chart(line("a label that is much longer than the line is wide " * 3), line("b"))
    for width in (40, 80):
        screen = Screen(width, coloured=True)
        assert max(row.cell_len for row in shown(long, screen)) <= width
        assert any(row.plain.rstrip().endswith("...") for row in shown(long, screen))

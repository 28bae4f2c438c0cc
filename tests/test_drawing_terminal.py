"""Pages of reports on a terminal: what is printed, how wide, in which characters."""

import io
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from synthetic_pages import AWKWARD, awkward, coloured, decay, flow, matrix

from rnn_cli.drawing import characters, terminal
from rnn_cli.drawing import curves as curves_of
from rnn_cli.drawing.characters import Screen
from rnn_lab.drawing import scales, words
from rnn_plugins.reports.report import Chart, Colouring, Curve, Image, Page, Quantity, Table

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def drawn(pages: Sequence[Page], encoding: str = "utf-8", **options: Any) -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    console = Console(file=file, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminal, "results", lambda: console)
        terminal.draw(pages)
    file.flush()
    assert isinstance(file.buffer, io.BytesIO)
    return file.buffer.getvalue().decode(encoding)


def lines(figure: Chart | Image | Colouring, screen: Screen | None = None) -> list[str]:
    kind = {Chart: characters.chart, Image: characters.image, Colouring: characters.colouring}[type(figure)]
    return [line.plain.rstrip() for line in kind(figure, screen or Screen())]  # type: ignore[operator]


def straight(*curves: Curve, **options: Any) -> Chart:
    return Chart("c", "title", "x", "y", curves, **options)


PAGE = Page(
    "kind",
    "The heading",
    "The question?",
    ("one", "two", "three"),
    {
        "one": (Quantity("half", "half-life", 12.3456, "steps"), Quantity("seen", "seen", 12345, "symbols")),
        "two": (Quantity("half", "half-life", None, "steps", missing="never"), Quantity("seen", "seen", 7)),
    },
    (
        straight(Curve("a", np.arange(3), np.array([0.0, 1.0, 2.0])), y_limits=(0.0, 13.0)),
        Table("t", "A table", ("name", "value"), (("w", 0.5), ("b", None))),
    ),
    {"one": ("It holds.", "Try more."), "two": ()},
    ("one: less text.",),
    {"three": "it has no state"},
)


def test_a_page_in_full() -> None:
    assert (
        drawn([PAGE])
        == f"""\
The heading
The question?

                      one    two
{"─" * 32}
half-life      12.3 steps  never
seen       12,345 symbols      7

title
y
   │
   │
   │
10 ┤
   │
   │
   │
   │
 5 ┤
   │
   │
   │{" " * 56}{"o" * 19}
   │{" " * 19}{"o" * 37}
 0 ┤{"o" * 19}
   └{"─" * 75}
    0                0.5                 1                 1.5                2
{"x":>79}
    o a

A table
name  value
{"─" * 11}
w       0.5
b         -

one: It holds. Try more.
Note: one: less text.
three: it has no state
"""
    )


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_what_is_piped_is_80_columns_of_plain_text(encoding: str) -> None:
    whole = drawn([flow(), awkward()], encoding, width=200)
    assert "\x1b" not in whole
    assert not set(whole) & set("\x00\r\t\u202e")
    assert max(characters.cell_len(line) for line in whole.splitlines()) <= 80
    assert AWKWARD[:33] in whole  # markup of all kinds is text
    assert whole.isascii() == (encoding != "utf-8")


def test_no_colour_means_no_control_sequence_on_a_terminal_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    whole = drawn([flow(), awkward()], force_terminal=True, width=100)
    assert "\x1b" not in whole
    assert 80 < max(characters.cell_len(line) for line in whole.splitlines()) <= 100


def test_few_colours_change_no_character_of_a_chart() -> None:
    chart = replace(flow(), figures=(decay(),))
    colourful = drawn([chart], force_terminal=True, color_system="standard", width=80, no_color=False)
    assert "\x1b[" in colourful
    plain = [line.rstrip() for line in ESCAPE.sub("", colourful).splitlines()]
    assert plain == [line.rstrip() for line in drawn([chart]).splitlines()]


def test_pages_are_set_apart() -> None:
    assert drawn([PAGE, PAGE]) == drawn([PAGE]) + "\n" + drawn([PAGE])


def test_four_subjects_have_room_in_a_table_and_eight_make_two() -> None:
    names = [f"subject{n}" for n in range(8)]
    quantity = Quantity("lag", "lag at 1 % of what it is at 0", None, "steps", missing="not in 100")
    page = Page("k", "t", "q", tuple(names), dict.fromkeys(names, (quantity,)))
    for count, tables in ((4, 1), (8, 2)):
        some = replace(page, subjects=tuple(names[:count]), quantities=dict.fromkeys(names[:count], (quantity,)))
        assert drawn([some]).count(quantity.label) == tables
        assert drawn([some]).count("not in 100") == count


def test_long_names_of_subjects_are_broken_and_not_lost() -> None:
    names = tuple(f"a-run-with-a-long-name-{n}" for n in range(4))
    page = Page("k", "t", "q", names, {name: (Quantity("n", "steps", 5),) for name in names})
    whole = drawn([page])
    assert max(map(len, whole.splitlines())) <= 80
    assert whole.count("a-run-with-a- ") + whole.count("a-run-with-a-\n") == 4
    assert all(f"long-name-{n}" in whole for n in range(4))


def test_names_with_options_are_broken_behind_signs_and_only_where_room_is_short() -> None:
    names = ("rnn:recurrent_scale=1.5", "lstm:forget_bias=3,hidden=9", "gru", "abcdefghijklmnopqrst")
    page = Page("k", "t", "q", names, {name: (Quantity("n", "steps", 5),) for name in names})
    heads = drawn([page]).split("─")[0].splitlines()[3:]
    assert [line.split() for line in heads] == [
        ["lstm:forget_"],
        ["rnn:recurrent_", "bias=3,"],
        ["scale=1.5", "hidden=9", "gru", "abcdefghijklmnopqrst"],
    ]
    two = replace(page, subjects=names[:2], quantities={name: page.quantities[name] for name in names[:2]})
    assert drawn([two]).splitlines()[3].split() == list(names[:2])


def test_a_subject_that_lacks_a_quantity_has_a_dash() -> None:
    page = Page("k", "t", "q", ("a", "b"), {"a": (Quantity("n", "steps", 5),), "b": (Quantity("m", "runs", 6),)})
    rows = [line.split() for line in drawn([page]).splitlines()]
    assert ["steps", "5", "-"] in rows
    assert ["runs", "-", "6"] in rows


def test_a_geometric_decay_is_a_straight_line_on_a_logarithmic_axis() -> None:
    k = np.arange(101)
    rows = lines(straight(Curve("", k, 0.5**k), log_y=True))[1:15]
    area = [row[row.index("┤" if "┤" in row else "│") + 1 :].ljust(72) for row in rows]
    places = [(column, row) for row, line in enumerate(area) for column, mark in enumerate(line) if mark == "o"]
    # The curve goes from the top to the bottom but for the room that is left; half a character either way is rounding.
    lowest, highest = min(row for _, row in places), max(row for _, row in places)
    last = max(column for column, _ in places)
    for column, row in places:
        exact = (column / last) * 13 / 1.08 + 13 * 0.04 / 1.08
        assert abs(row - exact) <= 0.75
    assert (lowest, highest) == (0, 13)


def test_curves_that_lie_on_each_other_are_both_seen() -> None:
    x = np.arange(50)
    same = straight(Curve("first", x, x), Curve("second", x, x), Curve("bound", x, x, role="bound"))
    area = "".join(lines(same)[1:15])
    assert area.count("o") == pytest.approx(area.count("x"), abs=2)
    assert "-" not in area  # what is there for comparison gives way
    assert lines(same)[-1].strip() == "o first   x second   - bound (behind others)"


def test_no_two_curves_of_a_chart_have_the_same_marker() -> None:
    roles: tuple[Any, ...] = ("measured", "bound", "reference")
    x = np.arange(3)
    curves = [Curve(f"{role}{n}", x, x + n, role=role) for n in range(12) for role in roles]
    markers = curves_of._markers(curves)
    assert len(set(markers)) == 36
    assert markers[:6] == ["o", "-", ".", "x", "=", ":"]
    legend = " ".join(lines(straight(*curves))[18:]).split()
    assert set(markers) <= set(legend)


def test_gaps_zeros_and_infinities_are_left_out() -> None:
    y = np.array([1.0, np.nan, 0.0, -1.0, np.inf, 1.0])
    area = "".join(lines(straight(Curve("", np.arange(6), y), log_y=True))[1:15])
    assert area.count("o") == 2


def test_steps_reach_to_the_next_x() -> None:
    rows = lines(straight(Curve("", np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 0.0]), role="steps")))[1:15]
    flat = [row for row in rows if "oooooooo" in row]
    assert len(flat) == 2  # each value as a level, the last one closes the outline


def test_a_chart_of_nothing() -> None:
    assert lines(straight(Curve("none", np.empty(0), np.empty(0))))[-1].split() == [
        "o",
        "none",
        "(nothing",
        "to",
        "draw)",
    ]


def test_an_image_with_a_character_for_each_size() -> None:
    image = Image(
        "i", "t", "columns", "rows", np.array([[0.0, 8.9], [np.nan, 4.5]]), "size", ("a", "\n"), ("up", "down")
    )
    assert lines(image) == [
        "rows",
        "up   │...@@@",
        "down │   +++",
        "     └──────",
        "      a  ↵",
        "      columns",
        "      0 ..::--==++**##%%@@ 8.9  size",
    ]


def test_images_that_share_a_scale_have_the_same_characters_for_the_same_values() -> None:
    def shown(*values: float) -> str:
        image = Image("i", "t", "c", "r", np.array([values]), "v", log=True, floor=1e-3, limits=(1e-3, 1.0))
        row, scale = lines(image)[1], lines(image)[-1]
        assert scale.strip() == "0.001 ..::--==++**##%%@@ 1  v (log scale)"
        return row.removeprefix("0 │")[::3]

    assert shown(1.0, 0.1, 1e-2, 1e-3, 1e-9, 0.0, np.nan) == "@#=..."
    assert shown(0.1, 0.03, 1e-2, np.inf) == "#+=@"


def test_words_below_columns_widen_them_or_stand_downwards() -> None:
    def foot(words: tuple[str, ...], width: int) -> list[str]:
        image = Image("i", "t", "c", "r", np.zeros((1, len(words))), "v", words, ("row",))
        shown = lines(image, Screen(width=width))
        return [line.removeprefix("     ") for line in shown[3 : shown.index("     c")]]

    assert foot(("yes", "no"), 40) == ["yes no"]
    assert foot(("le", "chat", "noir"), 40) == ["le   chat noir"]
    assert foot(("le", "chat", "noir"), 20) == ["l  c  n", "e  h  o", "   a  i", "   t  r"]
    assert foot(("much longer than this is wide",) * 3, 40) == ["0  1  2"]
    assert foot(("a", "\n"), 40) == ["a  ↵"]


def test_large_images_are_means_of_blocks() -> None:
    values = np.add.outer(np.arange(48.0), np.zeros(300))
    shown = lines(Image("i", "t", "c", "r", values, "v"))
    assert shown[-1].strip() == "each square is the mean of 2 x 4 values (rows x columns)"
    assert characters._means(values, 24, 75)[:, 0].tolist() == [2 * row + 0.5 for row in range(24)]


def test_means_of_signed_values_have_a_scale_of_their_own() -> None:
    """Otherwise one large number of either sign leaves nothing to be seen of the others."""
    values = np.tile([[1.0, 1.0, -0.5, -0.5]], (96, 1))
    values[0] = 100, -99, 0, 0  # of four rows that make a block
    shown = lines(Image("i", "t", "c", "r", values, "v", signed=True))
    assert shown[-2].split()[:1] == ["-25.8"]
    drawn = [line.partition("│")[2].strip() for line in shown if "│" in line]
    assert len(set(drawn[0])) == 3
    one = lines(Image("i", "t", "c", "r", values, "v", signed=True, limits=(-100.0, 100.0)))
    assert one[-2].split()[0] == "-100"


def test_a_mean_is_of_the_values_that_there_are() -> None:
    values = np.array([[np.nan, 2.0], [4.0, np.inf]])
    assert characters._means(values, 1, 1).tolist() == [[3.0]]
    assert np.isnan(characters._means(np.full((2, 2), np.nan), 1, 1)).all()


def test_an_image_of_nothing() -> None:
    assert lines(Image("i", "t", "c", "r", np.empty((0, 3)), "v")) == ["(nothing to draw)"]
    blank = lines(Image("i", "t", "c", "r", np.full((2, 2), np.nan), "v", log=True))
    assert blank[1:3] == ["0 │", "1 │"]


def test_a_text_has_a_digit_below_each_symbol() -> None:
    text = Colouring(
        "c", "t", ("a", "b", "\n", "\t", "漢", "\x1b"), np.array([0, 0.5, 1, np.nan, 0.25, 9]), 0, 1, "size"
    )
    assert lines(text) == ["size: 0 is 0, 9 is 1", "ab↵", "059", "⇥漢·", " 2 9"]
    ascii_lines = lines(text, Screen(encoding="ascii"))
    assert ascii_lines == ["size: 0 is 0, 9 is 1", "ab$", "059", ">?.", " 29"]


def test_a_text_in_colour() -> None:
    screen = Screen(coloured=True)
    text = Colouring("c", "t", tuple("abcd"), np.array([-2.0, 0.0, 2.0, np.nan]), -2, 2, "size")
    head, line = characters.colouring(text, screen)
    assert head.plain == "size: -2 blue ... 0 white ... 2 red"
    styles = [span.style.bgcolor.name for span in line.spans]  # type: ignore[union-attr]
    assert styles == ["#5096f0", "#ffffff", "#f05a46"]
    head, line = characters.colouring(replace(text, low=0, values=np.array([-2.0, 0.0, 2.0, 1.0])), screen)
    assert head.plain == "size: 0 white ... 2 red"
    styles = [span.style.bgcolor.name for span in line.spans]  # type: ignore[union-attr]
    assert styles == ["#ffffff", "#ffffff", "#f05a46", "#f8aca2"]


def test_few_colours_show_no_shades_but_digits_and_characters() -> None:
    screen = Screen(coloured=True, few=True)
    text = Colouring("c", "t", tuple("abcd"), np.array([0.0, 1.0, 2.0, np.nan]), 0, 2, "size")
    head, line, digits = characters.colouring(text, screen)
    assert [head.plain, line.plain, digits.plain] == ["size: 0 is 0, 9 is 2", "abcd", "059"]
    assert not line.spans
    assert [(span.start, span.end, span.style) for span in digits.spans] == [(2, 3, "bold red")]
    _, _, digits = characters.colouring(replace(text, low=-2, values=np.array([-2.0, 0.0, 2.0, np.nan])), screen)
    assert {(span.start, span.end, span.style) for span in digits.spans} == {(0, 1, "bold blue"), (2, 3, "bold red")}
    plain = [line.plain for line in characters.image(matrix(), Screen())]
    shown = characters.image(matrix(), screen)
    assert [line.plain for line in shown] == plain
    assert not any(isinstance(span.style, Style) and span.style.bgcolor for line in shown for span in line.spans)


@pytest.mark.parametrize(("system", "shaded"), [("standard", False), ("256", True), ("truecolor", True)])
def test_sixteen_colours_are_few(system: Any, shaded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=system, width=80)
    monkeypatch.setattr(terminal, "results", lambda: console)
    assert terminal._screen()[1].coloured
    assert terminal._screen()[1].shaded is shaded


def test_a_long_text_is_broken_at_the_edge() -> None:
    rows = lines(coloured())
    assert max(map(characters.cell_len, rows)) == 80
    assert sum(row.count("x") for row in rows[1::2]) == 104


def test_an_image_knows_symbols_that_are_two_columns_wide() -> None:
    rows = lines(matrix())
    bars = {characters.cell_len(row.split("│")[0]) for row in rows if "│" in row}
    assert len(bars) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (float("inf"), "inf"),
        (0.0, "0"),
        (0.000123456, "1.23e-4"),
        (1e-7, "1e-7"),
        (0.12345, "0.123"),
        (12.345, "12.3"),
        (999.7, "1,000"),
        (12345.6, "12,346"),
        (1.5e9, "1.5e9"),
        (1234567, "1,234,567"),
        (-2.5, "-2.5"),
        ("gru\n", "gru↵"),
    ],
)
def test_numbers(value: float | int | str | None, text: str) -> None:
    assert words.number(value) == text


def test_quantities_have_their_units_where_they_have_a_value() -> None:
    assert words.shown(Quantity("a", "a", 3.0, "steps")) == "3 steps"
    assert words.shown(Quantity("a", "a", None, "steps", missing="never")) == "never"
    assert words.shown(Quantity("a", "a", "word", "steps")) == "word"


def test_a_share_is_a_percentage() -> None:
    assert words.shown(Quantity("a", "a", 0.0917, "share of the time")) == "9.17 % of the time"
    assert words.shown(Quantity("a", "a", None, "share of the time", missing="no relu")) == "no relu"


@given(st.floats(-1e30, 1e30), st.floats(1e-6, 1e30), st.integers(2, 9))
def test_ticks_of_a_linear_axis_are_round_and_inside(low: float, length: float, most: int) -> None:
    high = low + length
    if high - low < 1e-9 * max(abs(low), abs(high)):
        return  # too few floats lie between them
    axis = scales.Axis(low, high)
    ticks = scales.ticks(axis, most)
    slack = 1e-6 * (high - low)
    assert len(ticks) <= most
    assert all(low - slack <= tick <= high + slack for tick in ticks)


@given(st.floats(-40, 38), st.floats(0.01, 70), st.integers(2, 9))
def test_ticks_of_a_logarithmic_axis_are_inside(exponent: float, decades: float, most: int) -> None:
    axis = scales.Axis(10.0**exponent, 10.0 ** (exponent + decades), log=True)
    ticks = scales.ticks(axis, most)
    assert 1 <= len(ticks) <= most
    assert all(axis.low * (1 - 1e-6) <= tick <= axis.high * (1 + 1e-6) for tick in ticks)


def test_what_verdicts_average_stands_under_them() -> None:
    shown = drawn([replace(PAGE, averaged="All directions: of everything.")])
    assert "one: It holds. Try more.\nAll directions: of everything.\nNote: one: less text.\n" in shown


def test_a_logarithmic_axis_looks_like_one() -> None:
    axis = scales.Axis(3.0, 400.0, log=True)
    assert scales.ticks(axis, 8) == [5, 10, 20, 50, 100, 200]
    assert scales.ticks(axis, 5) == [10, 100]
    assert scales.ticks(scales.Axis(2e-9, 3e5, log=True), 6) == pytest.approx([1e-9 * 10**k for k in range(3, 15, 3)])
    assert scales.minor_ticks(axis) == [*range(3, 10), *range(10, 100, 10), 100, 200, 300, 400]
    assert scales.minor_ticks(scales.Axis(1.0, 1e9, log=True)) == scales.minor_ticks(scales.Axis(1.0, 9.0)) == []
    x = np.array([10.0, 100.0])
    shown = lines(straight(Curve("", x, x), log_x=True))
    foot, ruler = shown[-3], shown[-2]
    corner = foot.index("└") + 1
    columns = len(foot) - corner
    ticks = [index - corner for index, character in enumerate(foot) if character == "┬"]
    assert ticks == [round(float(np.log10(k)) * (columns - 1)) for k in range(1, 11)]
    assert ruler.split() == ["10", "20", "50", "100"]
    assert "┬" not in "".join(lines(straight(Curve("", x, x))))
    assert "+" in lines(straight(Curve("", x, x), log_x=True), Screen(encoding="ascii"))[-3].strip()[1:]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-9, "10⁻⁹"),
        (2e-4, "2×10⁻⁴"),
        (0.001, "0.001"),
        (0.05, "0.05"),
        (5000.0, "5000"),
        (1e4, "10⁴"),
        (2e6, "2×10⁶"),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_short(value: float, text: str) -> None:
    assert words.logarithmic(value) == text


@given(
    st.lists(st.floats(width=32) | st.sampled_from([0.0, -1.0, np.nan, np.inf]), max_size=12),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["measured", "thin", "bound", "reference", "points", "mark", "steps"]),
    st.booleans(),
)
def test_no_curve_breaks_the_chart(values: list[float], log_x: bool, log_y: bool, role: Any, coloured: bool) -> None:
    curve = Curve("a", np.arange(len(values)), np.array(values, np.float64), role=role)
    shown = lines(straight(curve, log_x=log_x, log_y=log_y), Screen(coloured=coloured))
    assert len(shown) == characters.CHART_ROWS + 5
    assert max(map(len, shown)) <= 80


def test_the_real_terminal_is_what_rich_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "COLUMNS": "200"})
    terminal.draw([PAGE])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize("columns", [1, 40, 53, 60, 79, 80, 120])
@pytest.mark.parametrize("coloured", [False, True])
def test_every_line_fits_and_none_is_cut_off(columns: int, coloured: bool) -> None:
    width = max(columns, terminal.NARROWEST)
    whole = drawn(
        [flow(), awkward()], width=columns, force_terminal=True, color_system="truecolor" if coloured else None
    )
    rows = ESCAPE.sub("", whole).splitlines()
    assert max(map(cell_len, rows)) <= width
    words = " ".join(" ".join(rows).split())
    for said in (
        "How far back in time does the gradient reach?",
        "each square is the mean of 1.5 x",
        "|dL_t/dh_k| (log scale)",
        "Try --cell gru, or recurrent_scale 1.2.",
    ):
        assert said in words


RUNS = Table(
    "runs",
    "The runs",
    ("run", "seed", "bits per character", "steps"),
    (("rnn-moi-s809684", 809684, 3.719, 1200), ("gru", 7, None, 200)),
    names=(1,),
)


def table_of(width: int) -> str:
    page = Page("k", "t", "q", ("one",), {}, (RUNS,))
    lines = drawn([page], width=width).partition("The runs\n")[2].splitlines()
    return "\n".join(line.rstrip() for line in lines)


def test_columns_that_do_not_fit_are_wrapped_between_words_or_have_a_paragraph_per_row() -> None:
    assert (
        table_of(42)
        == f"""\
                           bits per
run                seed   character  steps
{"─" * 42}
rnn-moi-s809684  809684       3.719  1,200
gru                   7           -    200"""
    )
    assert (
        table_of(40)
        == """\
rnn-moi-s809684
  seed 809684  bits per character 3.719
  steps 1,200
gru
  seed 7  bits per character -
  steps 200"""
    )


@pytest.mark.parametrize(
    ("cell", "parts"),
    [
        ("' ' 88 %   , 4 %   s 3 %   o 2 %", ["' ' 88 %", ", 4 %", "s 3 %", "o 2 %"]),
        ("about 88 % or 4 % or about 3 % of all", ["88 %", "4 %", "3 %"]),
    ],
)
def test_parts_of_a_cell_are_not_broken(cell: str, parts: list[str]) -> None:
    for width in range(40, 52):
        page = Page("k", "t", "q", ("one",), {}, (Table("s", "Shares", ("character", "expected"), (("r", cell),)),))
        shown = drawn([page], width=width).partition("Shares\n")[2]
        assert [part for part in parts if part not in shown] == [], shown


@pytest.mark.parametrize("letters", range(6, 16))
def test_no_word_of_a_paragraph_is_broken(letters: int) -> None:
    said = f"{'w' * letters} two three four five six"
    rows = Table("t", "Said", ("who", "number of the run", "what"), (("a-name-without-a-blank-in-it", 123456, said),))
    shown = drawn([Page("k", "t", "q", ("one",), {}, (rows,))], width=40).partition("Said\n")[2]
    assert set(said.split()) <= set(shown.split()), shown


@pytest.mark.parametrize("columns", [1, *range(20, 90, 5)])
def test_no_word_of_a_table_is_broken(columns: int) -> None:
    words = set(table_of(columns).split())
    assert {"rnn-moi-s809684", "809684", "character", "1,200", "3.719"} <= words


def test_bars_of_what_is_no_share() -> None:
    values = (0.5, None, np.nan, 2.0, -1.0, np.inf)
    table = Table("t", "t", ("n", "share"), tuple(("a", value) for value in values), bars=1)
    assert words.bars_of(table) == [0.5, 0, 0, 1, 0, 1]
    page = Page("k", "t", "q", ("one",), {}, (table,))
    assert [line.count("█") for line in drawn([page], width=60).splitlines()[-6:]] == [20, 0, 0, 40, 0, 40]


@pytest.mark.parametrize("columns", [1, 20, 39])
def test_a_page_on_a_narrower_terminal_is_that_of_the_narrowest(columns: int) -> None:
    table = Table("t", "t", ("distance", "brackets", "right"), (("512 to 1,023", 1027, 0.5),), bars=2)
    page = Page("k", "t", "q", ("one",), {"one": (Quantity("opened", "brackets opened", 5720),)}, (table,))
    assert drawn([page], width=columns) == drawn([page], width=terminal.NARROWEST)

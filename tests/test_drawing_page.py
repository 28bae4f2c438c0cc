"""The HTML page of reports: what is in it, and what a browser shows of it."""

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import DESKTOP, PHONE, SMALL_PHONE, browser, check_page
from synthetic_pages import AWKWARD, awkward, coloured, decay, flow, matrix, table

pytest.importorskip("matplotlib")

from rnn_lab.drawing import page
from rnn_lab.drawing.words import number
from rnn_lab.printable import visible
from rnn_plugins.reports.report import Chart, Colouring, Curve, Figure, Image, Page, Quantity, Table

VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}


class Reader(HTMLParser):
    """Elements with their text; and whether what is opened is closed again in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title", "script"):
            self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1][-1] += data


def read(*figures: Figure, **options: Any) -> Reader:
    return Reader(page.html([Page("k", "t", "q", ("a",), figures=figures, **options)], "heading", []))


@pytest.fixture(scope="module")
def whole() -> str:
    return page.html([flow(), awkward()], f"Four cells {AWKWARD}", ["128 units, seed 0", AWKWARD])


@pytest.fixture(scope="module")
def parsed(whole: str) -> Reader:
    return Reader(whole)


def test_everything_is_said(parsed: Reader) -> None:
    words = " ".join(" ".join(parsed.words).split())
    for part in (
        "128 units, seed 0",
        "How far back in time does the gradient reach?",
        "Steps in which the norm halves.",
        "For each lag k, the norm of the gradient of the loss at t with respect to the state at t - k.",
        "Rows are positions of the loss, columns those of the state.",
        "A row a parameter.",
        "half-life 6 steps",
        "Note: lstm: only 800 positions, for the text ends there.",
        "its state is no number, so that no gradient reaches it; leave it out",
    ):
        assert part in words


def test_the_page_needs_nothing_else(whole: str, parsed: Reader) -> None:
    tags = [tag for tag, _ in parsed.elements]
    assert not set(tags) & {"iframe", "object", "embed", "base", "form"}
    assert [a.get("type") for tag, a in parsed.elements if tag == "script" and a.get("type") != "application/json"] == [
        None
    ]
    (allowed,) = (a["content"] for _, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert allowed is not None
    assert allowed.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha")
    for tag, attributes in parsed.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
    assert "@import" not in whole
    assert not re.findall(r"url\((?!#)", whole)


def test_nothing_is_markup_but_ours(whole: str, parsed: Reader) -> None:
    assert not [tag for tag, _ in parsed.elements if tag == "b"]
    assert not set(whole) & set("\x00\x1b\u202e\r")
    shown = visible(AWKWARD)
    assert any(shown in word for word in parsed.words)


def test_the_contents_lead_to_the_sections(parsed: Reader) -> None:
    elements = parsed.elements
    targets = [a["href"] for tag, a in elements if tag == "a"]
    sections = [a["id"] for tag, a in elements if tag == "section"]
    assert targets == [f"#{section}" for section in sections] == ["#report-1", "#report-2"]
    assert not [tag for tag, _ in read(decay()).elements if tag == "a"]


def test_quantities_have_subjects_as_columns(parsed: Reader) -> None:
    rows = parsed.cells
    assert ["", "rnn", "irnn", "lstm", "gru"] in rows
    assert ["half-life", "1.357 steps", "-", "22.8 steps", "9.55 steps"] in rows
    assert ["lag at 1 %", "9 steps", "not within 100", "150 steps", "63 steps"] in rows


def test_a_lone_subject_has_no_column_head() -> None:
    rows = read(quantities={"a": (Quantity("n", "steps", 5),)}).cells
    assert rows == [["steps", "5"]]


def test_a_reason_why_there_is_nothing_names_its_subject() -> None:
    assert read(failed={"a": "its step cannot be traced"}, verdict={"a": ("It holds.",)}).words.count("a") == 1


def test_a_missing_quantity_has_a_dash() -> None:
    both = Page("k", "t", "q", ("a", "b"), {"a": (Quantity("n", "steps", 5),), "b": ()})
    assert Reader(page.html([both], "h", [])).cells == [["", "a", "b"], ["steps", "5", "-"]]


def test_every_point_of_a_chart_is_in_a_table() -> None:
    x = np.array([0.0, 1.0])
    chart = Chart(
        "c",
        "t",
        "lag",
        "norm",
        (
            Curve("first", x, np.array([0.25, np.nan]), np.array([0.125, 0.5]), np.array([1.0, 2.0])),
            Curve("other", x, np.array([7.0, 8.0])),
            Curve("alone", np.array([3.5]), np.array([np.inf])),
        ),
    )
    assert read(chart).cells == [
        ["lag", "first", "from", "to", "other"],
        ["0", "0.25", "0.125", "1", "7"],
        ["1", "-", "0.5", "2", "8"],
        ["lag", "alone"],
        ["3.5", "inf"],
    ]


def test_every_value_of_an_image_is_in_a_table() -> None:
    values = np.array([[0.1, np.nan], [3.0, 4e-9]])
    image = Image("i", "t", "x", "y", values, "v", ("a", "\n"), ("<", "漢"))
    assert read(image).cells == [["", "a", "↵"], ["<", "0.1", "-"], ["漢", "3", "4e-9"]]
    assert read(replace(image, x_ticks=(), y_ticks=())).cells[:2] == [["", "0", "1"], ["0", "0.1", "-"]]


def test_a_table_is_a_table() -> None:
    rows = read(table()).cells
    assert rows == [[visible(word) for word in table().heads]] + [
        [number(value) for value in row] for row in table().rows
    ]


def test_an_integer_that_names_something_is_written_as_it_is_typed() -> None:
    seeds = Table("seeds", "t", ("seed", "steps"), ((809684, 12000),), names=(0,))
    assert read(seeds).cells[1] == ["809684", "12,000"]


def test_a_coloured_text_has_a_span_for_neighbours_of_one_colour() -> None:
    values = np.array([-1.0, -1.0, 0.0, 0.99, 1.0, np.nan, 5.0])
    figure = Colouring("c", "t", ("a", "<", "c", "\n", "e", "f", "\t"), values, -1.0, 1.0, "size")
    text = page.html([Page("k", "t", "q", ("a",), figures=(figure,))], "h", [])
    (inside,) = re.findall(r"<pre>(.*?)</pre>", text, flags=re.DOTALL)
    assert inside == (
        '<span class="b12" title="size: -1">a&lt;</span>'
        '<span class="" title="size: 0">c</span>'
        '<span class="r12" title="size: 0.99 to 1">↵\ne</span>'
        "f"
        '<span class="r12" title="size: 5">⇥</span>'
    )
    one_sided = page.html([Page("k", "t", "q", ("a",), figures=(replace(figure, low=0.0),))], "h", [])
    assert "b12" not in re.findall(r"<pre>(.*?)</pre>", one_sided, flags=re.DOTALL)[0]


def contrast(one: str, other: str) -> float:
    """The ratio of relative luminances (WCAG 2.1)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_colours_can_be_told_from_the_paper(mode: int) -> None:
    colours = {name: pair[mode] for name, pair in page.COLOURS.items()}
    for paper in ("paper", "card"):
        assert contrast(colours["ink"], colours[paper]) > 12
        assert contrast(colours["quiet"], colours[paper]) > 4.5
        assert contrast(colours["accent"], colours[paper]) > 4.5
    for name, colour in colours.items():
        if name.startswith("series"):
            assert contrast(colour, colours["paper"]) > 3, name
    for name in ("red", "blue"):  # at its fullest, a symbol on it is still to be read
        full = [int(part) for part in colours[name].split()]
        paper = [int(colours["card"][i : i + 2], 16) for i in (1, 3, 5)]
        mixed = "#" + "".join(f"{round(0.65 * f + 0.35 * p):02x}" for f, p in zip(full, paper, strict=True))
        assert contrast(colours["ink"], mixed) > 4.5


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.mark.parametrize(
    ("size", "dark"),
    [(DESKTOP, False), (DESKTOP, True), (PHONE, False), (PHONE, True), (SMALL_PHONE, False)],
    ids=["desktop, light", "desktop, dark", "phone, light", "phone, dark", "small phone"],
)
def test_a_browser_shows_all_of_it(driver: Any, tmp_path: Path, whole: str, size: tuple[int, int], dark: bool) -> None:
    path = tmp_path / "page.html"
    path.write_text(whole, encoding="utf-8")
    keys = [figure.key for figure in (*flow().figures, *awkward().figures)]
    found = check_page(driver, path, keys, size, dark, screenshot=tmp_path / "page.png")
    assert len(found[0]["curves"]) == 8
    assert (tmp_path / "page.png").stat().st_size > 10_000
    # Two figures stand side by side where there is room.
    assert (found[0]["top"] == found[1]["top"]) == (size == DESKTOP)


def test_the_look_at_a_page_sees_what_is_wrong(driver: Any, tmp_path: Path) -> None:
    whole = page.html([Page("k", "t", "q", ("a",), figures=(decay(),))], "h", [])
    wrong = {
        "is 2096 pixels wide in a window of 1280": whole.replace(
            "<main>", '<main><div style="width:1984px">wide</div>'
        ),
        "the same id": whole.replace("<main>", '<main id="report-1">'),
        "asks for .*nowhere.png": whole.replace("<main>", '<main><img alt="" src="file:///nowhere.png">'),
        "decay": re.sub(r'<g id="report-1-figure-1-curve-0".*?</g>\s*</g>', EMPTY_CURVE, whole, flags=re.DOTALL),
        "the page is blank": re.sub(r"<body>.*</body>", "<body></body>", whole, flags=re.DOTALL),
    }
    for message, text in wrong.items():
        assert text != whole
        path = tmp_path / "wrong.html"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(AssertionError, match=message):
            check_page(driver, path)


def test_a_wide_table_can_be_read_on_a_phone(driver: Any, tmp_path: Path) -> None:
    labels = ("lstm:forget_bias=3.25", "gru:reset=before", "rnn:recurrent_scale=1.5", "irnn", "a", "b", "c")
    words = "how far back the gradient reaches"
    quantities = {label: (Quantity("far", words, 12.5, "steps"),) for label in labels}
    path = tmp_path / "wide.html"
    path.write_text(page.html([Page("k", "t", "q", labels, quantities)], "h", []), encoding="utf-8")
    check_page(driver, path, [], PHONE)
    seen = driver.execute_script(
        """const box = document.querySelector(".box"), cell = box.querySelector("td"), style = getComputedStyle(box);
        const line = parseFloat(getComputedStyle(cell).lineHeight);
        return [box.scrollWidth > box.clientWidth, cell.clientHeight / line,
            style.backgroundImage.split("linear").length]
        """
    )
    assert seen[0]  # it scrolls,
    assert seen[1] < 4.5  # its label of six words has not a line for each,
    assert seen[2] == 5  # and the shadow of its edges says so
    assert "recurrent_<wbr>scale=<wbr>1.5" in path.read_text(encoding="utf-8")


def test_no_number_and_no_scale_is_broken_on_a_phone(driver: Any, tmp_path: Path) -> None:
    heads = ("parameter", "size", "smallest", "mean", "largest", "standard deviation")
    rows = tuple((f"cell.candidate.{name}", "384 x 256", -0.372, -9.26e-4, 0.363, 0.1) for name in "Wb")
    text = Colouring("c", "h.2", ("a", "b"), np.array([-1.0, 1.0]), -0.999, 0.955, "h.2 after each symbol of the text")
    path = tmp_path / "narrow.html"
    path.write_text(page.html([Page("k", "t", "q", ("a",), figures=(Table("t", "t", heads, rows), text))], "h", []))
    check_page(driver, path, None, PHONE)
    lines = driver.execute_script(
        """const lines = cell => {
            const range = document.createRange();
            range.selectNodeContents(cell);
            return new Set([...range.getClientRects()].map(box => Math.round(box.top))).size;
        };
        return [...document.querySelectorAll("figure.table td")].map(lines)"""
    )
    assert lines[3] == lines[9] == 1
    tops = driver.execute_script("return [...document.querySelectorAll('.ends > *')].map(e => e.offsetTop)")
    assert len(tops) == 3
    assert max(tops) - min(tops) < 10


EMPTY_CURVE = '<g class="curve" data-role="measured" data-points="101"></g>'


def test_charts_and_texts_stand_alone(driver: Any, tmp_path: Path) -> None:
    for figure in (decay(), matrix(), coloured()):
        path = tmp_path / "one.html"
        path.write_text(page.html([Page("k", "t", "q", ("a",), figures=(figure,))], "h", []), encoding="utf-8")
        check_page(driver, path, [figure.key], PHONE)


def test_what_verdicts_average_stands_under_them() -> None:
    words = "All directions: see --kind spectrum."
    text = page.html([replace(flow(), averaged=words)], "h", ())
    verdicts, _, rest = text.partition(
        '<p class="note">All directions: see <span class="option">--kind</span> spectrum'
    )
    assert "recurrent_scale 1.2" in verdicts
    assert "Note: lstm: only 800 positions" in rest

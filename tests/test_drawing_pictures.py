"""Charts and images as SVG elements and as files."""

import base64
import builtins
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_pages import AWKWARD, LAGS, awkward, awkward_chart, coloured, decay, flow, histogram, matrix, table

pytest.importorskip("matplotlib")

from matplotlib.image import imread

from rnn_lab.drawing import pictures, scales
from rnn_plugins.errors import UserError
from rnn_plugins.reports.report import Chart, Curve, Image, Page, colour_limits

SVG = "{http://www.w3.org/2000/svg}"
FIGURES = [
    decay(),
    histogram(),
    awkward_chart(),
    awkward_chart(log_x=True, log_y=False),
    matrix(),
    matrix(3, 90, log=False),
]


def element(figure: Chart | Image, identifier: str = "f") -> ElementTree.Element:
    """Parsed as a document: the namespace that a page gives it is put in."""
    text = pictures.svg(figure, identifier)
    assert text.startswith("<svg ")
    return ElementTree.fromstring(text.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def texts(root: ElementTree.Element) -> list[str]:
    return ["".join(node.itertext()).strip() for node in root.iter(f"{SVG}text")]


def group(root: ElementTree.Element, identifier: str) -> ElementTree.Element:
    (found,) = [node for node in root.iter(f"{SVG}g") if node.get("id") == identifier]
    return found


def points(root: ElementTree.Element, identifier: str) -> np.ndarray[Any, Any]:
    """The corners of a curve's line, in the picture's pixels."""
    (path,) = [node for node in group(root, identifier) if node.tag == f"{SVG}path"]
    numbers = re.findall(r"[ML] (\S+) (\S+)", path.get("d") or "")
    return np.array(numbers, dtype=np.float64)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.key)
def test_an_element_stands_in_a_page_by_itself(figure: Chart | Image) -> None:
    text = pictures.svg(figure, "one")
    root = element(figure, "one")
    assert root.get("role") == "img"
    assert root.get("aria-label", "").startswith(figure.title[:8])
    identifiers = [node.get("id") for node in root.iter() if node.get("id")]
    assert len(identifiers) == len(set(identifiers))
    assert all(identifier.startswith("one-") for identifier in identifiers if identifier)
    references = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
    assert set(references) <= set(identifiers)
    assert "<style" not in text
    assert "<?xml" not in text
    assert "<!DOCTYPE" not in text
    assert "http" not in re.sub(r'xmlns:xlink="[^"]*"', "", text)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.key)
def test_all_colours_are_the_pages(figure: Chart | Image) -> None:
    text = re.sub(r"base64,[^\"]*", "", pictures.svg(figure, "f"))
    assert not re.findall(r"#[0-9a-f]{6}\b", text)
    assert "var(--ink)" in text


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.key)
def test_the_same_figure_is_the_same_text(figure: Chart | Image) -> None:
    assert pictures.svg(figure, "f") == pictures.svg(figure, "f")


def test_text_is_text() -> None:
    words = texts(element(decay()))
    assert {"lag k in steps", "mean |dL_t/dh_{t-k}|", "rnn, mean", "gru, bound"} <= set(words)
    assert "10⁻⁸" in words
    assert {"$x^2$", "[bold]x[/bold]", "&amp;\"'"} <= {
        word
        for text in texts(element(awkward_chart()))
        for word in re.findall(r"\$x\^2\$|\[bold\]x\[/bold\]|&amp;\"'", text)
    }


def test_every_curve_has_its_group_with_the_number_of_its_points() -> None:
    root = element(awkward_chart())
    curves = {node.get("id"): node for node in root.iter(f"{SVG}g") if node.get("class") == "curve"}
    assert sorted(curves) == [f"f-curve-{n}" for n in range(7)]
    found = [(curves[f"f-curve-{n}"].get("data-role"), curves[f"f-curve-{n}"].get("data-points")) for n in range(7)]
    assert found == [
        ("measured", "4"),  # of eight: NaN, zero, infinity and -1 have no place on a logarithmic axis
        ("measured", "0"),
        ("measured", "0"),
        ("measured", "1"),
        ("reference", "8"),
        ("points", "8"),
        ("steps", "8"),
    ]


def test_a_geometric_decay_is_a_straight_line() -> None:
    root = element(Chart("c", "t", "x", "y", (Curve("", LAGS, 0.8**LAGS),), log_y=True))
    x, y = points(root, "f-curve-0").T
    slope = (y[-1] - y[0]) / (x[-1] - x[0])
    assert y == pytest.approx(y[0] + slope * (x - x[0]), abs=0.01)


def test_gaps_divide_a_line_and_lone_points_have_marks() -> None:
    y = np.array([1.0, 2.0, np.nan, 3.0, np.nan, 4.0, 5.0])
    root = element(Chart("c", "t", "x", "y", (Curve("", np.arange(7), y),)))
    (path,) = [node for node in group(root, "f-curve-0") if node.tag == f"{SVG}path"]
    assert (path.get("d") or "").count("M") == 3
    assert len(list(group(root, "f-curve-0").iter(f"{SVG}use"))) == 1


def test_bounds_are_dashed_and_references_dotted_and_curves_of_one_colour_differ() -> None:
    def styles(role: str) -> set[str]:
        return {
            re.sub(r"var\(--series-\d\)", "", path.get("style") or "")
            for node in element(chart).iter(f"{SVG}g")
            if node.get("data-role") == role
            for path in node
            if path.tag == f"{SVG}path"
        }

    x = np.arange(5)
    chart = Chart(
        "c",
        "t",
        "x",
        "y",
        (
            Curve("a, h", x, x, style=0),
            Curve("a, c", x, x + 1, style=0),
            Curve("bound", x, x + 2, role="bound", style=0),
            Curve("reference", x, x + 3, role="reference", style=0),
        ),
    )
    measured = styles("measured")
    assert len(measured) == 2
    assert sum("dasharray" in style for style in measured) == 1
    assert all("dasharray" in style for style in styles("bound") | styles("reference"))
    assert len(measured | styles("bound") | styles("reference")) == 4


def test_subjects_keep_their_colours() -> None:
    text = pictures.svg(decay(), "f")
    for place in range(8):
        colour = f"var(--series-{place // 2 + 1})"
        start = text.index(f'id="f-curve-{place}"')
        assert re.search(r"stroke: (var\(--series-\d\))", text[start:]).group(1) == colour  # type: ignore[union-attr]


def test_a_band_is_drawn_between_its_edges() -> None:
    x = np.arange(3)
    root = element(Chart("c", "t", "x", "y", (Curve("", x, x + 2.0, x + 1.0, x + 4.0),), y_limits=(0.0, 8.0)))
    plot = group(root, "f-plot")
    (path,) = list(plot)
    box = np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d") or ""), dtype=np.float64)
    bottom, top = box[:, 1].max(), box[:, 1].min()
    (band,) = [node for node in root.iter(f"{SVG}g") if node.get("id") == "f-band-0"]
    drawn = next(node for node in band.iter(f"{SVG}path"))
    corners = np.array(re.findall(r"[ML] (\S+) (\S+)", drawn.get("d") or ""), dtype=np.float64)
    heights = (bottom - corners[:, 1]) / (bottom - top) * 8
    if (use := next(band.iter(f"{SVG}use"), None)) is not None:  # the path is kept apart from its place
        heights = (bottom - corners[:, 1] - float(use.get("y", "0"))) / (bottom - top) * 8
    assert heights.min() == pytest.approx(1.0, abs=0.01)
    assert heights.max() == pytest.approx(6.0, abs=0.01)


def drawn_pixels(image: Image) -> Any:
    """The colours of an image's values, as the page has them."""
    root = element(image)
    (node,) = [node for node in root.iter(f"{SVG}image") if node.get("class") == "pixels"]
    data = node.get("{http://www.w3.org/1999/xlink}href", "").removeprefix("data:image/png;base64,")
    return imread(BytesIO(base64.b64decode(data)), format="png")


def test_an_images_pixels_are_its_values() -> None:
    values = np.array([[0.0, 1.0, np.nan], [0.5, 0.25, 1.0]])
    pixels = drawn_pixels(Image("i", "t", "x", "y", values, "v"))
    assert pixels.shape == (2, 3, 4)
    assert pixels[0, 2, 3] == 0  # no value, no colour
    assert pixels[0, 0, :3] == pytest.approx([0.267, 0.005, 0.329], abs=0.01)  # viridis from its darkest
    assert pixels[0, 1, :3] == pytest.approx([0.993, 0.906, 0.144], abs=0.01)  # to its lightest
    assert pixels[1, 2, :3] == pytest.approx(pixels[0, 1, :3])


def test_a_value_has_the_same_colour_in_every_image_that_shares_a_scale() -> None:
    forgets, holds = np.array([[np.nan, 1.0, 1e-2, 1e-9, 0.0]]), np.array([[0.5, 1e-2, 0.1, np.inf, 1.0]])
    images = [Image("i", "t", "x", "y", values, "v", log=True, floor=1e-3) for values in (forgets, holds)]
    limits = colour_limits(images)
    assert limits == (1e-3, 1.0)
    one, other = (drawn_pixels(replace(image, limits=limits))[0] for image in images)
    assert one[0, 3] == 0
    darkest, lightest = [0.267, 0.005, 0.329], [0.993, 0.906, 0.144]
    assert one[1:, :3] == pytest.approx(np.array([lightest, one[2, :3], darkest, darkest]), abs=0.01)
    assert other[[1, 3, 4], :3] == pytest.approx(np.array([one[2, :3], lightest, lightest]), abs=0.01)
    assert np.diff(other[[1, 2, 0, 4], :3].sum(-1)).min() > 0.05


def test_words_stand_at_the_rows_and_columns_of_an_image() -> None:
    image = Image("i", "t", "x", "y", np.ones((2, 2)), "v", ("$a$", "\n"), ("<b>", "漢"))
    assert {"$a$", "↵", "<b>", "漢"} <= set(texts(element(image)))


@given(
    st.lists(st.floats(width=32) | st.sampled_from([0.0, -1.0, np.nan, np.inf]), max_size=6),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["measured", "thin", "bound", "reference", "points", "mark", "steps"]),
)
@settings(max_examples=15)
def test_no_curve_breaks_the_picture(values: list[float], log_x: bool, log_y: bool, role: Any) -> None:
    y = np.array(values, np.float64)
    x = np.arange(len(values))
    root = element(Chart("c", "t", "x", "y", (Curve("a", x, y, y, y, role=role),), log_x, log_y))
    seen = np.isfinite(y) & (y > 0 if log_y else True) & (x > 0 if log_x else True)
    assert group(root, "f-curve-0").get("data-points") == str(int(seen.sum()))


def test_a_curve_that_its_limits_hide_says_so() -> None:
    chart = Chart(
        "c", "t", "x", "y", (Curve("", np.arange(4), np.array([1.0, 2.0, 30.0, 40.0])),), y_limits=(0.0, 10.0)
    )
    assert group(element(chart), "f-curve-0").get("data-points") == "2"


def test_the_range_of_an_axis() -> None:
    chart = Chart("c", "t", "x", "y", (Curve("", np.array([2.0, 7.0]), np.array([0.0, 50.0])),))
    x_axis, y_axis = scales.axes(chart, scales.drawable(chart))
    assert (x_axis, y_axis) == (scales.Axis(2.0, 7.0), scales.Axis(-2.0, 52.0))
    log = replace(chart, log_y=True)
    assert scales.axes(log, scales.drawable(log))[1] == scales.Axis(50 / 3, 150.0, log=True)
    limited = replace(chart, y_limits=(1.0, 9.0))
    assert scales.axes(limited, scales.drawable(limited))[1] == scales.Axis(1.0, 9.0)


def test_a_curve_that_falls_to_nothing_does_not_squeeze_the_others() -> None:
    x = np.arange(101.0)
    fast, slow, reference = (Curve("", x, y) for y in (2.0 * 0.5**x, 0.9**x, np.full(101, 1.0)))

    def low(*curves: Curve) -> float:
        chart = Chart("c", "t", "x", "y", curves, log_y=True)
        return scales.axes(chart, scales.drawable(chart))[1].low

    assert low(fast, slow) == 2e-12
    assert low(fast, replace(fast, y=fast.y / 3)) < 1e-30  # where all fall so far there is nothing to be squeezed
    assert low(fast, replace(reference, role="reference")) < 1e-30
    assert low(slow) > 1e-5
    assert low(slow, replace(fast, y=1 / fast.y)) < 1e-4  # one that explodes does not drive the others out
    chart = Chart("c", "t", "x", "y", (slow, replace(fast, role="points")), log_y=True)
    root = element(chart)
    (points_group,) = [node for node in root.iter(f"{SVG}g") if node.get("id") == "f-curve-1"]
    seen = int((fast.y >= 2e-12).sum())
    assert points_group.get("data-points") == str(seen)
    assert len(list(points_group.iter(f"{SVG}use"))) == seen


@pytest.mark.parametrize("format", ["png", "svg"])
def test_all_pages_in_one_file(tmp_path: Path, format: Any) -> None:
    file = tmp_path / "all.picture"
    file.write_bytes(pictures.picture([flow(), awkward()], format))
    if format == "svg":
        root = ElementTree.fromstring(file.read_text(encoding="utf-8"))
        words = texts(root)
        assert "Gradient flow: Gradient by time lag" in words
        assert sum(word == "lag k in steps" for word in words) == 1
        assert len(list(root.iter(f"{SVG}image"))) >= 2
    else:
        picture = imread(file, format="png")
        assert picture.shape[0] > 1000
        assert picture.shape[1] == 2 * 2 * (pictures.WIDTH + 20)
        assert picture[0, 0, :3] == pytest.approx(1.0)
        assert picture[:, :, :3].std() > 0.05


@pytest.mark.parametrize("format", ["png", "svg"])
def test_the_same_page_is_the_same_file(format: Any) -> None:
    page = Page("k", "The page", "q", ("a",), figures=(histogram(),))
    content = pictures.picture([page], format)
    assert content == pictures.picture([page], format)
    if format == "svg":
        words = texts(ElementTree.fromstring(content.decode()))
        assert "Singular values" in words  # without the page's title, which a lone page's figures do not need


def test_a_picture_of_nothing_is_refused() -> None:
    page = Page("k", "t", "q", ("a",), figures=(table(), coloured()))
    with pytest.raises(UserError) as error:
        pictures.picture([page], "png")
    assert (
        str(error.value)
        == "--png has nothing to draw: there is no chart, no image and no picture; use --html or --json"
    )


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    for option, draw in {
        "--html": lambda: pictures.svg(decay(), "f"),
        "--png": lambda: pictures.picture([flow()], "png"),
        "--svg": lambda: pictures.picture([flow()], "svg"),
    }.items():
        with pytest.raises(UserError) as error:
            draw()
        assert str(error.value) == f"{option} needs the library matplotlib: pip install 'rnn-lab[plot]'"


def test_settings_of_others_neither_matter_nor_change() -> None:
    import matplotlib

    before = pictures.svg(decay(), "f")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        kept = dict(matplotlib.rcParams)
        assert pictures.svg(decay(), "f") == before
        assert dict(matplotlib.rcParams) == kept


def test_no_symbol_is_lost_from_a_label() -> None:
    whole = "".join(texts(element(awkward_chart())))
    for part in re.findall(r"\S+", "a <b>&amp; 漢字 $x^2$"):
        assert part in whole
    assert "\x1b" in AWKWARD
    assert "\x1b" not in whole

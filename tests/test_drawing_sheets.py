"""Pictures as figures: in a terminal, on a page, as PNG and GIF files, with frames where they belong."""

import base64
import io
import re
import sys

import numpy as np
import pytest
from browser import DESKTOP, PHONE, browser
from PIL import Image as Pillow
from rich.text import Text

from rnn_cli.drawing import blocks, characters, terminal
from rnn_lab.drawing import page, sheets
from rnn_lab.drawing.sheets import FRAMES, MOST
from rnn_plugins.errors import UserError
from rnn_plugins.reports.report import Frame, Page, Panel, Picture, plain

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 5), dtype=np.uint8)
COLOURS = RNG.integers(0, 256, (7, 4, 3), dtype=np.uint8)
RED, BLUE = FRAMES[:2]
SCREEN = characters.Screen(80, "utf-8", True)
PLAIN = characters.Screen(80, "utf-8", False)


def picture(*panels, **options):
    return Picture("p", "Title", tuple(panels), **options)


def steps(count, pixels=GREY):
    return tuple(Panel(pixels, f"step {i + 1}", (Frame(1, 1, 3, 3),)) for i in range(count))


def opened(content):
    return np.array(Pillow.open(io.BytesIO(content)).convert("RGB"))


# The figure


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 2)), np.zeros(4, np.uint8), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2), np.uint8)]
)
def test_a_panel_is_a_picture(pixels):
    with pytest.raises(ValueError, match=re.escape(f"pixels have shape {pixels.shape}; expected")):
        Panel(pixels)


def test_a_picture_as_json():
    found = plain(picture(Panel(GREY[:1, :2], "a", (Frame(0, 1, 2.5, 3, 4),))))
    assert found["type"] == "picture"
    assert found["panels"] == [
        {
            "pixels": [GREY[0, :2].tolist()],
            "label": "a",
            "frames": [{"top": 0, "left": 1, "height": 2.5, "width": 3, "colour": 4}],
        }
    ]


# Pixels


@pytest.mark.parametrize("pixels", [GREY, COLOURS, np.zeros((1, 1), np.uint8)])
def test_a_png_file_has_the_pixels(pixels):
    found = np.array(Pillow.open(io.BytesIO(sheets.png(pixels))))
    assert np.array_equal(found, pixels)


def test_a_large_picture_is_reduced_for_a_page():
    noise = RNG.integers(0, 256, (800, 600, 3), dtype=np.uint8)
    file = sheets.png(noise)
    assert len(file) <= MOST
    assert opened(file).shape == (200, 150, 3)
    assert opened(file)[0, 0] == pytest.approx(noise[:4, :4].reshape(-1, 3).mean(0), abs=2)


def test_a_reduced_picture_is_means_of_blocks():
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6, 1).repeat(3, axis=2)
    found = sheets.reduced(pixels, 2, 3)
    assert found[..., 0].tolist() == [[4, 6, 8], [16, 18, 20]]  # 3.5, 5.5 and 7.5 rounded to even


def test_frames_lie_over_the_enlarged_pixels():
    found = sheets.enlarged(Panel(GREY, "", (Frame(1, 2, 3, 2),)), 10)
    assert found.shape == (60, 50, 3)
    red = (found == RED).all(-1)
    assert red[10:12, 20:40].all()  # two pixels thick, the upper edge
    assert red[38:40, 20:40].all()
    assert red[10:40, 20:22].all()
    assert red[10:40, 38:40].all()
    assert not red[12:38, 22:38].any()
    assert (found[~red] == sheets.rgb(GREY).repeat(10, 0).repeat(10, 1)[~red]).all()


def test_a_frame_that_is_partly_outside_is_cut():
    found = sheets.outline(Frame(-1, -2, 3, 5), 2, 12, 10)
    assert np.argwhere(found).max(0).tolist() == [3, 5]
    assert found[3, :6].all()
    assert found[:4, 5].all()
    assert found.sum() == 9
    assert not sheets.outline(Frame(20, 20, 3, 3), 1, 12, 10).any()


# Files


def test_a_sheet_of_pictures_has_each_of_them_enlarged():
    found = opened(sheets.sheet([picture(Panel(np.full((8, 8), value, np.uint8))) for value in range(10, 90, 10)]))
    assert found.shape == (3 * 160 + 2 * 4, 3 * 160 + 2 * 4, 3)
    centres = [found[80 + i // 3 * 164, 80 + i % 3 * 164, 0] for i in range(8)]
    assert centres == list(range(10, 90, 10))
    assert (found[80 + 328, 80 + 328] == 255).all()


def test_panels_with_titles_and_labels():
    one = picture(Panel(GREY, "first"), Panel(GREY, "second"), Panel(COLOURS))
    found = opened(sheets.sheet([one, picture(Panel(COLOURS))]))
    without = opened(sheets.sheet([Picture("p", "", (Panel(GREY), Panel(GREY), Panel(COLOURS))), one]))
    assert found.shape != without.shape
    assert found.shape[0] > 2 * 7 * 16
    ink = (found < 60).all(-1)
    assert ink[:24].any()  # the title


def test_a_sheet_of_many_pictures_is_no_wider_than_a_page():
    many = [picture(Panel(np.zeros((28, 28), np.uint8))) for _ in range(100)]
    found = opened(sheets.sheet(many))
    assert found.shape[1] <= sheets.WIDTH
    assert found.shape == (10 * 28 * 4 + 36, 10 * 28 * 4 + 36, 3)


def test_an_animation_has_a_step_per_image():
    first = tuple(Panel(np.full((8, 8), 80 * i, np.uint8), "", (Frame(i, 0, 3, 3),)) for i in range(3))
    second = tuple(Panel(np.full((8, 8), 200, np.uint8)) for _ in range(2))
    found = Pillow.open(io.BytesIO(sheets.animation([picture(Panel(GREY), steps=s) for s in (first, second)])))
    assert found.n_frames == 3
    assert found.info["loop"] == 0
    durations = []
    for i in range(3):
        found.seek(i)
        durations.append(found.info["duration"])
        image = np.array(found.convert("RGB")).astype(int)
        assert image.shape == (192, 388, 3)
        assert abs(image[180, 150] - 80 * i).max() <= 3
        assert abs(image[100, 300] - 200).max() <= 3
        assert (abs(image[24 * i : 24 * i + 4, 0:72] - RED).max(-1) <= 12).all()
    assert durations == [150, 150, 2000]


def test_a_coloured_animation():
    moving = (Panel(COLOURS // 2), Panel(COLOURS))
    found = Pillow.open(io.BytesIO(sheets.animation([picture(Panel(COLOURS), steps=moving)])))
    found.seek(1)
    image = np.array(found.convert("RGB")).astype(int)
    assert abs(image[8, 8] - COLOURS[0, 0]).max() < 30


def test_without_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(UserError) as caught:
        sheets.require("--png")
    assert str(caught.value) == "--png needs the library Pillow: pip install 'rnn-lab[images]'"


# Terminal


def styles(line: Text):
    """The foreground and the background of each cell."""
    found = []
    for start, end, style in line.spans:
        triplets = [colour and tuple(colour.triplet) for colour in (style.color, style.bgcolor)]
        found += [triplets] * (end - start)
    return found


def test_half_blocks_have_the_colours_of_two_pixels():
    lines = blocks.picture(picture(Panel(COLOURS.repeat(3, 0).repeat(4, 1))), SCREEN)  # 21 x 16: as it is
    assert [line.plain for line in lines] == ["▀" * 16] * 11
    pixels = COLOURS.repeat(3, 0).repeat(4, 1).tolist()
    for row, line in enumerate(lines):
        for column, (upper, lower) in enumerate(styles(line)):
            assert upper == tuple(pixels[2 * row][column])
            assert lower == (tuple(pixels[2 * row + 1][column]) if 2 * row + 1 < 21 else None)


def test_small_pictures_are_twice_as_large():
    lines = blocks.picture(picture(Panel(GREY)), SCREEN)
    assert [len(line.plain) for line in lines] == [10] * 6
    assert styles(lines[2])[3] == [(GREY[2, 1],) * 3] * 2


def test_characters_without_colours():
    ramp = np.tile(np.linspace(0, 255, 18).astype(np.uint8), (20, 1))
    lines = blocks.picture(picture(Panel(ramp, "ramp", (Frame(4, 2, 6, 5),))), PLAIN)
    assert not any(line.spans for line in lines)
    assert lines[0].plain == "  ..,,::;;**oo##@@"
    assert lines[-1].plain == "ramp"
    assert [line.plain[:8] for line in lines[1:6]] == ["  ..,,::", "  +++++:", "  +.,,+:", "  +++++:", "  ..,,::"]


def test_characters_where_colours_are_few():
    ramp = np.tile(np.linspace(0, 255, 18).astype(np.uint8), (20, 1))
    few = characters.Screen(coloured=True, few=True)
    assert blocks.picture(picture(Panel(ramp)), few)[0].plain == "  ..,,::;;**oo##@@"


def test_frames_are_coloured_half_blocks():
    lines = blocks.picture(picture(Panel(np.zeros((20, 20), np.uint8), "", (Frame(2, 4, 5, 6, 1),))), SCREEN)
    assert styles(lines[1])[4:10] == [[BLUE, BLUE if i in (0, 5) else (0, 0, 0)] for i in range(6)]
    assert styles(lines[3])[4:10] == [[BLUE, (0, 0, 0)]] * 6
    assert styles(lines[5])[4] == [(0, 0, 0), (0, 0, 0)]


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("coloured", [False, True])
def test_nothing_is_wider_than_the_terminal(width, coloured):
    screen = characters.Screen(width, "utf-8", coloured)
    large, wide = np.zeros((300, 400, 3), np.uint8), np.zeros((10, 900), np.uint8)
    for figure in (
        picture(Panel(large, "a label that is far wider than the panel and than many a terminal" * 2)),
        picture(Panel(wide)),
        picture(*(Panel(GREY, f"glimpse {i}") for i in range(20)), columns=7),
        picture(*(Panel(large, f"glimpse {i}") for i in range(20)), columns=7),
        picture(*(Panel(GREY, f"glimpse {i}") for i in range(20))),
        picture(Panel(large), steps=steps(64, large)),
    ):
        lines = blocks.picture(figure, screen)
        assert max(line.cell_len for line in lines) < width
        assert len(lines) < 24 or len(figure.panels) > 1 or figure.steps


def test_panels_of_unlike_sizes_stand_beside_each_other():
    large, small = np.zeros((40, 40), np.uint8), np.full((8, 8), 255, np.uint8)
    figure = picture(Panel(large, "all"), *(Panel(small, f"1.{i}") for i in range(1, 6)))
    lines = [line.plain for line in blocks.picture(figure, PLAIN)]
    assert [line.split() for line in lines if "." in line] == [["all", "1.1", "1.2"], ["1.3", "1.4", "1.5"]]
    assert lines[0] == " " * 40 + "  " + "@" * 16 + "  " + "@" * 16
    assert len(lines) == 20 + 1 + 1 + 8 + 1
    sheet = opened(sheets.sheet([figure]))
    white = (sheet[24 + 80, :] == 255).all(-1)
    assert sheet.shape[1] == 6 * 160 + 5 * 4
    assert not white[:160].any()
    assert white[164:].all()


@pytest.mark.parametrize(("count", "rows"), [(4, 1), (8, 1), (9, 1), (10, 2), (20, 3)])
def test_rows_of_a_sheet_are_equally_full(count, rows):
    sheet = opened(sheets.sheet([picture(*[Panel(np.zeros((28, 28), np.uint8))] * count)]))
    dark = (sheet[:, 2] == 0).all(-1)
    assert np.count_nonzero(dark[1:] & ~dark[:-1]) + dark[0] == rows
    assert sheet.shape[1] <= 1200


def labelled(figure, width):
    lines = [line.plain for line in blocks.picture(figure, characters.Screen(width, "utf-8", True))]
    return [line.split() for line in lines if re.search("[0-9]", line)]


def test_labels_that_do_not_fit_keep_their_last_word():
    figure = picture(*(Panel(GREY, f"glimpse {i}") for i in range(6)), columns=5)
    assert labelled(figure, 40) == [list("01234"), ["5"]]


def test_a_row_that_is_too_wide_goes_on_below():
    """Panels are as narrow as 12 pixels; the next row begins on a line of its own."""
    pixels = np.zeros((28, 28), np.uint8)
    figure = picture(*(Panel(pixels, str(i)) for i in range(10)), columns=5)
    assert labelled(figure, 80) == [list("01234"), list("56789")]
    assert labelled(figure, 40) == [list("01"), list("23"), list("4"), list("56"), list("78"), list("9")]
    assert labelled(figure, 44) == [list("012"), list("34"), list("567"), list("89")]


def test_steps_are_shown_from_the_first_to_the_last():
    pixels = np.zeros((28, 28), np.uint8)
    lines = blocks.picture(picture(Panel(pixels), steps=steps(10, pixels)), SCREEN)
    assert re.findall(r"step \d+", lines[-1].plain) == ["step 1", "step 3", "step 5", "step 8", "step 10"]
    narrow = blocks.picture(picture(Panel(pixels), steps=steps(10, pixels)), characters.Screen(40, "utf-8", True))
    assert re.findall(r"step \d+", narrow[-1].plain) == ["step 1", "step 10"]


def test_a_picture_is_printed_as_other_figures_are(capsys):
    terminal.draw_figures([picture(Panel(np.full((20, 20), 255, np.uint8), "white"))])
    assert capsys.readouterr().out == "\nTitle\n" + ("@" * 20 + "\n") * 10 + "white\n"


# Pages


def html(*figures):
    return page.html([Page("k", "t", "q", ("a",), figures=figures)], "heading", [])


def test_a_page_has_the_pixels_and_the_frames():
    frame = Frame(1, 2.25, 3, 4, 1)
    written = html(picture(Panel(GREY, "<label>", (frame,)), Panel(COLOURS), definition="What it is."))
    files = [base64.b64decode(file) for file in re.findall(r'href="data:image/png;base64,([^"]+)"', written)]
    assert [np.array(Pillow.open(io.BytesIO(file))).tolist() for file in files] == [GREY.tolist(), COLOURS.tolist()]
    assert '<rect x="2.25" y="1" width="4" height="3" style="stroke:#0abeff"/>' in written
    assert "&lt;label&gt;</div>" in written
    assert 'aria-label="Title, &lt;label&gt;"' in written
    assert 'aria-label="Title"' in written
    assert "<figcaption>What it is.</figcaption>" in written
    assert not re.search("https?:", written)


def test_a_page_shows_at_most_so_many_steps():
    written = html(picture(Panel(GREY), steps=steps(60)))
    assert written.count("data:image/png") == 1 + page.STEPS
    assert "step 1<" in written
    assert "step 60<" in written


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_pictures_in_a_browser(driver, tmp_path, size):
    """Each picture is as wide as high, seen wholly or in a box that scrolls, and the page does not scroll sideways."""
    square = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    frames = (Frame(2, 4, 8, 8, 0),)
    figures = (
        picture(Panel(square, "one", frames), steps=steps(30, square)),
        picture(*(Panel(square, f"glimpse {i}", frames) for i in range(14)), columns=7),
        picture(*(Panel(square) for _ in range(5))),
    )
    (tmp_path / "page.html").write_text(html(*figures))
    width, height = size
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    driver.get((tmp_path / "page.html").as_uri())
    found = driver.execute_script(
        """const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.width, r.height] };
        return {scroll: document.documentElement.scrollWidth, shown: innerWidth,
                panels: [...document.querySelectorAll('.panel svg')].map(box),
                frames: [...document.querySelectorAll('.panel rect')].map(e => [...box(e),
                    ...box(e.ownerSVGElement)])}"""
    )
    assert found["scroll"] <= found["shown"]
    assert len(found["panels"]) == 1 + page.STEPS + 14 + 5
    for _, _, across, down in found["panels"]:
        assert across == pytest.approx(down, abs=2.5)
        assert across >= 40
    left, top, across, down, *whole = found["frames"][0]
    assert (left - whole[0]) / whole[2] == pytest.approx(4 / 16, abs=0.02)
    assert (top - whole[1]) / whole[3] == pytest.approx(2 / 16, abs=0.02)
    assert across / whole[2] == pytest.approx(8 / 16, abs=0.02)
    assert down / whole[3] == pytest.approx(8 / 16, abs=0.02)


def test_pictures_among_the_charts_of_a_report():
    pytest.importorskip("matplotlib")
    from rnn_lab.drawing.pictures import picture as drawing

    figure = picture(Panel(np.full((8, 8, 3), (10, 200, 30), np.uint8), "a", (Frame(1, 1, 4, 4),)), Panel(GREY))
    content = drawing([Page("k", "t", "q", ("a",), figures=(figure,))], "png")
    image = opened(content)
    assert (image == (10, 200, 30)).all(-1).sum() > 10_000
    assert (abs(image.astype(int) - RED).max(-1) < 30).sum() > 200
    assert drawing([Page("k", "t", "q", ("a",), figures=(figure,))], "svg").startswith(b"<?xml")

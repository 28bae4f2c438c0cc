"""Drawing house numbers, and reading pictures of numbers: formulas, parts of the data, and every message."""

import gzip
import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rnn_plugins.data import house_numbers
from rnn_plugins.data.house_numbers import (
    SEGMENTS,
    Layout,
    as_glyphs,
    draw,
    random_layout,
    read_layouts,
    seven_segments,
)
from rnn_plugins.data.images import read_images
from rnn_plugins.data.number_files import Reading, parse, pictures, read_numbers
from rnn_plugins.data.numbered import Drawn, Stored
from rnn_plugins.errors import UserError

HEADER = "filename\tnumber\tboxes_left_top_width_height\n"
ROWS = "1.png\t5\t43,7,19,30\n7.png\t183\t44,7,9,21;51,6,11,21;62,6,10,21\n"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "layouts.tsv"
    path.write_text(HEADER + ROWS)
    return path


def idx(values):
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.astype(">u1").tobytes()


def write_mnist(folder, count=40, parts=("train", "t10k"), first=0):
    """Images with a number each in their first pixels, so that each can be found again; classes 0 to 9 in turn."""
    folder.mkdir(exist_ok=True)
    for turn, part in enumerate(parts):
        images = np.zeros((count, 12, 10), np.uint8)
        images[:, 3:9, 3:7] = 255
        images[:, 5, 4] = first + turn * count + np.arange(count)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images), mtime=0))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(count) % 10), mtime=0))
    return str(folder)


def read(*files, purpose="train", shape=None, white=None, **how):
    names = [str(file) for file in files]
    digest = hashlib.sha256()
    return read_numbers(names, Reading(**how), digest=digest, purpose=purpose, shape=shape, white=white)


def refused(*files, **how):
    with pytest.raises(UserError) as caught:
        read(*files, **how)
    return str(caught.value)


# Layouts


def test_layouts_of_a_table(table):
    one, three = read_layouts(str(table))
    assert one.text == "5"
    assert one.boxes.tolist() == [[43, 7, 19, 30]]
    assert three.text == "183"
    assert three.boxes.tolist() == [[44, 7, 9, 21], [51, 6, 11, 21], [62, 6, 10, 21]]


@pytest.mark.parametrize(
    ("row", "flaw"),
    [
        ("123456\t1,2,3,4", "the number is '123456'; expected 1 to 5 digits"),
        ("1a\t1,2,3,4;1,2,3,4", "the number is '1a'; expected 1 to 5 digits"),
        (f"{10**30}\t1,2,3,4", "the number is '10000000000000000000'...; expected 1 to 5 digits"),
        ("\u0661\t1,2,3,4", "the number is '\u0661'; expected 1 to 5 digits"),
        ("12\t1,2,3,4", "BOXES '1,2,3,4'"),
        ("1\t1,2,3", "BOXES '1,2,3'"),
        ("1\t1,2,0,4", "BOXES '1,2,0,4'"),
        ("1\t1,2,nan,4", "BOXES '1,2,nan,4'"),
        ("1\t1,2,x,4", "BOXES '1,2,x,4'"),
    ],
)
def test_a_row_that_is_no_layout(tmp_path, row, flaw):
    path = tmp_path / "layouts.tsv"
    path.write_text(f"{HEADER}1.png\t5\t43,7,19,30\n2.png\t{row}\n")
    if flaw.startswith("BOXES"):
        flaw = (
            f"the boxes of '{row.split()[0]}' are {flaw[6:]}; expected left, top, width and height of each digit, such "
            "as 44,7,9,21;51,6,11,21"
        )
    with pytest.raises(UserError) as caught:
        read_layouts(str(path))
    assert str(caught.value) == f"{path}, line 3: {flaw}"


def test_random_layouts_have_one_to_five_digits_side_by_side():
    found = [random_layout(np.random.default_rng(seed)) for seed in range(300)]
    assert {len(layout.text) for layout in found} == {1, 2, 3, 4, 5}
    assert {digit for layout in found for digit in layout.text} == set("0123456789")
    for layout in found:
        assert layout.boxes.shape == (len(layout.text), 4)
        ends = layout.boxes[:-1, 0] + layout.boxes[:-1, 2]
        assert (layout.boxes[1:, 0] > ends).all()


# Glyphs


def test_segments_are_those_of_a_display():
    """Each segment's middle is ink in the digits that have it, and in no other: top, right, right, bottom, ..."""
    middles = {"a": (0.5, 0.06), "b": (0.86, 0.3), "c": (0.86, 0.7), "d": (0.5, 0.94), "e": (0.1, 0.7)}
    middles |= {"f": (0.1, 0.3), "g": (0.5, 0.5)}
    display = [
        "1111110",
        "0110000",
        "1101101",
        "1111001",
        "0110011",
        "1011011",
        "1011111",
        "1110000",
        "1111111",
        "1111011",
    ]
    glyphs = seven_segments(30, np.random.default_rng(0), height=60)
    for digit, lit in enumerate(display):
        assert {name for name, on in zip("abcdefg", lit, strict=True) if on == "1"} == set(SEGMENTS[digit])
        mean = np.mean(glyphs[str(digit)], axis=0)
        rows, columns = np.flatnonzero(mean.max(1) > 99), np.flatnonzero(np.mean(glyphs["8"], axis=0).max(0) > 99)
        for name, on in zip("abcdefg", lit, strict=True):
            x, y = middles[name]
            at = mean[int(y * 60), columns[0] + int(x * (columns[-1] - columns[0]))]
            assert (at > 60) == (on == "1"), (digit, name, at)
        assert len(rows) > 40


def test_each_glyph_of_a_digit_is_another():
    glyphs = seven_segments(50, np.random.default_rng(0))
    assert all(len({image.tobytes() for image in glyphs[digit]}) == 50 for digit in glyphs)
    again = seven_segments(50, np.random.default_rng(0))
    assert all(np.array_equal(glyphs[digit], again[digit]) for digit in glyphs)


def test_dark_digits_on_a_bright_ground_become_ink():
    ink = np.zeros((2, 8, 8, 1), np.uint8)
    ink[:, 2:6, 3:5] = 200
    bright = as_glyphs(ink, ["1", "7"])
    assert set(bright) == {"1", "7"}
    dark = as_glyphs(255 - ink, ["1", "7"])
    assert all(np.array_equal(bright[digit], dark[digit]) for digit in "17")
    coloured = as_glyphs(np.repeat(ink / np.float32(255), 3, axis=3), ["1", "7"])
    assert all(np.array_equal(bright[digit], coloured[digit]) for digit in "17")


# Drawing


@pytest.mark.parametrize(("count", "start", "length"), [(7, 3.3, 20.0), (20, 2.0, 9.0), (8, -4.0, 16.0)])
def test_sampling_is_linear_interpolation_or_a_mean(count, start, length):
    scipy = pytest.importorskip("scipy.ndimage")
    side, values = 30, np.random.default_rng(1).random(count)
    at = (np.arange(side) + 0.5 - start) * count / length - 0.5
    found = house_numbers._sampling(side, start, length, count) @ values
    if length > count:
        assert found == pytest.approx(scipy.map_coordinates(np.pad(values, 1), [at + 1], order=1), abs=1e-5)
    else:
        inside = (at > 2) & (at < count - 3)
        reach = count / length
        weights = np.clip(1 - abs(at[:, None] - np.arange(count)) / reach, 0, None) / reach
        assert found == pytest.approx(weights @ values, abs=1e-5)
        assert weights[inside].sum(1) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("deviation", [0.3, 1.4])
def test_blur_is_gaussian(deviation):
    scipy = pytest.importorskip("scipy.ndimage")
    values = np.random.default_rng(2).random(25)
    expected = scipy.gaussian_filter1d(values, deviation, mode="nearest", truncate=20)
    assert house_numbers._blur(25, deviation) @ values == pytest.approx(expected, abs=1e-5)


def test_a_picture_depends_on_its_generator_alone():
    glyphs, layout = seven_segments(3, np.random.default_rng(0)), random_layout(np.random.default_rng(5))
    for shape in ((54, 54, 1), (30, 50, 3)):
        first, again, other = (draw(layout, glyphs, np.random.default_rng(seed), shape) for seed in (7, 7, 8))
        assert first.shape == shape
        assert first.dtype == np.uint8
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


def test_digits_are_in_their_boxes_and_stand_out(monkeypatch):
    """With and without ink, a picture differs in the boxes (and in shadows and blurs beside them), by the contrast."""
    empty = np.zeros((40, 60), np.float32)
    monkeypatch.setattr(house_numbers, "_pieces", lambda *_: [empty])
    layout = Layout("11", np.array([[10.0, 5, 8, 20], [22, 7, 9, 18]]))
    full, none = ({"1": [np.full((9, 9), value, np.uint8)]} for value in (255, 0))
    signs = []
    for seed in range(60):
        boxes = house_numbers._placed(layout.boxes, np.random.default_rng(seed), 40, 60)
        assert (boxes[:, :2] > 0.5).all()
        assert (boxes[:, 0] + boxes[:, 2] < 59.5).all()
        assert (boxes[:, 1] + boxes[:, 3] < 39.5).all()
        pictures = [draw(layout, some, np.random.default_rng(seed), (40, 60, 1))[..., 0] for some in (full, none)]
        changed = pictures[0].astype(float) - pictures[1]
        inside = np.zeros((40, 60), bool)
        for left, top, width, height in boxes.round().astype(int).tolist():
            assert abs(changed[top + 4 : top + height - 4, left + 4 : left + width - 4].mean()) > 25
            inside[max(top - 6, 0) : top + height + 6, max(left - 6, 0) : left + width + 6] = True
        assert abs(changed[~inside]).max(initial=0) <= 2
        signs.append(changed[inside].mean() > 0)
    assert 10 < sum(signs) < 50  # bright on dark, and dark on bright


def test_pieces_are_at_the_edges_and_apart_from_the_number():
    glyphs = {digit: [np.full((9, 5), 255, np.uint8)] for digit in "08"}
    boxes, seen = np.array([[20.0, 10, 12, 30], [35, 10, 12, 30]]), []
    for seed in range(30):
        piece = np.max(house_numbers._pieces(boxes, glyphs, np.random.default_rng(seed), 54, 64), axis=0)
        columns = np.flatnonzero(piece.max(0))
        assert ((columns < 19) | (columns > 48)).all()
        assert ((columns <= 6) | (columns >= 57)).all()  # 0.4 of the width of a digit
        seen += [columns[0] == 0, columns[-1] == 63]
    assert any(seen[::2])
    assert any(seen[1::2])
    close = np.array([[1.0, 10, 30, 30], [31, 10, 32, 30]])
    assert not np.max(house_numbers._pieces(close, glyphs, np.random.default_rng(0), 54, 64), axis=0).any()


# Generated numbers


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("builtin:numbers", (20_000, 0)),
        ("builtin:numbers:30", (30, 0)),
        ("builtin:numbers:30:7", (30, 7)),
        ("builtin:digits", None),
        ("numbers", None),
    ],
)
def test_names_of_generated_numbers(name, expected):
    assert parse(name) == expected


@pytest.mark.parametrize(
    "name", ["builtin:numbers:x", "builtin:numbers:0", "builtin:numbers:1:2:3", "builtin:numbers:"]
)
def test_a_name_that_is_not_understood(name):
    assert refused(name) == (
        f"{name!r} is not understood; it takes builtin:numbers, builtin:numbers:COUNT or builtin:numbers:COUNT:SEED, "
        "such as builtin:numbers:20000"
    )


def test_generated_numbers():
    found = read("builtin:numbers:200:3", valid_fraction=0.2)
    assert (len(found.train), len(found.valid), found.shape) == (200, 40, (40, 40, 1))
    assert found.about == "house numbers of 40x40 in seven segments"
    example = found.train[7]
    assert example.name == "builtin:numbers:200:3[7]"
    assert 1 <= len(example.text) <= 5
    assert [e.text for e in found.train[:10]] == [e.text for e in read("builtin:numbers:200:3").train[:10]]
    assert [e.text for e in found.train[:10]] != [e.text for e in found.valid[:10]]
    assert [e.text for e in found.train[:10]] != [e.text for e in read("builtin:numbers:200:4").train[:10]]
    assert read("builtin:numbers:5", image_size=24, colour=True).train[0].pixels().shape == (24, 24, 3)
    assert read("builtin:numbers:5", shape=(20, 30, 1), purpose="evaluate").valid[0].pixels().shape == (20, 30, 1)


def test_a_generated_picture_is_a_function_of_seed_place_and_epoch():
    found = read("builtin:numbers:50").train
    picture = found[3].pixels()
    assert np.array_equal(picture, read("builtin:numbers:50").train[3].pixels())
    assert np.array_equal(picture, found[-47].pixels())
    others = [found[4].pixels(), found[3].pixels(epoch=1), found[3].pixels(seed=1), found[3].pixels(epoch=1, seed=1)]
    assert len({p.tobytes() for p in (picture, *others)}) == 5
    with pytest.raises(IndexError):
        found[50]


def test_any_number_of_pictures_takes_no_memory():
    found = read("builtin:numbers:9000000").train
    assert len(found) == 9_000_000
    assert found[8_999_999].text
    assert len(found[:3]) == 3


# Layouts with glyphs


def glyphs_in(part):
    """The numbers of the glyphs of a part of the data, as ``write_mnist`` has put them there."""
    return {int(image[5, 4]) for images in part.glyphs.values() for image in images}


def test_no_glyph_and_no_layout_is_in_both_parts(tmp_path):
    rows = "".join(f"{i}.png\t{i % 9 + 1}\t{i},7,19,30\n" for i in range(30))
    (tmp_path / "layouts.tsv").write_text(HEADER + rows)
    mnist = write_mnist(tmp_path / "mnist")
    found = read(tmp_path / "layouts.tsv", mnist, valid_fraction=0.3)
    assert isinstance(found.train, Drawn)
    assert (len(found.train), len(found.valid), found.shape) == (21, 27, (54, 54, 1))  # nine layouts, each thrice
    lefts = [{layout.boxes[0, 0] for layout in part.layouts} for part in (found.train, found.valid)]
    assert lefts[0] | lefts[1] == set(range(30))
    assert not lefts[0] & lefts[1]
    train, valid = glyphs_in(found.train), glyphs_in(found.valid)
    assert (len(train), len(valid)) == (28, 12)
    assert not train & valid
    assert max(train | valid) < 40  # none of t10k
    assert found.about == ("house numbers of 54x54 drawn from 30 layouts and 40 images of digits")
    test = os.path.join(mnist, "t10k-images-idx3-ubyte.gz")
    assert found.notices == (f"{test!r} is left out; rnn eval RUN {mnist} reads it",)
    evaluated = read(tmp_path / "layouts.tsv", mnist, valid_fraction=0.3, purpose="evaluate", shape=(54, 54, 1))
    assert (len(evaluated.train), len(evaluated.valid)) == (0, 90)
    assert {layout.boxes[0, 0] for layout in evaluated.valid.layouts} == lefts[1]
    assert glyphs_in(evaluated.valid) == set(range(40, 80))
    assert evaluated.notices == ("of 30 layouts, the 9 that training holds out are drawn, 10 times each",)
    every = read(tmp_path / "layouts.tsv", mnist, valid_fraction=0, purpose="evaluate", shape=(54, 54, 1))
    assert every.notices == ("all 30 layouts, which training draws too, are drawn, 10 times each",)
    assert evaluated.valid[0].text == evaluated.valid[9].text
    assert not np.array_equal(evaluated.valid[0].pixels(), evaluated.valid[9].pixels())
    everything = read(tmp_path / "layouts.tsv", mnist, valid_fraction=0, purpose="evaluate")
    assert len(everything.valid) == 300


def test_files_beside_their_gzipped_copies_are_read_once(tmp_path):
    folder = write_mnist(tmp_path / "mnist")
    for file in (tmp_path / "mnist").glob("*.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
    found = read(folder, valid_fraction=0)
    assert len(found.train) == 40
    assert found.notices == (f"'{folder}/t10k-images-idx3-ubyte' is left out; rnn eval RUN {folder} reads it",)


def test_not_too_many_generated_pictures_are_held_out():
    found = read("builtin:numbers:100000")
    assert (len(found.train), len(found.valid)) == (100_000, 2000)
    assert len(read("builtin:numbers:100").valid) == 10


def test_layouts_without_digits(table):
    assert refused(table) == (
        f"'{table}' has layouts and no digits; name images of digits too: a folder with MNIST's files, or "
        "builtin:digits"
    )


def test_layouts_with_too_few_digits(table, tmp_path):
    mnist = write_mnist(tmp_path / "mnist", count=5)
    assert refused(table, mnist, valid_fraction=0) == (
        f"there is no image of the digit 5 to train on in '{mnist}'; house numbers are drawn with images of each digit"
    )
    table.write_text(HEADER + 4 * ROWS)
    mnist = write_mnist(tmp_path / "mnist", count=10)
    assert refused(table, mnist, valid_fraction=0.5) == (
        f"there is no image of the digit 1 to hold out in '{mnist}'; house numbers are drawn with images of each digit"
    )


def test_layouts_with_images_without_classes(table, tmp_path):
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(idx(np.zeros((3, 4, 4), np.uint8)))
    assert refused(table, path) == (
        f"'{path}' has images without classes (there is no file 'labels-idx1-ubyte' beside it, gzipped or not); house "
        "numbers are drawn with images of digits"
    )


# Images of digits


def test_a_folder_with_mnist(tmp_path):
    mnist = write_mnist(tmp_path / "mnist")
    found = read(mnist, valid_fraction=0.25)
    assert isinstance(found.train, Stored)
    assert (len(found.train), len(found.valid), found.shape, found.white) == (30, 10, (12, 10, 1), 255)
    assert found.about == "40 images of 12x10"
    places = {int(e.pixels()[5, 4, 0]): e.text for part in (found.train, found.valid) for e in part}
    assert places == {i: str(i % 10) for i in range(40)}
    assert np.array_equal(found.train[0].pixels(epoch=0), found.train[0].pixels(epoch=5, seed=9))
    test = read(mnist, purpose="evaluate", shape=(12, 10, 1), white=255)
    assert [int(e.pixels()[5, 4, 0]) for e in test.valid] == list(range(40, 80))
    assert test.valid[0].name == "t10k-images-idx3-ubyte.gz[0]"
    assert len(test.train) == 0
    assert [name for name, _ in pictures(mnist, shape=(12, 10, 3), white=None, size=0)][:1] == [test.valid[0].name]


def test_images_of_other_sizes(tmp_path):
    mnist = write_mnist(tmp_path / "mnist")
    with pytest.raises(UserError, match=r"has images of 12x10; expected 28x28 .height x width., as the network"):
        list(pictures(mnist, shape=(28, 28, 1), white=None, size=0))
    other = write_mnist(tmp_path / "other", parts=("train",))
    Path(other, "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros((40, 3, 3))), mtime=0))
    assert refused(mnist, other) == (
        f"'{other}' has images of shape (3, 3, 1) and '{mnist}' of shape (12, 10, 1); expected one height, width and "
        "number of channels"
    )


def test_a_picture_of_another_size_can_be_scaled(tmp_path):
    Image.fromarray(np.full((20, 30), 7, np.uint8)).save(tmp_path / "1.png")
    with pytest.raises(UserError) as caught:
        list(pictures(str(tmp_path / "1.png"), shape=(54, 54, 1), white=255, size=0))
    assert str(caught.value) == (
        f"'{tmp_path}/1.png' has images of 20x30; expected 54x54 (height x width), as the network was trained on: "
        "scale them, or set --task-option image_size=54"
    )
    ((name, pixels),) = pictures(str(tmp_path / "1.png"), shape=(54, 54, 3), white=255, size=54)
    assert name == "1.png"
    assert pixels.shape == (54, 54, 3)
    assert (pixels == 7).all()


def test_several_files_of_images_are_one_set(tmp_path):
    one, two = (write_mnist(tmp_path / name, parts=("train",), first=first) for name, first in (("a", 0), ("b", 40)))
    found = read(one, two, valid_fraction=0)
    assert [int(e.pixels()[5, 4, 0]) for e in found.train] == list(range(80))
    assert found.train[41].name == f"{two}: train-images-idx3-ubyte.gz[1]"


def test_classes_that_are_no_digits(tmp_path):
    for name in ("7", "cat"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name / "1.png")
    assert refused(tmp_path) == f"'{tmp_path}' has images of the class 'cat'; expected the digits 0 to 9"
    assert len(read(tmp_path, labelled=False, valid_fraction=0).train) == 2


def test_a_picture_alone_has_no_number(tmp_path):
    path = tmp_path / "1.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    assert refused(path) == (
        f"'{path}' has images without classes (a picture has none); the number in each is needed: a folder for each "
        "digit, or a table with the columns image and text"
    )
    assert [e.text for e in read(path, labelled=False, purpose="evaluate").valid] == [""]


def test_scikit_learns_digits():
    pytest.importorskip("sklearn")
    found = read("builtin:digits")
    assert found.about == "1,797 images of 8x8"
    assert found.white == 16
    assert found.train[0].text == "0"
    assert found.train[0].pixels().dtype == np.float32
    assert found.train[0].pixels().max() == 15 / 16


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    assert refused("builtin:digits") == (
        "builtin:digits needs the library scikit-learn: pip install 'rnn-lab[metrics]'"
    )


# Pictures with a table


def write_pictures(folder, texts, columns=("image", "text"), extra=""):
    folder.mkdir()
    for i, _ in enumerate(texts):
        Image.fromarray(np.full((6, 8), i, np.uint8)).save(folder / f"{i}.png")
    lines = [f"{i}.png\t{text}" for i, text in enumerate(texts)]
    (folder / "numbers.tsv").write_text("\n".join(["\t".join(columns), *lines]) + "\n")
    return folder


def test_a_folder_of_pictures_with_a_table(tmp_path):
    folder = write_pictures(tmp_path / "mine", [str(7 * i) for i in range(20)])
    found = read(folder)
    assert (len(found.train), len(found.valid), found.shape) == (18, 2, (6, 8, 1))
    assert {e.name: e.text for part in (found.train, found.valid) for e in part} == {
        f"{i}.png": str(7 * i) for i in range(20)
    }
    assert all(e.pixels()[0, 0, 0] == int(e.name[:-4]) for e in found.train)
    assert found.about == "20 pictures of 6x8 with numbers"
    assert len(read(folder, purpose="evaluate").valid) == 20
    assert len(read(folder, folder / "numbers.tsv").train) == 18
    assert read(folder, image_size=5).shape == (5, 5, 1)


def test_a_column_says_which_part_a_picture_belongs_to(tmp_path):
    rows = ["1\ttrain", "2\tvalid", "3\ttest", "4\ttrain"]
    folder = write_pictures(tmp_path / "mine", rows, ("image", "text", "split"))
    found = read(folder, split_column="split")
    assert [e.text for e in found.train] == ["1", "4"]
    assert [e.text for e in found.valid] == ["2"]
    assert found.notices == ("left out: 1 picture of the part 'test'",)
    assert [e.text for e in read(folder, split_column="split", purpose="evaluate").valid] == ["3"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["12", "123456"], "the number of '1.png' is '123456'; expected 1 to 5 digits"),
        (["12", "1-3"], "the number of '1.png' is '1-3'; expected 1 to 5 digits"),
    ],
)
def test_texts_that_are_no_house_numbers(tmp_path, texts, message):
    folder = write_pictures(tmp_path / "mine", texts)
    assert refused(folder) == f"{folder}/numbers.tsv, line 3: {message}"


def test_tables_that_do_not_fit(tmp_path):
    folder = write_pictures(tmp_path / "mine", ["12", ""])
    assert refused(folder) == f"{folder}/numbers.tsv, line 3: the text is empty; expected one for each image"
    other = write_pictures(tmp_path / "other", ["12"], ("image", "label"))
    assert refused(other) == (
        f"{other}/numbers.tsv, line 1: there is no picture 'image' in the folder '{other}'; if this is the header, "
        "name its columns with --task-option text_column=NAME"
    )
    assert [e.text for e in read(other, text_column="label", valid_fraction=0).train] == ["12"]


def test_a_picture_has_one_row(tmp_path):
    folder = write_pictures(tmp_path / "mine", ["12", "3"])
    with open(folder / "numbers.tsv", "a") as table:
        table.write("0.png\t12\n")
    assert refused(folder) == (
        f"{folder}/numbers.tsv, line 4: '0.png' is in the table twice; expected one row for each picture"
    )


def test_a_table_beside_pictures_is_not_read_where_no_numbers_are_needed(tmp_path):
    folder = write_pictures(tmp_path / "mine", ["a house", "a door"])
    assert len(read(folder, labelled=False, valid_fraction=0).train) == 2
    assert refused(folder / "numbers.tsv", labelled=False) == (
        f"'{folder / 'numbers.tsv'}' is a table of pictures; give the pictures themselves, or their folder"
    )


def test_folders_without_pictures(tmp_path):
    assert refused(tmp_path) == (
        f"there is no picture in the folder '{tmp_path}'; expected files ending in .png, .jpg, .jpeg, .bmp, .gif and "
        ".webp"
    )
    assert refused() == "there are no pictures: name FILES, or builtin:numbers or builtin:digits"
    assert refused("builtin:scenes") == (
        "there are no pictures in 'builtin:scenes'. There are builtin:numbers and builtin:digits"
    )
    assert refused("builtin:digit") == (
        "there are no pictures in 'builtin:digit'. Did you mean 'digits'? There are builtin:numbers and builtin:digits"
    )
    assert refused("builtin:numbers", tmp_path) == (
        "'builtin:numbers' is a set of pictures of its own; give no other file with it"
    )


def test_a_damaged_picture(tmp_path):
    folder = write_pictures(tmp_path / "mine", ["12", "3"])
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:40])
    assert "1.png' cannot be read as a picture (" in refused(folder)


def test_real_layouts_and_digits(data):
    layouts, mnist = data / "house-number-layouts.tsv", data / "mnist"
    found = read(layouts, mnist)
    assert (len(found.train), len(found.valid)) == (5881, 1959)
    assert {len(e.text) for e in found.valid} == {1, 2, 3, 4}
    test = read(layouts, mnist, purpose="evaluate", shape=(54, 54, 1))
    assert len(test.valid) == 6530
    digits = read_images(str(mnist / "train-images-idx3-ubyte.gz"))
    assert sum(map(len, found.train.glyphs.values())) == 54_000
    assert len(digits) == 60_000


@pytest.mark.parametrize("side", range(1, 13))
def test_pictures_can_be_small(side):
    rng = np.random.default_rng(side)
    glyphs = seven_segments(10, rng)
    for _ in range(60):
        assert draw(random_layout(rng), glyphs, rng, (side, side, 3)).shape == (side, side, 3)

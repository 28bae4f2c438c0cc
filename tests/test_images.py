"""Reading images: every format, against arrays that are known, and every message word for word."""

import csv
import gzip
import io
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rnn_plugins.data.images import as_image, each_image, is_images, read_images, unit
from rnn_plugins.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 5), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)


def idx(values):
    codes = {"u1": 8, "i4": 12, "f4": 13}
    code = codes[values.dtype.str[1:]]
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, code, values.ndim, *values.shape)
    return head + values.astype(values.dtype.newbyteorder(">")).tobytes()


def refused(path, **options):
    with pytest.raises(UserError) as caught:
        read_images(str(path), **options)
    return str(caught.value)


# IDX


@pytest.mark.parametrize("packed", [False, True])
def test_idx_images_with_the_classes_beside_them(tmp_path, packed):
    ending, pack = (".gz", gzip.compress) if packed else ("", bytes)
    (tmp_path / f"train-images-idx3-ubyte{ending}").write_bytes(pack(idx(PIXELS)))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.array([3, 1, 4, 1], np.uint8)), mtime=0))
    images = read_images(str(tmp_path / f"train-images-idx3-ubyte{ending}"))
    assert images.pixels.dtype == np.uint8
    assert np.array_equal(images.pixels[..., 0], PIXELS)
    assert images.labels == ("3", "1", "4", "1")
    assert images.shape == (6, 5, 1)
    assert images.names[1] == f"train-images-idx3-ubyte{ending}[1]"
    assert len(read_images(str(tmp_path))) == 4  # the only file of images in the folder


def test_idx_without_classes_says_which_file_is_missing(tmp_path):
    path = tmp_path / "t10k-images.idx3-ubyte"
    path.write_bytes(idx(PIXELS))
    images = read_images(str(path))
    assert images.labels is None
    assert images.unlabelled == "there is no file 't10k-labels.idx1-ubyte' beside it, gzipped or not"


def test_idx_floats_and_colours(tmp_path):
    path = tmp_path / "images"
    path.write_bytes(idx((COLOURS / 255).astype(np.float32)))
    images = read_images(str(path))
    assert images.white == 1
    np.testing.assert_allclose(images.pixels, COLOURS / 255, rtol=1e-6)


def test_idx_mistakes(tmp_path):
    path, labels = tmp_path / "a-images-idx3-ubyte", tmp_path / "a-labels-idx1-ubyte"
    path.write_bytes(idx(PIXELS)[:-1])
    assert refused(path) == (
        f"{str(path)!r} is not a complete IDX file (it has 119 bytes of numbers, and its header says 120); copy or "
        "download it again"
    )
    path.write_bytes(idx(PIXELS)[:9])
    assert "its header is cut off" in refused(path)
    path.write_bytes(gzip.compress(idx(PIXELS), mtime=0)[:-4])
    assert refused(path) == f"{str(path)!r} is not a complete gzip file; copy or download it again"
    path.write_bytes(idx(PIXELS[:0]))
    assert refused(path) == f"{str(path)!r} has no images: its array has shape (0, 6, 5)"
    path.write_bytes(idx(PIXELS))
    labels.write_bytes(idx(np.zeros(5, np.uint8)))
    assert refused(path) == (
        f"{str(path)!r} has 4 images and {str(labels)!r} an array of shape (5,); expected 4 classes"
    )
    assert refused(labels) == f"{str(labels)!r} has 5 classes and no images; give the file of the images"
    labels.write_bytes(b"text")
    assert refused(path) == f"{str(labels)!r} is not an IDX file; expected two zeros and a type at its beginning"
    (tmp_path / "b-images-idx3-ubyte").write_bytes(idx(PIXELS))
    assert refused(tmp_path) == (
        f"the folder {str(tmp_path)!r} has several IDX files of images; give one: {path} and "
        f"{tmp_path / 'b-images-idx3-ubyte'}"
    )
    path.write_bytes(idx(PIXELS[0]))
    assert refused(path) == f"{str(path)!r} has an array of 2 axes; expected images, of 3 or 4 axes"


# NPZ and NPY


@pytest.mark.parametrize("values", [COLOURS, np.moveaxis(COLOURS, 3, 1), COLOURS / 255.0])
def test_npz_of_any_layout_and_range(tmp_path, values):
    np.savez_compressed(tmp_path / "a.npz", images=values, labels=np.array(["cat", "dog", "cat"]))
    images = read_images(str(tmp_path / "a.npz"))
    np.testing.assert_allclose(unit(images.pixels), COLOURS / 255, atol=1e-6)
    assert images.labels == ("cat", "dog", "cat")


def test_npz_names_the_images_and_finds_the_classes(tmp_path):
    np.savez(tmp_path / "a.npz", arr_0=PIXELS, arr_1=np.array([[7], [0], [7], [1]]), names=["a", "b", "c", "d"])
    images = read_images(str(tmp_path / "a.npz"))
    assert images.names == ("a", "b", "c", "d")
    assert images.labels == ("7", "0", "7", "1")


def test_npz_with_several_parts(tmp_path):
    path = tmp_path / "mnist.npz"
    np.savez(path, x_train=PIXELS, y_train=np.arange(4), x_test=PIXELS[:2], y_test=np.array([8, 9]))
    assert read_images(f"{path}:x_test").labels == ("8", "9")
    assert read_images(f"{path}:x_train").labels == ("0", "1", "2", "3")
    assert refused(path) == (
        f"{str(path)!r} has several arrays that may be images: 'x_train' (4, 6, 5), 'y_train' (4,), 'x_test' (2, 6, 5) "
        "and 'y_test' (2,); choose one: mnist.npz:x_train or mnist.npz:x_test"
    )
    assert refused(f"{path}:x_tset").startswith(f"{str(path)!r} has no array 'x_tset'. Did you mean 'x_test'? It has")
    assert refused(f"{path}:y_test") == (
        f"'y_test' in {str(path)!r} has shape (2,); expected numbers, 3 or 4 axes of images"
    )


class Unpickled(Exception):
    pass


class Trap:
    def __reduce__(self):
        return exec, ("raise __import__('tests').Unpickled",)


@pytest.mark.parametrize("which", ["images", "labels", "names"])
def test_objects_in_npz_are_never_unpickled(tmp_path, which, monkeypatch):
    def unpickle(*args, **options):
        raise Unpickled

    arrays = {"images": PIXELS, "labels": np.arange(4), which: np.array([Trap()] * 4, object)}
    np.savez(tmp_path / "a.npz", **arrays)
    monkeypatch.setattr(pickle, "load", unpickle)
    assert refused(tmp_path / "a.npz") == (
        f"{which!r} in {str(tmp_path / 'a.npz')!r} has Python objects, which are not unpickled; save numbers or texts "
        "(array.astype(str))"
    )


def test_npz_mistakes(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=PIXELS, labels=np.arange(3))
    assert refused(path) == f"{str(path)!r} has 4 images and 'labels' of shape (3,); expected 4 classes"
    np.savez(path, images=PIXELS, first=np.arange(4), second=np.arange(4))
    assert refused(path).endswith("'first' (4,) and 'second' (4,); call that of the classes 'labels'")
    np.savez(path, values=np.arange(4))
    assert refused(path) == f"{str(path)!r} has 'values' (4,); expected images, an array of 3 or 4 axes"
    np.savez(path, images=np.zeros((2, 4, 4, 2)))
    assert refused(path) == (
        f"{str(path)!r} has images of shape (4, 4, 2); expected 1 channel (grey), 3 (red, green, blue) or 4 (and "
        "opacity)"
    )
    np.savez(path, images=np.full((2, 4, 4), -1.0))
    assert refused(path) == f"{str(path)!r} has pixels from -1 to -1; expected 0 to 1"
    np.savez(path, images=np.full((2, 4, 4), np.nan))
    assert refused(path) == f"{str(path)!r} has a pixel that is not a finite number; expected 0 to 255"
    np.savez(path, images=PIXELS)
    path.write_bytes(path.read_bytes()[:-30])
    assert (
        refused(path) == f"{str(path)!r} is not a complete NPZ file (File is not a zip file); copy or download it again"
    )


def test_a_size_that_a_header_claims_is_not_believed(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"shape": (10**6, 10**6, 9), "fortran_order": False, "descr": "|u1"})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", buffer.getvalue())
    assert "it has 0 bytes of numbers, and its header says 9,000,000,000,000" in refused(tmp_path / "a.npz")


def test_npy_of_one_coloured_image(tmp_path):
    np.save(tmp_path / "a.npy", COLOURS[0])
    assert np.array_equal(read_images(str(tmp_path / "a.npy")).pixels, COLOURS[:1])


# CSV


def table(path, rows, header=None):
    out = io.StringIO()
    csv.writer(out).writerows([*([header] if header else []), *rows])
    path.write_bytes(
        gzip.compress(out.getvalue().encode(), mtime=0) if path.suffix == ".gz" else out.getvalue().encode()
    )


DIGITS = np.random.default_rng(2).integers(0, 17, (5, 9))
DIGITS[:, 0], DIGITS[0, 8], DIGITS[1, 8], DIGITS[2, 8] = 0, 16, 3, 0  # a corner that is always the same


@pytest.mark.parametrize(
    ("rows", "header", "column"),
    [
        (np.c_[DIGITS, range(5)], None, "last"),
        (np.c_[range(5), DIGITS[:, ::-1]][:, [0, *range(9, 0, -1)]], None, "last"),
        (np.c_[range(5), DIGITS], ["label", *(f"p{i}" for i in range(9))], "label"),
        (np.c_[DIGITS, range(5)], [*(f"p{i}" for i in range(9)), "Class"], "Class"),
    ],
)
def test_csv_with_the_class_in_a_column(tmp_path, rows, header, column):
    table(tmp_path / "digits.csv.gz", rows.tolist(), header)
    first = column == "last" and rows[0, 1] == 0 and rows[1, 0] == 1
    images = read_images(str(tmp_path / "digits.csv.gz"), label_column="first" if first else "")
    assert images.white == 16
    np.testing.assert_allclose(images.pixels[..., 0], DIGITS.reshape(5, 3, 3) / 16)
    assert images.labels == ("0", "1", "2", "3", "4")
    assert images.names[0] == f"digits.csv.gz, line {2 if header else 1}"
    assert images.label_column == ("first" if first else column)


def test_csv_whose_first_column_varies_and_last_does_not_has_the_class_first(tmp_path):
    table(tmp_path / "a.csv", np.c_[range(5), DIGITS[:, ::-1]].tolist())
    assert read_images(str(tmp_path / "a.csv")).label_column == "first"


def test_csv_without_a_class_has_the_scale_of_the_training_file(tmp_path):
    table(tmp_path / "a.csv", [[0, 1, 1, 0]])
    assert read_images(str(tmp_path / "a.csv")).pixels.max() == 1
    images = read_images(str(tmp_path / "a.csv"), white=16, label_column="last")
    assert images.pixels.max() == np.float32(1 / 16)
    assert (images.labels, images.unlabelled) == (None, "it has no column of classes")


def test_csv_from_standard_input(monkeypatch):
    class Input:
        buffer = io.BytesIO(b"1;2;3;4;a\n255;0;0;0;b\n")

    monkeypatch.setattr(sys, "stdin", Input)
    images = read_images("-")
    assert images.labels == ("a", "b")
    assert images.pixels.dtype == np.uint8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected an IDX, NPZ or CSV file with images"),
        (b"a,b,c,d,label\n", "has a header and no rows"),
        (b"1,2,3,4,a\n1,2,3,a\n", ", line 2: 4 values; expected 5, as in line 1"),
        (b"1,2,3,4,a\n1,x,3,4,a\n", ", line 2: 'x' is not a number; expected the value of a pixel"),
        (b"1,2,3,4,a\n1,nan,3,4,a\n", ", line 2: a pixel is negative or not a finite number; expected 0 or more"),
        (b"1,2,3,4,a\n1,-2,3,4,a\n", ", line 2: a pixel is negative or not a finite number; expected 0 or more"),
        (b"1,2,3,4,a\n1,2,3,4, \n", ", line 2: the class is empty"),
        (
            b"1,2,3,4,5,6,7,a\n",
            ", line 1: 8 columns; expected the pixels of a square image, grey or red, green and blue, and a class in "
            "the first or last column",
        ),
        (b"\xff\xfe\x00", "is of no known kind; expected an IDX, NPZ or CSV file with images"),
    ],
)
def test_csv_mistakes(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    told = refused(path)
    assert told.startswith(repr(str(path)))
    assert message in told


def test_csv_columns_that_are_not_there(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b,c,d,kind\n1,2,3,4,x\n")
    assert refused(path, label_column="knd") == (
        f"{str(path)!r} has no column 'knd'. Did you mean 'kind'? It has a, b, c, d and kind"
    )
    path.write_text("1,2,3,4,x\n")
    assert refused(path, label_column="kind") == (
        f"{str(path)!r} has no header, so there is no column 'kind'; expected label_column=first or label_column=last"
    )


# Pictures


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def test_a_folder_of_pictures_for_each_class(tmp_path):
    for i, kind in enumerate(["cat", "cat", "dog"]):
        save(tmp_path / kind / "some" / f"{i}.png", COLOURS[i])
    (tmp_path / "dog" / "notes.txt").write_text("left out")
    for hidden in (".DS_Store", "._2.png"):
        (tmp_path / "dog" / hidden).write_bytes(b"\0")
    images = read_images(str(tmp_path))
    assert np.array_equal(images.pixels, COLOURS)
    assert images.labels == ("cat", "cat", "dog")
    assert images.names == ("cat/some/0.png", "cat/some/1.png", "dog/some/2.png")
    assert images.notices == (
        f"of the folder {str(tmp_path)!r}, 3 pictures read, left out: {tmp_path / 'dog' / 'notes.txt'}",
    )
    assert is_images(str(tmp_path))


def test_pictures_of_all_modes_become_grey_or_coloured(tmp_path):
    grey = PIXELS[0]
    save(tmp_path / "1.png", grey)
    assert read_images(str(tmp_path / "1.png")).shape == (6, 5, 1)
    save(tmp_path / "2.png", np.dstack([grey] * 3))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "3.png")
    see_through = np.dstack([grey] * 3 + [np.zeros_like(grey)])
    save(tmp_path / "4.png", see_through)
    Image.fromarray(np.dstack([grey] * 3)).convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(
        tmp_path / "5.gif"
    )
    images = read_images(str(tmp_path))
    assert images.labels is None
    assert images.unlabelled == "it has no folder for each class"
    for i in (0, 1, 2, 4):
        assert np.array_equal(images.pixels[i], np.dstack([grey] * 3)), i
    assert (images.pixels[3] == 255).all()


def test_pictures_one_at_a_time_are_those_of_the_folder(tmp_path):
    save(tmp_path / "a" / "1.png", PIXELS[0])
    save(tmp_path / "a" / "2.png", np.dstack([PIXELS[1]] * 3))
    save(tmp_path / "b" / "3.png", COLOURS[0].repeat(2, 0)[:6].repeat(2, 1)[:, :5])
    for channels in (1, 3):
        together = read_images(str(tmp_path), shape=(6, 5, channels))
        one_by_one = [*each_image(str(tmp_path), shape=(6, 5, channels), white=255)]
        assert [name for name, _ in one_by_one] == list(together.names)
        assert np.array_equal([pixels for _, pixels in one_by_one], together.pixels)
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "images-idx3-ubyte").write_bytes(idx(PIXELS))
    assert len([*each_image(str(tmp_path / "idx"), shape=(6, 5, 1), white=255)]) == 4


def test_a_picture_as_the_network_takes_it(tmp_path):
    path = tmp_path / "a.png"
    save(path, np.dstack([PIXELS[0]] * 3))
    images = read_images(str(path), shape=(6, 5, 1))
    assert images.names == ("a.png",)
    assert np.array_equal(images.pixels[0, ..., 0], PIXELS[0])
    save(path, PIXELS[0])
    assert np.array_equal(read_images(str(path), shape=(6, 5, 3)).pixels[0], np.dstack([PIXELS[0]] * 3))
    assert read_images(str(path), size=3).shape == (3, 3, 1)
    assert refused(path, shape=(8, 8, 1)) == (
        f"{str(path)!r} has images of 6x5; expected 8x8 (height x width), as the network was trained on: scale them, "
        "or set --task-option image_size=8"
    )


def test_picture_mistakes(tmp_path):
    path = tmp_path / "x" / "a.png"
    save(path, COLOURS[0])
    path.write_bytes(path.read_bytes()[:60])
    assert refused(path).startswith(f"{str(path)!r} cannot be read as a picture (")
    save(path, COLOURS[0])
    save(tmp_path / "x" / "b.png", PIXELS[0])
    assert refused(tmp_path) == (
        f"the folder {str(tmp_path)!r}: {str(tmp_path / 'x' / 'b.png')!r} is 6x5 and {str(path)!r} 4x4 (height x "
        "width); expected one size: scale them, or set --task-option image_size=64"
    )
    save(tmp_path / "c.png", PIXELS[0])
    assert refused(tmp_path) == (
        f"the folder {str(tmp_path)!r} has pictures (c.png) beside the folders of classes (x); move them into one of "
        "these"
    )
    os.mkdir(tmp_path / "empty")
    assert refused(tmp_path / "empty") == (
        f"there is no picture in the folder {str(tmp_path / 'empty')!r}; expected files ending in .png, .jpg, .jpeg, "
        ".bmp, .gif and .webp"
    )
    assert refused(tmp_path / "d.png") == f"{str(tmp_path / 'd.png')!r} cannot be read: no such file or directory"


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    save(tmp_path / "a.png", PIXELS[0])
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert refused(tmp_path / "a.png") == (
        f"{str(tmp_path / 'a.png')!r} needs the library Pillow: pip install 'rnn-lab[images]'"
    )


# Arrays, and all


def test_arrays_from_python():
    assert np.array_equal(as_image(PIXELS[0], shape=(6, 5, 1))[..., 0], PIXELS[0])
    np.testing.assert_allclose(unit(as_image(PIXELS[0] / 255, shape=(6, 5, 1)))[..., 0], PIXELS[0] / 255, atol=1e-6)
    assert as_image(np.full((2, 2), 8), shape=(2, 2, 1), white=16).max() == 0.5
    with pytest.raises(UserError) as caught:
        as_image(np.zeros(3), shape=(6, 5, 1))
    assert str(caught.value) == (
        "the array has shape (3,) and dtype float64; expected numbers, (height, width) or (height, width, channels)"
    )


def test_the_digest_is_that_of_pixels_and_classes(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=np.arange(4))
    np.savez_compressed(tmp_path / "b.npz", images=PIXELS, labels=np.arange(4))
    np.savez(tmp_path / "c.npz", images=PIXELS, labels=np.arange(1, 5))
    a, b, c = (read_images(str(tmp_path / name)).digest for name in ("a.npz", "b.npz", "c.npz"))
    assert a == b != c


def test_names_that_are_images():
    for name in ("a.png", "A.JPG", "t10k-images-idx3-ubyte.gz", "x.npz", "x.npz:y"):
        assert is_images(name)
    for name in ("a.tsv", "a.csv.gz", "a.txt"):
        assert not is_images(name)


@pytest.mark.parametrize("kind", ["idx", "npz", "npy", "csv", "png", "gz"])
def test_damaged_files_are_refused_in_a_sentence(tmp_path, kind):
    """A thousand files with bytes changed, cut off or repeated: read, or refused with a UserError, without warnings."""
    path = tmp_path / "a"
    buffer = io.BytesIO()
    if kind == "npz":
        np.savez_compressed(buffer, images=PIXELS, labels=np.arange(4))
    elif kind == "npy":
        np.save(buffer, PIXELS)
    elif kind == "png":
        Image.fromarray(COLOURS[0]).save(buffer, "png")
    elif kind == "csv":
        buffer.write(b"1,2,3,4,a\n255,0,0,0,b\n1.5,2,3,4,a\n")
    else:
        buffer.write(idx(PIXELS) if kind == "idx" else gzip.compress(idx(PIXELS), mtime=0))
    good, rng, refusals = buffer.getvalue(), np.random.default_rng(0), 0
    for _ in range(1000 if kind != "npz" else 400):
        content = bytearray(good)
        for at in rng.integers(0, len(good), rng.integers(1, 4)).tolist():
            content[at] = int(rng.integers(0, 256))
        start, stop = sorted(rng.integers(0, len(good), 2).tolist())
        choice = rng.integers(0, 4)
        content = content[:stop] if choice == 1 else content[:start] + content[stop:] if choice == 2 else content
        path.write_bytes(bytes(content))
        try:
            read_images(str(path))
        except UserError:
            refusals += 1
    assert refusals > 100


data = os.environ.get("RNN_LAB_DATA")


@pytest.mark.skipif(not data, reason="RNN_LAB_DATA names no folder with real data")
def test_real_files():
    folder = Path(str(data))
    digits = read_images(str(folder / "digits.csv.gz"))
    assert (len(digits), digits.shape, len(set(digits.labels or ()))) == (1797, (8, 8, 1), 10)
    test = read_images(str(folder / "mnist" / "t10k-images-idx3-ubyte.gz"))
    assert (len(test), test.shape, (test.labels or ())[:3]) == (10000, (28, 28, 1), ("7", "2", "1"))
    emoji = read_images(str(folder / "emoji" / "images_32x32_rgb.npz"))
    assert (len(emoji), emoji.shape, emoji.labels) == (1377, (32, 32, 3), None)


@pytest.mark.parametrize(("side", "options", "told"), [(129, {}, True), (128, {}, False), (129, {"size": 64}, False)])
def test_large_pictures_that_are_not_scaled_are_told(tmp_path, side, options, told):
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("L", (40, side)).save(tmp_path / name)
    sentence = (
        f"the pictures of the folder {str(tmp_path)!r} are 129x40: they have 1.3 times as many numbers as pictures of "
        "64x64, which takes time and memory; --task-option image_size=64 scales them"
    )
    assert read_images(str(tmp_path), **options).notices == ((sentence,) if told else ())
    if told:
        assert read_images(str(tmp_path), shape=(129, 40, 1)).notices == ()

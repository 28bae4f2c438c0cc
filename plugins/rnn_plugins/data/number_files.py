"""Read pictures of numbers: images of single digits, pictures with a table, or layouts and glyphs of house numbers."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.data.captions import TABLES, Columns, read_captions
from rnn_plugins.data.house_numbers import COLUMNS, as_glyphs, flaw_of, read_layouts, seven_segments
from rnn_plugins.data.images import Images, are_pictures, fitted, is_images, read_images, unzipped
from rnn_plugins.data.lines import lines
from rnn_plugins.data.numbered import Drawn, Numbers, Stored
from rnn_plugins.data.pixels import size_of
from rnn_plugins.data.sources import is_hidden, is_pipe
from rnn_plugins.data.splits import split
from rnn_plugins.errors import UserError, did_you_mean
from rnn_plugins.words import amount, is_number, is_whole, listing

if TYPE_CHECKING:
    from rnn_plugins.tasks.task import Purpose

Array: TypeAlias = NDArray[Any]

COUNT = 20_000
"""The number of training pictures of ``builtin:numbers``."""

MOST_HELD_OUT = 2000
"""Held-out pictures of ``builtin:numbers`` at most: more would take longer to draw than they add."""

SIDE, BUILTIN_SIDE = 54, 40
"""Height and width of house numbers by default, as in Goodfellow et al. (2014), and of those of ``builtin:numbers``."""

STYLES = 20
"""Glyphs of each digit of ``builtin:numbers``."""

HELD_OUT, EVALUATED = 3, 10
"""How often a held-out layout is drawn, each time with other glyphs: during training, and when a run is evaluated."""

BUILTINS = ("numbers", "digits")

DIGITS = set("0123456789")


@dataclass(frozen=True)
class Reading:
    """How files are read.

    Attributes:
        valid_fraction: the share that is held out: of images, and of layouts.
        image_size: height and width of drawn house numbers (0: 54, of ``builtin:numbers`` 40), and those to which
            pictures are scaled (0: as they are).
        colour: whether house numbers are drawn in colour.
        text_column: of a table of pictures: the number.
        image_column: the name of the picture.
        split_column: train, valid or test; empty for none.
        labelled: whether the numbers in pictures are needed: classes of digits, or a table.
    """

    valid_fraction: float = 0.1
    image_size: int = 0
    colour: bool = False
    text_column: str = "text"
    image_column: str = "image"
    split_column: str = ""
    labelled: bool = True


def read_numbers(
    files: Sequence[str],
    how: Reading,
    *,
    digest: Any,
    purpose: Purpose = "train",
    shape: Sequence[int] | None = None,
    white: int | None = None,
) -> Numbers:
    """Read pictures of numbers.

    Files are ``builtin:numbers``, ``builtin:numbers:COUNT`` or ``builtin:numbers:COUNT:SEED``; ``builtin:digits``;
    images of digits with their classes, as ``read_images`` takes them, or a folder with MNIST's files; a table of
    layouts and images of digits, from which house numbers are drawn; pictures and a table of their numbers. No glyph
    and no layout is in both parts.

    Args:
        files: as the user names them.
        how: the options.
        digest: takes the content.
        purpose: as for ``Task.read``; "evaluate" puts all into ``valid``, or the test part where there is one.
        shape: height, width and channels that a network takes; None for those of the files.
        white: as for ``read_images``.

    Raises:
        UserError: something cannot be read, or does not fit: the file, what was expected.
    """
    if not files:
        raise UserError("there are no pictures: name FILES, or builtin:numbers or builtin:digits")
    if drawn := [file for file in files if parse(file) is not None]:
        if len(files) > 1:
            raise UserError(f"{drawn[0]!r} is a set of pictures of its own; give no other file with it")
        return _generated(drawn[0], how, digest, purpose, shape)
    tables = [file for file in files if is_table(file, how.text_column, how.image_column)]
    if layouts := [file for file in tables if _is_layouts(file)]:
        images = [file for file in files if file not in layouts]
        return _house_numbers(layouts, images, how, digest, purpose, shape)
    if tables and not how.labelled:
        raise UserError(f"{tables[0]!r} is a table of pictures; give the pictures themselves, or their folder")
    if tables or (how.labelled and any(map(_has_table, files))):
        return _from_table(files, how, digest, purpose, shape, white)
    return _images(files, how, digest, purpose, shape, white)


def pictures(
    file: str, *, shape: Sequence[int], white: int | None, size: int, whole: Sequence[int] | None = None
) -> Iterator[tuple[str, Array]]:
    """The names and pixels of images, as a network takes them; of generated numbers, held-out ones.

    Args:
        file: as the user names it.
        shape: height, width and channels.
        white: as for ``read_images``.
        size: the height and width that pictures are scaled to; 0 leaves them as they are.
        whole: another shape that they may have.

    Raises:
        UserError: as ``read_images``.
    """
    if parse(file) is not None:
        found = _generated(file, Reading(), hashlib.sha256(), "evaluate", shape).valid
        yield from ((example.name, example.pixels()) for example in found)
        return
    images = _images_of(file, "evaluate", None, white, size, [])
    if whole and images.shape[:2] == tuple(whole[:2]):
        shape = whole
    yield from zip(images.names, fitted(images.pixels, shape, repr(file), scalable=are_pictures(images)), strict=True)


def is_table(file: str, text_column: str = "text", image_column: str = "image") -> bool:
    """Whether a file is a table of layouts or of pictures, and not one of pixels, by its first line.

    A pipe, whose first line can be read only once, is none.
    """
    name = file.lower().removesuffix(".gz")
    if not name.endswith((".tab", *TABLES)) or file.startswith("builtin:") or os.path.isdir(file) or is_pipe(file):
        return False
    if name.endswith(".jsonl") or text_column.isdecimal() or image_column.isdecimal():
        return True
    fields = [field.strip(' "') for field in re.split("[,;\t]", next(lines(file), ""))]
    if name.endswith(".csv"):
        return not {COLUMNS[1], text_column, image_column}.isdisjoint(fields)
    return not all(map(is_number, fields))


def parse(name: str) -> tuple[int, int] | None:
    """Count and seed of ``builtin:numbers``, ``builtin:numbers:COUNT`` or ``builtin:numbers:COUNT:SEED``; else None.

    Raises:
        UserError: a number is none, or out of range.
    """
    kind, *numbers = name.removeprefix("builtin:").split(":")
    if not name.startswith("builtin:") or kind != "numbers":
        return None
    if len(numbers) > 2 or not all(map(is_whole, numbers)) or (numbers and not int(numbers[0])):
        raise UserError(
            f"{name!r} is not understood; it takes builtin:numbers, builtin:numbers:COUNT or "
            "builtin:numbers:COUNT:SEED, such as builtin:numbers:20000"
        )
    count, seed = [*map(int, numbers), *(COUNT, 0)[len(numbers) :]]
    return count, seed


def _generated(file: str, how: Reading, digest: Any, purpose: Purpose, shape: Sequence[int] | None) -> Numbers:
    count, seed = parse(file) or (COUNT, 0)
    digest.update(file.encode())
    height, width, channels = tuple(shape or _shape(how, BUILTIN_SIDE))
    held_out = min(round(count * how.valid_fraction), MOST_HELD_OUT)
    counts = (0, count) if purpose == "evaluate" else (count, held_out)
    glyphs = [seven_segments(STYLES, np.random.default_rng((seed, part))) for part in range(2)]
    train, valid = (
        Drawn(None, glyphs[part], (height, width, channels), size, (seed, part), file)
        for part, size in enumerate(counts)
    )
    about = f"house numbers of {height}x{width} in seven segments"
    return Numbers(train, valid, (height, width, channels), about=about)


def _shape(how: Reading, side: int) -> tuple[int, int, int]:
    return how.image_size or side, how.image_size or side, 3 if how.colour else 1


# House numbers


def _is_layouts(table: str) -> bool:
    return COLUMNS[1] in next(lines(table), "")


def _house_numbers(
    tables: Sequence[str],
    files: Sequence[str],
    how: Reading,
    digest: Any,
    purpose: Purpose,
    shape: Sequence[int] | None,
) -> Numbers:
    if not files:
        raise UserError(
            f"{tables[0]!r} has layouts and no digits; name images of digits too: a folder with MNIST's files, or "
            "builtin:digits"
        )
    notices: list[str] = []
    layouts = [layout for table in tables for layout in read_layouts(table, digest)]
    images = _read(files, digest, purpose, notices, "house numbers are drawn with images of digits")
    labels = images.labels or ()
    of_layouts = list(split([len(layout.text) for layout in layouts], how.valid_fraction))
    if purpose == "evaluate":
        of_layouts = [of_layouts[0][:0], of_layouts[1] if how.valid_fraction else of_layouts[0]]
        of_glyphs, times = (np.arange(0), np.arange(len(labels))), EVALUATED
        which = f"of {amount(len(layouts), 'layout')}, the {len(of_layouts[1]):,} that training holds out"
        if not how.valid_fraction:
            which = f"all {amount(len(layouts), 'layout')}, which training draws too,"
        notices.append(f"{which} are drawn, {times} times each")
    else:
        of_glyphs, times = split(labels, how.valid_fraction), HELD_OUT
    needed = sorted({digit for layout in layouts for digit in layout.text})
    shape = tuple(shape or _shape(how, SIDE))
    parts = []
    for part, (some, places) in enumerate(zip(of_layouts, of_glyphs, strict=True)):
        glyphs = as_glyphs(images.pixels[places], [labels[i] for i in places]) if len(places) else {}
        missing = [digit for digit in needed if digit not in glyphs]
        if len(some) and missing:
            raise UserError(
                f"there is no image of the digit {missing[0]} {'to hold out' if part else 'to train on'} in "
                f"{listing(map(repr, files))}; house numbers are drawn with images of each digit"
            )
        mine = [layouts[i] for i in some]
        label = os.path.basename(tables[0])
        parts.append(Drawn(mine, glyphs, shape, len(mine) * (times if part else 1), (0, part), label))
    about = (
        f"house numbers of {size_of(shape)} drawn from {amount(len(layouts), 'layout')} and "
        f"{amount(len(labels), 'image')} of digits"
    )
    height, width, channels = tuple(shape)
    return Numbers(parts[0], parts[1], (height, width, channels), 255, about, tuple(notices))


# Pictures from files


def _has_table(folder: str) -> bool:
    """Whether a folder has pictures and a table beside them."""
    names = [name.lower() for name in _names(folder)]
    return any(name.removesuffix(".gz").endswith(TABLES) for name in names) and is_images(folder)


def _names(folder: str) -> list[str]:
    """The names in a folder; none if it is not one, or cannot be read, which is reported where it is read."""
    try:
        return sorted(name for name in os.listdir(folder) if not is_hidden(name))
    except OSError:
        return []


def _from_table(
    files: Sequence[str],
    how: Reading,
    digest: Any,
    purpose: Purpose,
    shape: Sequence[int] | None,
    white: int | None,
) -> Numbers:
    columns = Columns(how.text_column, how.image_column, how.split_column, "", noun="text")
    found = read_captions(files, columns, digest=digest, shape=shape, white=white, size=how.image_size)
    known = set[str]()
    for example in found.examples:
        if flaw := flaw_of(example.caption):
            raise UserError(f"{example.where}: the number of {example.image!r} {flaw}")
        if example.image in known:
            raise UserError(
                f"{example.where}: {example.image!r} is in the table twice; expected one row for each picture"
            )
        known.add(example.image)
    places: dict[str, list[int]] = {part: [] for part in ("train", "valid", "test", "")}
    for i, example in enumerate(found.examples):
        places[example.part].append(i)
    if purpose == "evaluate":
        places = {"train": [], "valid": places["test"] or places["valid"] or list(range(len(found.examples)))}
        if len(places["valid"]) < len(found.examples):
            digest.update(b"a part")  # these are not the data of a run that was trained on the same files
    else:
        if places[""]:
            for part, some in zip(("train", "valid"), split(len(places[""]), how.valid_fraction), strict=True):
                places[part] += [places[""][i] for i in some]
        if places["test"]:
            found.notices.append(f"left out: {amount(len(places['test']), 'picture')} of the part 'test'")
    images = [example.pixels for example in found.examples]
    texts, names = [example.caption for example in found.examples], [example.image for example in found.examples]
    train, valid = Stored(images, texts, names, places["train"]), Stored(images, texts, names, places["valid"])
    height, width, channels = images[0].shape
    about = f"{amount(len(images), 'picture')} of {height}x{width} with numbers"
    return Numbers(train, valid, (height, width, channels), found.white, about, tuple(found.notices))


def _images(
    files: Sequence[str],
    how: Reading,
    digest: Any,
    purpose: Purpose,
    shape: Sequence[int] | None,
    white: int | None,
) -> Numbers:
    notices: list[str] = []
    need = (
        f"the number in each is needed: a folder for each digit, or a table with the columns {how.image_column} and "
        f"{how.text_column}"
        if how.labelled
        else ""
    )
    images = _read(files, digest, purpose, notices, need, shape, white, how.image_size)
    if purpose == "evaluate":
        places: Any = np.arange(0), np.arange(len(images))
    else:
        places = split(images.labels or len(images), how.valid_fraction)
    train, valid = [Stored(images.pixels, images.labels or (), images.names, some) for some in places]
    about = f"{amount(len(images), 'image')} of {size_of(images.shape)}"
    return Numbers(train, valid, images.shape, images.white, about, tuple(notices))


def _read(
    files: Sequence[str],
    digest: Any,
    purpose: Purpose,
    notices: list[str],
    need: str,
    shape: Sequence[int] | None = None,
    white: int | None = None,
    size: int = 0,
) -> Images:
    """The images of all files together; ``need`` says why they need classes, which are then digits."""
    found: list[Images] = []
    for file in files:
        some = _images_of(file, purpose, shape, white, size, notices)
        if need and some.labels is None:
            raise UserError(f"{file!r} has images without classes ({some.unlabelled or 'a picture has none'}); {need}")
        if need and (wrong := set(some.labels or ()) - DIGITS):
            raise UserError(f"{file!r} has images of the class {min(wrong)[:40]!r}; expected the digits 0 to 9")
        if found and some.shape != found[0].shape:
            raise UserError(
                f"{file!r} has images of shape {some.shape} and {files[0]!r} of shape {found[0].shape}; expected one "
                "height, width and number of channels"
            )
        digest.update(some.digest.encode())
        notices += some.notices
        found.append(some)
    if len(found) == 1:
        return found[0]
    labels = [some.labels for some in found]
    return replace(
        found[0],
        pixels=np.concatenate([some.pixels for some in found]),
        labels=None if None in labels else tuple(label for some in labels for label in some or ()),
        names=tuple(f"{file}: {name}" for file, some in zip(files, found, strict=True) for name in some.names),
    )


def _images_of(
    file: str, purpose: Purpose, shape: Sequence[int] | None, white: int | None, size: int, notices: list[str]
) -> Images:
    """Images with their classes; of a folder with MNIST's files those for training, or for testing."""
    if file.startswith("builtin:"):
        if file != "builtin:digits":
            kind = file.removeprefix("builtin:").partition(":")[0]
            raise UserError(
                f"there are no pictures in {file!r}.{did_you_mean(kind, BUILTINS)} There are builtin:numbers and "
                "builtin:digits"
            )
        images = _digits()
        return images if shape is None else replace(images, pixels=fitted(images.pixels, shape, repr(file)))
    if parts := _mnist(file):
        train, test = parts
        if purpose != "evaluate":
            notices.append(f"{test!r} is left out; rnn eval RUN {shlex.quote(file)} reads it")
        file = test if purpose == "evaluate" else train
    return read_images(file, shape=shape, white=white, size=size)


def _mnist(folder: str) -> tuple[str, str] | None:
    """The images for training and for testing in a folder that has two IDX files of images with MNIST's names."""
    names = unzipped(name for name in _names(folder) if re.search("images.*idx[34]", name))
    train, test = ([name for name in names if re.match(kind, name, re.I)] for kind in ("train", "t10k|test"))
    if len(names) == 2 and train and test:
        return os.path.join(folder, train[0]), os.path.join(folder, test[0])
    return None


def _digits() -> Images:
    """The 8x8 digits that scikit-learn ships (Alpaydin and Kaynak 1998), 1,797 of them."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("builtin:digits needs the library scikit-learn: pip install 'rnn-lab[metrics]'") from None
    found = load_digits()
    labels = tuple(map(str, found.target.tolist()))
    names = tuple(f"builtin:digits[{i}]" for i in range(len(labels)))
    return Images((found.images[..., None] / 16).astype(np.float32), labels, names, white=16)

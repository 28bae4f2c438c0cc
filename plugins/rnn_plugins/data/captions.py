"""Images with captions: files of images and tables that belong to them, or generated scenes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.data.images import (
    PICTURES,
    Images,
    common_white,
    each_image,
    fitted,
    is_images,
    large,
    read_images,
)
from rnn_plugins.data.scenes import parse, scenes
from rnn_plugins.data.sources import is_hidden
from rnn_plugins.data.tables import Record, records
from rnn_plugins.errors import UserError, did_you_mean
from rnn_plugins.words import amount, listing

Array: TypeAlias = NDArray[Any]

Part = Literal["train", "valid", "test", ""]

PARTS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
}
"""What a column of parts may say."""

TABLES = (".tsv", ".csv", ".jsonl")
"""Endings of tables, looked for in a folder of pictures."""

_NOTHING = np.empty(0)  # pixels that are not read yet

HELD_OUT = 10
"""One held-out scene for so many training scenes."""


class Captioned(NamedTuple):
    """An image and one of its captions.

    Attributes:
        pixels: (H, W, C), as in ``Images.pixels``.
        caption: the text.
        image: the image's name; several captions of one image have the same.
        group: what kind of image it is; empty if unknown.
        part: the part of the data that it belongs to; empty if the files do not say.
        where: file and line of the caption, for messages; empty if it was generated.
    """

    pixels: Array
    caption: str
    image: str
    group: str = ""
    part: Part = ""
    where: str = ""


@dataclass
class Captions:
    """What was read.

    Attributes:
        examples: the images with their captions, all of one shape.
        white: the largest value of a pixel in the files.
        notices: sentences about what was left out.
    """

    examples: list[Captioned]
    white: int = 255
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Columns:
    """The columns of the tables.

    Attributes:
        caption: the caption.
        image: the image's name; if a table has no such column, its rows are in the order of the images.
        part: the part of the data; empty for none.
        group: the group of the image, if the table has such a column; empty for none.
        noun: what a caption is called in messages; the option that names its column is ``NOUN_column``.
    """

    caption: str = "caption"
    image: str = "image"
    part: str = ""
    group: str = "group"
    noun: str = "caption"

    @property
    def usual(self) -> bool:
        """Whether the user has named neither captions nor images, so that a table may be without a header."""
        return (self.caption, self.image) == (self.noun, Columns.image)


def read_captions(
    files: Sequence[str],
    columns: Columns,
    *,
    digest: Any,
    shape: Sequence[int] | None = None,
    white: int | None = None,
    size: int = 0,
) -> Captions:
    """Read images and their captions.

    A file or folder of images goes with the table beside it in ``files``; a folder may have its table in it, and the
    pictures that a table alone names are in its own folder. ``builtin:scenes`` generates both.

    Args:
        files: as the user names them.
        columns: of the tables.
        digest: takes the content.
        shape: the height, width and channels that a network takes, None for those of the files.
        white: as for ``read_images``.
        size: likewise.

    Raises:
        UserError: something cannot be read, an image has no caption or a caption no image, or an image has another
            size, or a file other pixels: the file, the line, what was expected.
    """
    found, sources, scales = Captions([], white or 255), dict[str, str](), dict[str, int | None]()
    for images, table in _paired(files, columns.noun):
        if (generated := parse(images)) is not None:
            count, seed = generated
            examples = list(_scenes(count, seed))
            digest.update(images.encode())
        elif os.path.isdir(images):
            examples = list(_of_folder(images, table, columns, digest, size, found.notices))
            if examples and shape is None:
                found.notices += large(images, examples[0].pixels.shape, size)
        else:
            some = read_images(images, white=white, size=size)
            scales[images] = some.scale
            found.notices += some.notices
            digest.update(some.digest.encode())
            examples = _of_file(some, images, table, columns, digest)
        if {sources.setdefault(example.image, images) for example in examples} - {images}:
            examples = [example._replace(image=f"{images}: {example.image}") for example in examples]
        found.examples += examples
    if scales and white is None:
        found.white = common_white(scales)
    if not found.examples:
        raise UserError(f"there are no {columns.noun}s in {listing(map(repr, files))}; expected one row for each image")
    channels = max(example.pixels.shape[2] for example in found.examples)
    first = found.examples[0]
    wanted = tuple(shape or (*first.pixels.shape[:2], channels))
    for i, example in enumerate(found.examples):
        if example.pixels.shape != wanted:
            label = repr(example.image)
            if shape is None and example.pixels.shape[:2] != wanted[:2]:
                height, width = example.pixels.shape[:2]
                raise UserError(
                    f"{label} is {height}x{width} and {first.image!r} {wanted[0]}x{wanted[1]} (height x width); "
                    "expected one size: scale them, or set --task-option image_size=64"
                )
            scalable = example.image.lower().endswith(PICTURES)
            found.examples[i] = example._replace(
                pixels=fitted(example.pixels[None], wanted, label, scalable=scalable)[0]
            )
    return found


def pictures(file: str, *, shape: Sequence[int], white: int | None, size: int) -> Iterator[tuple[str, Array]]:
    """The names and pixels of images, as a network takes them; of ``builtin:scenes``, held-out ones.

    Raises:
        UserError: as ``each_image``.
    """
    if (generated := parse(file)) is not None:
        count, seed = generated
        for i, scene in enumerate(scenes(count, seed, unseen=True)):
            yield f"{file}[{i}]", fitted(scene.pixels[None], shape, repr(file))[0]
        return
    yield from each_image(file, shape=shape, white=white, size=size)


def _scenes(count: int, seed: int) -> Iterator[Captioned]:
    for part, many, unseen in (("train", count, False), ("valid", max(1, count // HELD_OUT), True)):
        for i, scene in enumerate(scenes(many, seed, unseen=unseen)):
            yield Captioned(scene.pixels, scene.caption, f"{part}[{i}]", part=PARTS[part])


def _paired(files: Sequence[str], noun: str) -> Iterator[tuple[str, str]]:
    """Images and tables that go together, by their places."""
    waiting: tuple[str, bool] | None = None
    for file in files:
        images = file != "-" and (file.startswith("builtin:") or is_images(file) or os.path.isdir(file))
        if file.startswith("builtin:"):
            if parse(file) is None:
                raise UserError(f"there are no captions in {file!r}; there is builtin:scenes")
            yield file, ""
        elif waiting is None:
            waiting = file, images
        elif waiting[1] != images:
            yield (file, waiting[0]) if images else (waiting[0], file)
            waiting = None
        else:
            yield _alone(*waiting, noun)
            waiting = file, images
    if waiting is not None:
        yield _alone(*waiting, noun)


def _alone(file: str, images: bool, noun: str) -> tuple[str, str]:
    """A folder with the table in it, or a table whose pictures are in its folder."""
    if not images:
        return os.path.dirname(file) or ".", file
    if not os.path.isdir(file):
        raise UserError(f"{file!r} has no {noun}s; name the table of {noun}s too, such as {noun}s.tsv")
    tables = sorted(
        str(path)
        for path in Path(file).iterdir()
        if path.name.lower().removesuffix(".gz").endswith(TABLES) and not is_hidden(path.name)
    )
    if len(tables) != 1:
        there = f"there are {listing(map(repr, tables))}" if tables else "there is none"
        raise UserError(f"name the table of {noun}s of the folder {file!r}; in it, {there}")
    return file, tables[0]


def _rows(table: str, columns: Columns, digest: Any, named: bool) -> Iterator[tuple[Record, Captioned]]:
    """The rows of a table, without pixels."""
    needed = [columns.caption, *([columns.image] if named else [])]
    others = [name for name in (columns.image, columns.group, columns.part) if name and name not in needed]
    bare = ((columns.image, columns.caption) if named else (columns.caption,)) if columns.usual else ()
    named_by = {columns.image: "image_column", columns.caption: f"{columns.noun}_column"}
    for record in records(table, needed, optional=others, bare=bare, named_by=named_by, digest=digest):
        values = record.values
        caption = " ".join(values[columns.caption].split())
        if not caption:
            raise record.mistake(f"the {columns.noun} is empty; expected one for each image")
        part: Part = ""
        if columns.part in values:
            said = values[columns.part].strip().lower()
            if said not in PARTS:
                raise record.mistake(f"the column {columns.part!r} is {said[:40]!r}; expected train, valid or test")
            part = PARTS[said]
        image, group = values.get(columns.image, ""), values.get(columns.group, "").strip()
        yield record, Captioned(_NOTHING, caption, image, group, part, record.where)


def _of_file(images: Images, file: str, table: str, columns: Columns, digest: Any) -> list[Captioned]:
    """The images of a file with the rows of a table: by their names, or else in order."""
    rows = list(_rows(table, columns, digest, named=False))
    if not any(row.image for _, row in rows):
        if len(rows) != len(images):
            raise UserError(
                f"{table!r} has {amount(len(rows), 'row')} and {file!r} {amount(len(images), 'image')}; without a "
                f"column {columns.image!r}, row n is the {columns.noun} of image n, so expected {len(images):,} rows"
            )
        return [
            row._replace(pixels=pixels, image=name)
            for (_, row), pixels, name in zip(rows, images.pixels, images.names, strict=True)
        ]
    place = {str(i): i for i in range(len(images))} | {name: i for i, name in enumerate(images.names)}
    examples = []
    for record, row in rows:
        if row.image not in place:
            raise record.mistake(f"{file!r} has no image {row.image[:40]!r}.{did_you_mean(row.image, place)}")
        examples.append(row._replace(pixels=images.pixels[place[row.image]]))
    return examples


def _of_folder(
    folder: str, table: str, columns: Columns, digest: Any, size: int, notices: list[str]
) -> Iterator[Captioned]:
    """The pictures of a folder that a table names."""
    read: dict[str, Array] = {}
    for record, row in _rows(table, columns, digest, named=True):
        name = row.image if os.path.isfile(os.path.join(folder, row.image)) else re.sub(r"#\d+$", "", row.image)
        path = os.path.join(folder, name)
        if name not in read:
            if not name or not os.path.isfile(path):
                options = [f"--task-option {columns.noun}_column=NAME"]
                if row.image.strip() != columns.image:
                    options.insert(0, "--task-option image_column=NAME")
                header = f"; if this is the header, name its columns with {' and '.join(options)}"
                raise record.mistake(
                    f"there is no picture {name[:80]!r} in the folder {folder!r}{header if record.line == 1 else ''}"
                )
            images = read_images(path, size=size)
            if len(images) != 1:
                raise record.mistake(f"{name[:80]!r} has {len(images):,} images; expected a picture")
            read[name] = images.pixels[0]
            digest.update(images.digest.encode())
        yield row._replace(pixels=read[name], image=name)
    others = (path for path in Path(folder).rglob("*") if path.is_file() and not is_hidden(path.name))
    left = sum(is_images(path.name) for path in others) - len(read)
    if left > 0:
        notices.append(
            f"{amount(left, 'picture')} in the folder {folder!r} {'has' if left == 1 else 'have'} no {columns.noun}"
        )

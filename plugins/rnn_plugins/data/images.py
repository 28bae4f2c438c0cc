"""Images with their classes, from IDX, NPZ and CSV files, folders of pictures and single pictures.

The kind of a file is told by its content, so that a name without an ending, a gzipped file and standard input are read
too. Nothing is unpickled, and no size that a file claims is believed before its bytes are counted.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import math
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.data.sources import read_bytes
from rnn_plugins.errors import UserError, did_you_mean, why
from rnn_plugins.words import amount, listing

Array = NDArray[Any]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
"""The endings of the files that a folder's pictures have."""

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
"""The same for Pillow, which opens no others."""

WHITES = (1, 16, 255, 65535)
"""The largest value that a pixel may have: the smallest of these that no value of a file exceeds."""

LABELS = ("labels", "label", "y", "targets", "target", "classes", "class", "digit")
"""What arrays in NPZ files and columns in CSV files that hold classes are called."""

NAMES = ("names", "name", "files", "file", "filenames", "filename", "ids", "id", "keys", "key")
"""What arrays in NPZ files that name the images are called."""

EXPECTED = "an IDX, NPZ or CSV file with images, a picture (PNG, JPEG, BMP, GIF, WebP), or a folder of pictures"

IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}

LUMA = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in grey (ITU-R BT.601)."""


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size.

    Attributes:
        pixels: (N, H, W, C), C is 1 or 3: uint8, or float32 in [0, 1]; see ``unit``.
        labels: the class of each; None if the file has none.
        names: of each image, for messages and records.
        white: the number in the file that became the largest value. Give it with other files for the same network.
        label_column: of a CSV file without a header, ``first`` or ``last``; else the column's name, or empty.
        unlabelled: why there are no labels, such as "there is no file 'train-labels-idx1-ubyte' beside it".
        notices: sentences about what was left out.
    """

    pixels: Array
    labels: tuple[str, ...] | None
    names: tuple[str, ...]
    white: int = 255
    label_column: str = ""
    unlabelled: str = ""
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.pixels.shape[1:]
        return height, width, channels

    @cached_property
    def digest(self) -> str:
        """SHA-256 of pixels and labels, in hexadecimal."""
        digest = hashlib.sha256(f"{self.pixels.shape} {self.pixels.dtype} {self.labels}".encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        return digest.hexdigest()


def read_images(
    path: str,
    *,
    shape: Sequence[int] | None = None,
    white: int | None = None,
    label_column: str = "",
    size: int = 0,
) -> Images:
    """Read images, and their classes if the file has them.

    An IDX file of images has its classes in a file beside it, with ``labels`` for ``images`` and ``idx1`` for ``idx3``
    in its name. An NPZ file has an array (N, H, W), (N, H, W, C) or (N, C, H, W), and one with N classes; where there
    are several, ``FILE.npz:NAME`` chooses. A row of a CSV file is a square image, with its class in a column. A folder
    has a folder for each class, or only pictures. Transparent pixels become white.

    Args:
        path: a file, possibly gzipped, a folder, or ``-`` for standard input.
        shape: the height, width and channels that a network takes. Grey and coloured images are converted into each
            other; another height or width is an error.
        white: the largest value of a pixel; by default the smallest of ``WHITES`` that no value exceeds, and that of
            the format in IDX files and pictures.
        label_column: the column of the class in a CSV file: its name, or ``first`` or ``last`` without a header.
        size: the height and width that pictures are scaled to; 0 leaves them as they are.

    Raises:
        UserError: something cannot be read, is damaged, or does not fit: the file, what was expected.
    """
    is_folder = path != "-" and os.path.isdir(path)
    images = _folder(path, size) if is_folder else _file(path, white, label_column, size)
    return images if shape is None else replace(images, pixels=fitted(images.pixels, shape, _label(path)))


def is_images(path: str) -> bool:
    """Whether a path is, by its name, one of ``read_images`` and no table or text: IDX, NPZ, a picture or a folder."""
    name = path.lower().removesuffix(".gz")
    if os.path.isdir(path):
        files = (name.lower() for _, _, names in os.walk(path) for name in names if not name.startswith("."))
        return any(name.endswith(PICTURES) or "-ubyte" in name for name in files)
    return name.endswith((*PICTURES, ".npz", ".npy")) or ".npz:" in name or "-ubyte" in name or ".idx" in name


def as_image(values: Any, *, shape: Sequence[int], white: int = 255, label: str = "the array") -> Array:
    """An image given as an array (H, W) or (H, W, C), as a network takes it: (H, W, C), as in ``Images.pixels``.

    Raises:
        UserError: it is no image, or one of another size.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "buif" or values.ndim not in (2, 3) or not values.size:
        raise UserError(
            f"{label} has shape {values.shape} and dtype {values.dtype}; expected numbers, (height, width) or "
            "(height, width, channels)"
        )
    scale = white if values.dtype.kind in "ui" else 1 if values.max() <= 1 else white
    pixels, _ = _scaled(_channels(values[None], label), scale, label)
    image: Array = fitted(pixels, shape, label)[0]
    return image


def unit(pixels: Array, dtype: Any = np.float32) -> Array:
    """Pixels, as in ``Images.pixels``, as numbers in [0, 1]."""
    values: Array = np.array(pixels, dtype)
    if pixels.dtype == np.uint8:
        np.divide(values, 255, out=values)
    return values


def fitted(pixels: Array, shape: Sequence[int], label: str) -> Array:
    """Images (N, H, W, C) with the channels of a shape (H, W, C), coloured or grey.

    Raises:
        UserError: their height or width is another one.
    """
    if tuple(pixels.shape[1:3]) != tuple(shape[:2]):
        raise UserError(
            f"{label} has images of {_size(pixels.shape[1:])}; expected {_size(shape)} (height x width), as the "
            "network was trained on: scale them"
        )
    if pixels.shape[3] == shape[2]:
        return pixels
    if shape[2] == 3:
        return np.repeat(pixels, 3, axis=3)
    grey: Array = pixels @ np.asarray(LUMA, np.float32)
    return (np.rint(grey) if pixels.dtype == np.uint8 else grey).astype(pixels.dtype)[..., None]


def _file(path: str, white: int | None, label_column: str, size: int) -> Images:
    """Images of one file, by the kind of its content."""
    file, key = path, ""
    if not os.path.exists(path) and (match := re.fullmatch(r"(.+\.npz):(\w+)", path, re.IGNORECASE)):
        file, key = match.groups()
    label = _label(file)
    content = _unpacked(read_bytes(file, label), label)
    name = "standard input" if file == "-" else Path(file).name
    if content.startswith(b"PK"):
        return _npz(content, label, name, key, white)
    if content.startswith(b"\x93NUMPY"):
        member = _header(io.BytesIO(content), len(content), label)
        return _arrays({"": member}, lambda _: _numbers(io.BytesIO(content), label), label, name, "", white)
    if content[:2] == b"\0\0" and content[2:3] and content[2] in IDX_TYPES:
        return _idx(content, label, file)
    if content.startswith((b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8", b"RIFF")):
        return Images(_stacked([(name, _picture(io.BytesIO(content), label, size))], label), None, (name,))
    return _csv(content, label, name, white, label_column)


def _label(path: str) -> str:
    return "standard input" if path == "-" else repr(path)


def _size(shape: Sequence[int]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _unpacked(content: bytes, label: str) -> bytes:
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        raise UserError(f"{label} is not a complete gzip file; copy or download it again") from None


def _damaged(label: str, kind: str, problem: str) -> UserError:
    problem = problem if len(problem) <= 100 else problem[:100] + "..."  # zipfile quotes whole members
    return UserError(f"{label} is not a complete {kind} file ({problem}); copy or download it again")


def _channels(values: Array, label: str) -> Array:
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) as (N, H, W, 1), (N, H, W, 3) or, transparent, (N, H, W, 4)."""
    if values.ndim == 3:
        return values[..., None]
    if values.shape[3] not in (1, 3) and values.shape[1] in (1, 3):
        return np.moveaxis(values, 1, 3)
    if values.shape[3] not in (1, 3, 4):
        raise UserError(
            f"{label} has images of shape {values.shape[1:]}; expected 1 channel (grey), 3 (red, green, blue) or 4 "
            "(and opacity)"
        )
    return values


def _scaled(values: Array, white: int | None, label: str) -> tuple[Array, int]:
    """Values of any range as pixels, uint8 or float32 in [0, 1], and the value that is the largest possible one."""
    least, most = values.min(), values.max()
    if not (np.isfinite(least) and np.isfinite(most)):
        raise UserError(f"{label} has a pixel that is not a finite number; expected 0 to {white or WHITES[2]}")
    highest = white or next((w for w in WHITES if most <= w), WHITES[-1])
    if least < 0 or most > highest:
        raise UserError(f"{label} has pixels from {least:g} to {most:g}; expected 0 to {highest}")
    if values.shape[-1] == 4:  # over white
        colours, opacity = values[..., :3].astype(np.float32), values[..., 3:].astype(np.float32) / np.float32(highest)
        over = highest + (colours - highest) * opacity
        values = np.rint(over).astype(values.dtype) if values.dtype.kind in "ui" else over
    if highest == 255 and (values.dtype == np.uint8 or np.array_equal(values, np.rint(values))):
        return np.ascontiguousarray(values, np.uint8), highest
    return np.asarray(values, np.float32) / np.float32(highest), highest


def _idx(content: bytes, label: str, path: str) -> Images:
    """The images of an IDX file, with the classes of the file beside it."""
    values = _idx_array(content, label)
    if values.ndim == 1:
        raise UserError(f"{label} has {len(values):,} classes and no images; give the file of the images")
    if values.ndim not in (3, 4):
        raise UserError(f"{label} has an array of {values.ndim} axes; expected images, of 3 or 4 axes")
    pixels, white = _scaled(_channels(_some(values, label), label), 255 if values.dtype == np.uint8 else None, label)
    names = tuple(f"{'standard input' if path == '-' else Path(path).name}[{i}]" for i in range(len(values)))
    folder, name = os.path.split(path)
    other = re.sub("idx[34]", "idx1", name.replace("images", "labels").replace("IMAGES", "LABELS"))
    bare = other.removesuffix(".gz")
    beside = [os.path.join(folder, found) for found in (other, bare, f"{bare}.gz")]
    found = next((file for file in beside if other != name and os.path.isfile(file)), None)
    if found is None:
        return Images(pixels, None, names, white, unlabelled=f"there is no file {bare!r} beside it, gzipped or not")
    labels = _idx_array(_unpacked(read_bytes(found, repr(found)), repr(found)), repr(found))
    if labels.ndim != 1 or len(labels) != len(values):
        raise UserError(
            f"{label} has {amount(len(values), 'image')} and {found!r} an array of shape {labels.shape}; expected "
            f"{len(values):,} classes"
        )
    return Images(pixels, tuple(map(str, labels.tolist())), names, white)


def _idx_array(content: bytes, label: str) -> Array:
    """The array in an IDX file: two zeros, a type, the number of axes, their lengths, the numbers, all big-endian.

    The format is described on the page of MNIST (LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/).
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_TYPES:
        raise UserError(f"{label} is not an IDX file; expected two zeros and a type at its beginning")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise _damaged(label, "IDX", "its header is cut off")
    shape = np.frombuffer(content, ">u4", content[3], 4).tolist()
    dtype = np.dtype(IDX_TYPES[content[2]])
    needed = math.prod(shape) * dtype.itemsize
    if len(content) - start != needed:
        raise _damaged(
            label, "IDX", f"it has {len(content) - start:,} bytes of numbers, and its header says {needed:,}"
        )
    values: Array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


def _some(values: Array, label: str) -> Array:
    if not values.size:
        raise UserError(f"{label} has no images: its array has shape {values.shape}")
    return values


class _Member(NamedTuple):
    """What the header of an array in a file says."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def _header(file: Any, length: int, label: str) -> _Member:
    """The header of an array of NumPy's format, checked against the number of bytes that there are."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except Exception as error:  # the header is a Python literal: a damaged one raises what Python's parser does
        raise _damaged(label, "NumPy", str(error).split("\n")[0] or type(error).__name__) from None
    needed = math.prod(shape) * dtype.itemsize
    if dtype.kind != "O" and file.tell() + needed != length:
        raise _damaged(
            label, "NumPy", f"it has {length - file.tell():,} bytes of numbers, and its header says {needed:,}"
        )
    return _Member(shape, dtype)


def _numbers(file: Any, label: str) -> Array:
    try:
        values: Array = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # a damaged deflate stream or checksum
        raise _damaged(label, "NumPy", str(error).split("\n")[0] or type(error).__name__) from None
    return values


def _npz(content: bytes, label: str, name: str, key: str, white: int | None) -> Images:
    """The images of an NPZ file: a zip file of arrays."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        members = {}
        for array, info in infos.items():
            if info.filename.endswith(".npy"):
                with archive.open(info) as file:
                    members[array] = _header(file, info.file_size, f"{array!r} in {label}")
    except UserError:
        raise
    except Exception as error:  # zipfile raises BadZipFile, NotImplementedError, RuntimeError, OSError, zlib.error, ...
        raise _damaged(label, "NPZ", str(error) or type(error).__name__) from None

    def load(array: str) -> Array:
        try:
            with archive.open(infos[array]) as file:
                return _numbers(file, f"{array!r} in {label}")
        except UserError:
            raise
        except Exception as error:
            raise _damaged(label, "NPZ", str(error) or type(error).__name__) from None

    return _arrays(members, load, label, name, key, white)


def _arrays(members: dict[str, _Member], load: Any, label: str, name: str, key: str, white: int | None) -> Images:
    """Images and classes among arrays; ``load`` reads one by its name, ``key`` names that of the images."""
    shapes = listing(f"{array!r} {member.shape}" for array, member in members.items()) if members else "no arrays"
    pickled = [array for array, member in members.items() if member.dtype.kind == "O" or member.dtype.hasobject]

    def refuse(array: str) -> UserError:
        return UserError(
            f"{array!r} in {label} has Python objects, which are not unpickled; save numbers or texts "
            "(array.astype(str))"
        )

    if key and key not in members:
        raise UserError(f"{label} has no array {key!r}.{did_you_mean(key, members)} It has {shapes}")
    if not key:
        fit = [a for a, m in members.items() if len(m.shape) in (3, 4) and m.dtype.kind in "buif"]
        if not fit and pickled:
            raise refuse(pickled[0])
        if not fit:
            raise UserError(f"{label} has {shapes}; expected images, an array of 3 or 4 axes")
        if len(fit) > 1:
            choices = " or ".join(f"{name}:{array}" for array in fit)
            raise UserError(f"{label} has several arrays that may be images: {shapes}; choose one: {choices}")
        key = fit[0]
    if key in pickled:
        raise refuse(key)
    if len(members[key].shape) not in (3, 4) or members[key].dtype.kind not in "buif":
        raise UserError(f"{key!r} in {label} has shape {members[key].shape}; expected numbers, 3 or 4 axes of images")
    values = _some(load(key), label)
    if values.ndim == 3 and values.shape[2] in (3, 4):
        values = values[None]  # one coloured image
    pixels, white = _scaled(_channels(values, label), white, label)
    count = len(pixels)
    others = {array: member for array, member in members.items() if array != key}
    named = next((a for a in NAMES if a in others and others[a].shape == (count,)), None)
    partner = key.replace("images", "labels").replace("x", "y").replace("X", "y")
    known = [array for array in (partner, *LABELS) if array in others]
    column = [
        a for a, m in others.items() if m.shape in ((count,), (count, 1)) and a != named and m.dtype.kind in "buiUSO"
    ]
    chosen = known[0] if known else column[0] if len(column) == 1 else None
    if chosen is None and column:
        raise UserError(f"{label} has several arrays that may be classes: {shapes}; call that of the classes 'labels'")
    names = tuple(f"{name}[{i}]" for i in range(count))
    if named is not None:
        if named in pickled:
            raise refuse(named)
        names = _texts(load(named))
    if chosen is None:
        return Images(pixels, None, names, white, unlabelled=f"it has {shapes}, and no array of {count:,} classes")
    if chosen in pickled:
        raise refuse(chosen)
    if others[chosen].shape not in ((count,), (count, 1)):
        raise UserError(
            f"{label} has {amount(count, 'image')} and {chosen!r} of shape {others[chosen].shape}; expected {count:,} "
            "classes"
        )
    return Images(pixels, _texts(load(chosen)), names, white)


def _texts(values: Array) -> tuple[str, ...]:
    flat = values.reshape(-1).tolist()
    return tuple(v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in flat)


def _csv(content: bytes, label: str, name: str, white: int | None, label_column: str) -> Images:
    """The images of a table: a row of pixel values each, and the class."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{label} is of no known kind; expected {EXPECTED}") from None
    lines = _rows(text, label)
    first_line, first = next(lines, (0, []))
    if not first:
        raise UserError(f"{label} is empty; expected {EXPECTED}")
    header = not all(_is_number(field) for field in first[1:-1] or first)
    columns = [field.strip() for field in first]
    rows = list(lines) if header else [(first_line, first), *lines]
    if not rows:
        raise UserError(f"{label} has a header and no rows")
    at, label_column = _label_place(columns if header else None, rows, label_column, label)
    width = len(columns)
    count = width - (at is not None)
    channels = next((c for c in (1, 3) if count and count % c == 0 and math.isqrt(count // c) ** 2 * c == count), None)
    if channels is None:
        raise UserError(
            f"{label}, line {first_line}: {amount(width, 'column')}; expected the pixels of a square image, grey or "
            "red, green and blue, and a class in the first or last column"
        )
    values = np.empty((len(rows), count), np.float32)
    labels = []
    for i, (line, row) in enumerate(rows):
        if len(row) != width:
            raise UserError(
                f"{label}, line {line}: {amount(len(row), 'value')}; expected {width:,}, as in line {first_line}"
            )
        if at is not None:
            labels.append(row[at].strip())
            if not labels[-1]:
                raise UserError(f"{label}, line {line}: the class is empty")
            row = row[:at] + row[at + 1 :]
        try:
            values[i] = list(map(float, row))
        except (ValueError, OverflowError):
            wrong = next(field for field in row if not _is_number(field))
            raise UserError(
                f"{label}, line {line}: {wrong[:40]!r} is not a number; expected the value of a pixel"
            ) from None
        if not np.isfinite(values[i]).all() or values[i].min() < 0:
            raise UserError(f"{label}, line {line}: a pixel is negative or not a finite number; expected 0 or more")
    side = math.isqrt(count // channels)
    pixels, white = _scaled(values.reshape(len(rows), side, side, channels), white, label)
    names = tuple(f"{name}, line {line}" for line, _ in rows)
    if at is None:
        return Images(pixels, None, names, white, unlabelled="it has no column of classes")
    return Images(pixels, tuple(labels), names, white, label_column)


def _rows(text: str, label: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table that are not empty, with their line numbers."""
    start = text[:10_000].lstrip().split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=start.count))
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{label}, line {reader.line_num}: {error}; expected {EXPECTED}") from None


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _label_place(
    columns: list[str] | None, rows: list[tuple[int, list[str]]], wanted: str, label: str
) -> tuple[int | None, str]:
    """Where in a row the class is, None for nowhere, and how to ask for that column again."""
    if columns is not None:
        place = {column.lower(): i for i, column in reversed(list(enumerate(columns)))}
        if wanted and wanted not in ("first", "last"):
            if wanted.lower() not in place:
                raise UserError(
                    f"{label} has no column {wanted!r}.{did_you_mean(wanted, columns)} It has {listing(columns)}"
                )
            return place[wanted.lower()], wanted
        if not wanted:
            found = next((name for name in LABELS if name in place), None)
            return (None, "") if found is None else (place[found], columns[place[found]])
    if wanted not in ("", "first", "last"):
        raise UserError(
            f"{label} has no header, so there is no column {wanted!r}; expected label_column=first or label_column=last"
        )
    width = len(rows[0][1])
    if _is_square(width):
        return None, ""
    if not wanted:
        # The corner of most images has the same value everywhere, and the class has not.
        varies = [len({row[place] for _, row in rows if row}) > 1 for place in (0, -1)]
        wanted = "first" if varies == [True, False] else "last"
    return (0 if wanted == "first" else width - 1), wanted


def _is_square(count: int) -> bool:
    return any(count % c == 0 and math.isqrt(count // c) ** 2 * c == count for c in (1, 3))


def _folder(path: str, size: int) -> Images:
    """The pictures of a folder, or of its folders, one for each class; or the only IDX file of images in it."""
    try:
        entries = sorted(entry for entry in Path(path).iterdir() if not entry.name.startswith("."))
        classes = [entry for entry in entries if entry.is_dir()]
        files = [entry for entry in entries if not entry.is_dir()]
        inside = {entry: sorted(file for file in entry.rglob("*") if file.is_file()) for entry in classes}
    except OSError as error:
        raise UserError(f"the folder {path!r} cannot be read: {why(error)}") from None
    here = [file for file in files if _is_picture(file)]
    found = {entry: [file for file in inside[entry] if _is_picture(file)] for entry in classes}
    if not here and not any(found.values()):
        return _idx_in(path, files)
    if here and any(found.values()):
        raise UserError(
            f"the folder {path!r} has pictures ({listing(file.name for file in here)}) beside the folders of classes "
            f"({listing(entry.name for entry in classes)}); move them into one of these"
        )
    if here:
        kept, labels = here, None
    else:
        kept = [file for entry in classes for file in found[entry]]
        labels = tuple(entry.name for entry in classes for _ in found[entry])
    chosen = set(kept)
    left = [file for file in (*files, *(file for some in inside.values() for file in some)) if file not in chosen]
    told = f"of the folder {path!r}, {amount(len(kept), 'picture')} read, left out: "
    notices = (told + listing(map(str, left)),) if left else ()
    pictures = [(str(file), _picture(file, repr(str(file)), size)) for file in kept]
    names = tuple(file.relative_to(path).as_posix() for file in kept)
    pixels = _stacked(pictures, f"the folder {path!r}")
    unlabelled = "" if labels else "it has no folder for each class"
    return Images(pixels, labels, names, unlabelled=unlabelled, notices=notices)


def _is_picture(file: Path) -> bool:
    return file.name.lower().endswith(PICTURES) and not file.name.startswith(".")


def _idx_in(path: str, files: list[Path]) -> Images:
    """The only IDX file of images in a folder without pictures."""
    idx = [str(file) for file in files if re.search(r"images.*idx[34]", file.name)]
    if len(idx) == 1:
        return read_images(idx[0])
    if idx:
        raise UserError(f"the folder {path!r} has several IDX files of images; give one: {listing(idx)}")
    raise UserError(f"there is no picture in the folder {path!r}; expected files ending in {listing(PICTURES)}")


def _picture(file: Any, label: str, size: int) -> Array:
    """One picture: uint8 (H, W, C), over white where it is transparent."""
    try:
        from PIL import Image
    except ImportError:
        raise UserError(f"{label} needs the library Pillow: pip install 'rnn-lab[images]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd but readable metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                if "A" in image.getbands() or "transparency" in image.info:
                    layer = image.convert("RGBA")
                    over = Image.new("RGBA", layer.size, "white")
                    over.alpha_composite(layer)
                    picture = over.convert("L" if image.mode == "LA" else "RGB")
                elif image.mode in ("I", "F") or image.mode.startswith("I;"):  # grey, of 16 bits
                    picture = Image.fromarray(
                        (np.asarray(image, np.float64) / 257).round().clip(0, 255).astype(np.uint8)
                    )
                else:
                    picture = image.convert("L" if image.mode in ("1", "L") else "RGB")
                if size:
                    picture = picture.resize((size, size), Image.Resampling.BOX if size < min(picture.size) else None)
                pixels = np.array(picture, np.uint8)
    except Exception as error:  # decoders raise exceptions of many types on damaged files
        reason = str(error).split("\n")[0] or type(error).__name__
        raise UserError(
            f"{label} cannot be read as a picture ({reason}); expected PNG, JPEG, BMP, GIF or WebP"
        ) from None
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _stacked(pictures: list[tuple[str, Array]], label: str) -> Array:
    """Pictures of one size as (N, H, W, C); all coloured if one is."""
    first, start = pictures[0]
    channels = max(picture.shape[2] for _, picture in pictures)
    for name, picture in pictures:
        if picture.shape[:2] != start.shape[:2]:
            raise UserError(
                f"{label}: {name!r} is {_size(picture.shape)} and {first!r} {_size(start.shape)} (height x width); "
                "expected one size: scale them, or set an option that does"
            )
    return np.stack([np.broadcast_to(picture, (*picture.shape[:2], channels)) for _, picture in pictures])

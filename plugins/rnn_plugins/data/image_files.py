"""Files of images that are arrays: IDX, NPZ, NPY, and CSV with the pixels of an image in each row.

Nothing is unpickled, and no size that a file claims is believed before its bytes are counted.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.data.pixels import Images, channels, scaled
from rnn_plugins.data.sources import read_bytes
from rnn_plugins.errors import UserError, did_you_mean
from rnn_plugins.words import amount, is_number, listing

Array = NDArray[Any]

LABELS = ("labels", "label", "y", "targets", "target", "classes", "class", "digit")
"""What arrays in NPZ files and columns in CSV files that hold classes are called."""

NAMES = ("names", "name", "files", "file", "filenames", "filename", "ids", "id", "keys", "key")
"""What arrays in NPZ files that name the images are called."""

EXPECTED = "an IDX, NPZ or CSV file with images, a picture (PNG, JPEG, BMP, GIF, WebP), or a folder of pictures"

IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def unpacked(content: bytes, label: str) -> bytes:
    """The content of a file, unpacked if it is a gzip file.

    Raises:
        UserError: it is one that is damaged.
    """
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        raise UserError(f"{label} is not a complete gzip file; copy or download it again") from None


def _damaged(label: str, kind: str, problem: str) -> UserError:
    problem = problem if len(problem) <= 100 else problem[:100] + "..."  # zipfile quotes whole members
    return UserError(f"{label} is not a complete {kind} file ({problem}); copy or download it again")


def from_idx(content: bytes, label: str, path: str) -> Images:
    """The images of an IDX file, with the classes of the file beside it.

    Raises:
        UserError: one of them is damaged, or they do not belong together.
    """
    values = _idx_array(content, label)
    if values.ndim == 1:
        raise UserError(f"{label} has {len(values):,} classes and no images; give the file of the images")
    if values.ndim not in (3, 4):
        raise UserError(f"{label} has an array of {values.ndim} axes; expected images, of 3 or 4 axes")
    pixels, white = scaled(channels(_some(values, label), label), 255 if values.dtype == np.uint8 else None, label)
    names = tuple(f"{'standard input' if path == '-' else Path(path).name}[{i}]" for i in range(len(values)))
    folder, name = os.path.split(path)
    other = re.sub("idx[34]", "idx1", name.replace("images", "labels").replace("IMAGES", "LABELS"))
    bare = other.removesuffix(".gz")
    beside = [os.path.join(folder, found) for found in (other, bare, f"{bare}.gz")]
    found = next((file for file in beside if other != name and os.path.isfile(file)), None)
    if found is None:
        return Images(pixels, None, names, white, unlabelled=f"there is no file {bare!r} beside it, gzipped or not")
    labels = _idx_array(unpacked(read_bytes(found, repr(found)), repr(found)), repr(found))
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


def from_npz(content: bytes, label: str, name: str, key: str, white: int | None) -> Images:
    """The images of an NPZ file: a zip file of arrays.

    Args:
        content: of the file.
        label: its name in messages.
        name: the beginning of the images' names.
        key: the name of the array of images; empty if there is only one.
        white: the largest possible value of a pixel, if known.

    Raises:
        UserError: the file is damaged, or has no images, or arrays that may be several things.
    """
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


def from_npy(content: bytes, label: str, name: str, white: int | None) -> Images:
    """The images of an NPY file: one array.

    Raises:
        UserError: it is damaged, or no images.
    """
    member = _header(io.BytesIO(content), len(content), label)
    return _arrays({"": member}, lambda _: _numbers(io.BytesIO(content), label), label, name, "", white)


def _arrays(
    members: dict[str, _Member], load: Callable[[str], Array], label: str, name: str, key: str, white: int | None
) -> Images:
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
    fractions = values.dtype.kind == "f" and values.max() <= 1
    pixels, white = scaled(channels(values, label), None if fractions else white, label)
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


def from_csv(content: bytes, label: str, name: str, white: int | None, label_column: str) -> Images:
    """The images of a table: a row of pixel values each, and the class.

    Raises:
        UserError: it is no such table: the line, what was expected.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{label} is of no known kind; expected {EXPECTED}") from None
    lines = _rows(text, label)
    first_line, first = next(lines, (0, []))
    if not first:
        raise UserError(f"{label} is empty; expected {EXPECTED}")
    header = not all(is_number(field) for field in first[1:-1] or first)
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
            with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and refused below
                values[i] = list(map(float, row))
        except (ValueError, OverflowError):
            wrong = next(field for field in row if not is_number(field))
            raise UserError(
                f"{label}, line {line}: {wrong[:40]!r} is not a number; expected the value of a pixel"
            ) from None
        if not np.isfinite(values[i]).all() or values[i].min() < 0:
            raise UserError(f"{label}, line {line}: a pixel is negative or not a finite number; expected 0 or more")
    side = math.isqrt(count // channels)
    fractions = values.max() <= 1 and not np.array_equal(values, np.rint(values))
    images = values.reshape(len(rows), side, side, channels)
    pixels, white = scaled(images, None if fractions else white, label)
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

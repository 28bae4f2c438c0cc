"""Images with their classes, from files of arrays, folders of pictures and single pictures.

The kind of a file is told by its content, so that a name without an ending, a gzipped file and standard input are read
too.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.data.image_files import IDX_TYPES, from_csv, from_idx, from_npy, from_npz, unpacked
from rnn_plugins.data.pixels import Images, Named, as_image, common_white, fitted, size_of, unit
from rnn_plugins.data.sources import in_folder, read_bytes
from rnn_plugins.errors import UserError
from rnn_plugins.words import amount, listing

__all__ = ["Images", "Named", "as_image", "common_white", "each_image", "fitted", "is_images", "read_images", "unit"]

Array = NDArray[Any]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
"""The endings of the files that a folder's pictures have."""

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
"""The same for Pillow, which opens no others."""

LARGE, SMALL = 128, 64
"""The height and width above which pictures are called large, and a size that is proposed for them."""


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
        white: the largest value of a pixel; by default the smallest of ``WHITES`` that no value exceeds. That of IDX
            files and of pictures is given by their format, and that of fractions is 1.
        label_column: the column of the class in a CSV file: its name, or ``first`` or ``last`` without a header.
        size: the height and width that pictures are scaled to; 0 leaves them as they are.

    Raises:
        UserError: something cannot be read, is damaged, or does not fit: the file, what was expected.
    """
    is_folder = path != "-" and os.path.isdir(path)
    images = _folder(path, size) if is_folder else _file(path, white, label_column, size)
    if shape is None:
        told = large(path, images.pixels.shape[1:], size) if is_folder else []
        return replace(images, notices=(*images.notices, *told))
    return replace(images, pixels=fitted(images.pixels, shape, _label(path), scalable=are_pictures(images)))


def are_pictures(images: Images) -> bool:
    """Whether these are files of pictures, which can be scaled, by their names."""
    return all(name.lower().endswith(PICTURES) for name in images.names)


def large(folder: str, shape: Sequence[int], size: int) -> list[str]:
    """A notice on pictures of this shape that are not scaled, if they are large."""
    height, width = shape[:2]
    if size or max(height, width) <= LARGE:
        return []
    return [
        f"the pictures of the folder {folder!r} are {height}x{width}: they have {height * width / SMALL**2:,.1f} times "
        f"as many numbers as pictures of {SMALL}x{SMALL}, which takes time and memory; "
        f"--task-option image_size={SMALL} scales them"
    ]


def each_image(
    path: str, *, shape: Sequence[int], white: int | None, label_column: str = "", size: int = 0
) -> Iterator[tuple[str, Array]]:
    """The names and the pixels (H, W, C) of the images of ``read_images``; of a folder one picture at a time.

    Args:
        path: as for ``read_images``, like the others.
        shape: that of a network.
        white: that of its training data.
        label_column: likewise.
        size: the height and width that pictures are scaled to; 0 leaves them as they are.

    Raises:
        UserError: as ``read_images``.
    """
    if path != "-" and os.path.isdir(path) and (pictures := _listed(path).pictures):
        for file in pictures:
            label = repr(str(file))
            pixels = fitted(_picture(file, label, size)[None], shape, label, scalable=True)
            yield file.relative_to(path).as_posix(), pixels[0]
        return
    images = read_images(path, shape=shape, white=white, label_column=label_column, size=size)
    yield from zip(images.names, images.pixels, strict=True)


def is_images(path: str) -> bool:
    """Whether a path is, by its name, one of ``read_images`` and no table or text: IDX, NPZ, a picture or a folder."""
    name = path.lower().removesuffix(".gz")
    if os.path.isdir(path):
        files = (name.lower() for _, _, names in os.walk(path) for name in names if not name.startswith("."))
        return any(name.endswith(PICTURES) or "-ubyte" in name for name in files)
    return name.endswith((*PICTURES, ".npz", ".npy")) or ".npz:" in name or "-ubyte" in name or ".idx" in name


def _file(path: str, white: int | None, label_column: str, size: int) -> Images:
    """Images of one file, by the kind of its content."""
    file, key = path, ""
    if not os.path.exists(path) and (match := re.fullmatch(r"(.+\.npz):(\w+)", path, re.IGNORECASE)):
        file, key = match.groups()
    label = _label(file)
    content = unpacked(read_bytes(file, label), label)
    name = "standard input" if file == "-" else Path(file).name
    if content.startswith(b"PK"):
        return from_npz(content, label, name, key, white)
    if content.startswith(b"\x93NUMPY"):
        return from_npy(content, label, name, white)
    if content[:2] == b"\0\0" and content[2:3] and content[2] in IDX_TYPES:
        return from_idx(content, label, file)
    if content.startswith((b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8", b"RIFF")):
        return Images(_stacked([(name, _picture(io.BytesIO(content), label, size))], label), None, (name,))
    return from_csv(content, label, name, white, label_column)


def _label(path: str) -> str:
    return "standard input" if path == "-" else repr(path)


class _Listed(NamedTuple):
    """What is in a folder.

    Attributes:
        pictures: its pictures, or those of its folders, one for each class.
        labels: their classes; None if it has pictures itself.
        others: all other files.
    """

    pictures: list[Path]
    labels: tuple[str, ...] | None
    others: list[Path]


def _listed(path: str) -> _Listed:
    """What is in a folder.

    Raises:
        UserError: it cannot be read, or has pictures beside folders with pictures.
    """
    files, inside = in_folder(path)
    here = [file for file in files if file.name.lower().endswith(PICTURES)]
    found = {entry: [file for file in some if file.name.lower().endswith(PICTURES)] for entry, some in inside.items()}
    if here and any(found.values()):
        raise UserError(
            f"the folder {path!r} has pictures ({listing(file.name for file in here)}) beside the folders of classes "
            f"({listing(entry.name for entry in inside)}); move them into one of these"
        )
    chosen = here or [file for some in found.values() for file in some]
    labels = None if here else tuple(entry.name for entry, some in found.items() for _ in some)
    kept = set(chosen)
    others = [file for file in (*files, *(file for some in inside.values() for file in some)) if file not in kept]
    return _Listed(chosen, labels, others)


def _folder(path: str, size: int) -> Images:
    """The pictures of a folder, or of its folders, one for each class; or the only IDX file of images in it."""
    kept, labels, left = _listed(path)
    if not kept:
        return _idx_in(path, left)
    told = f"of the folder {path!r}, {amount(len(kept), 'picture')} read, left out: "
    notices = (told + listing(map(str, left)),) if left else ()
    pictures = [(str(file), _picture(file, repr(str(file)), size)) for file in kept]
    names = tuple(file.relative_to(path).as_posix() for file in kept)
    pixels = _stacked(pictures, f"the folder {path!r}")
    unlabelled = "" if labels else "it has no folder for each class"
    return Images(pixels, labels, names, unlabelled=unlabelled, notices=notices)


def _idx_in(path: str, files: list[Path]) -> Images:
    """The only IDX file of images in a folder without pictures."""
    idx = unzipped(
        str(file) for file in files if file.parent == Path(path) and re.search(r"images.*idx[34]", file.name)
    )
    if len(idx) == 1:
        return read_images(idx[0])
    if idx:
        raise UserError(f"the folder {path!r} has several IDX files of images; give one: {listing(idx)}")
    raise UserError(f"there is no picture in the folder {path!r}; expected files ending in {listing(PICTURES)}")


def unzipped(files: Iterable[str]) -> list[str]:
    """Names of files without those of gzipped copies of others among them."""
    names = list(files)
    return [name for name in names if not name.endswith(".gz") or name.removesuffix(".gz") not in names]


def _picture(file: Any, label: str, size: int) -> Array:
    """One picture: uint8 (H, W, C), over white where it is transparent."""
    try:
        from PIL import Image, UnidentifiedImageError
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
        if isinstance(error, UnidentifiedImageError):  # its message has the address of an object
            reason = "its format is unknown, or it is damaged"
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
                f"{label}: {name!r} is {size_of(picture.shape)} and {first!r} {size_of(start.shape)} (height x width); "
                "expected one size: scale them, or set --task-option image_size=64"
            )
    return np.stack([np.broadcast_to(picture, (*picture.shape[:2], channels)) for _, picture in pictures])

"""Checkpoints: a tree of arrays and a dict of JSON in one safetensors file, written atomically.

Nothing is ever unpickled. Any safetensors reader can open the file: its tensors are the tree's leaves by path, and its
header contains the rest as JSON, with a digest of everything.
"""

import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from minigrad import trees
from minigrad.trees import Tree

# One entry in the header for all of ours: safetensors writes several in no fixed order, and equal trees must give equal
# files.
_HEADER_KEY = "minigrad"
_DIGEST = ', "digest": "'  # precedes it, at the end of our entry


class CheckpointError(ValueError):
    """A checkpoint cannot be read; the message names the file, the reason, and what to do."""


def save(path: str | os.PathLike[str], tree: Tree, metadata: dict[str, Any]) -> None:
    """Save the tree and the metadata to `path`, replacing an old file only when the new one is complete.

    Equal trees and metadata give equal bytes.

    Args:
        path: the file; its folder must exist.
        tree: NumPy arrays of any shape, 0-d and empty ones too; booleans, integers, and floats of 16 to 64 bits.
        metadata: JSON values; a tuple is loaded as a list.

    Raises:
        TypeError: where a leaf is not such an array, a dict's key not a string, or the metadata not JSON.
        ValueError: where two leaves have one path, or the metadata contains a NaN or an infinity, which JSON lacks.
        OSError: where the file cannot be written; an old file stays.
    """
    arrays = {name: _storable(name, leaf) for name, leaf in trees.flatten(tree).items()}
    try:
        header = json.dumps({"structure": trees.structure(tree), "metadata": metadata}, allow_nan=False)
    except TypeError as error:
        raise TypeError(f"the metadata of a checkpoint must be JSON: {error}") from None
    except ValueError as error:
        raise ValueError(f"the metadata of a checkpoint must be JSON: {error}") from None
    signed = f'{header[:-1]}{_DIGEST}{_digest(header, arrays)}"}}'
    write_atomically(path, to_safetensors(arrays, {_HEADER_KEY: signed}))


def load(path: str | os.PathLike[str]) -> tuple[Tree, dict[str, Any]]:
    """Load the tree and the metadata of a checkpoint.

    Arrays are writable, in the machine's byte order; a named tuple becomes a plain tuple (`trees.unflatten` with a
    template restores its class). A file of a version without digests is not verified.

    Raises:
        CheckpointError: where the file is missing, unreadable, damaged, or not from `save`.
    """
    header, arrays = _read(path)
    try:
        described = json.loads(header)
        if "digest" in described:
            content, _, _ = header.rpartition(_DIGEST)
            if described.pop("digest") != _digest(content + "}", arrays):
                raise ValueError("its content is not what was saved: its SHA-256 differs")
        tree, metadata = trees.from_structure(described["structure"], arrays), described["metadata"]
        for key in described.keys() - {"structure", "metadata"}:  # an unknown key may be a damaged "digest"
            raise ValueError(f"its header has an entry {key!r}")
        return tree, metadata
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, error) from None


def load_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load the metadata only. The arrays are not read, so the digest is not verified.

    Raises:
        CheckpointError: as in `load`.
    """
    header, _ = _read(path, with_arrays=False)
    try:
        metadata: dict[str, Any] = json.loads(header)["metadata"]
        return metadata
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, error) from None


def _read(path: str | os.PathLike[str], with_arrays: bool = True) -> tuple[str, dict[str, NDArray[Any]]]:
    """Our entry of the header, and the arrays."""
    try:
        # Opened here first for the operating system's clearer errors: no such file, permission denied, a directory.
        with open(path, "rb"):
            pass
        with safe_open(path, "np") as file:
            header = (file.metadata() or {}).get(_HEADER_KEY)
            names = file.keys() if header is not None and with_arrays else []
            arrays = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise CheckpointError(f"there is no file '{path}'; give the path of a checkpoint") from None
    except OSError as error:
        raise CheckpointError(
            f"cannot read '{path}' ({error.strerror or error}); give the path of a checkpoint"
        ) from None
    except SafetensorError as error:
        raise _damaged(path, error) from None
    if header is None:
        raise CheckpointError(f"'{path}' is a safetensors file of another program; give one that was saved here")
    return header, arrays


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file so that at any moment, even in a power failure, either the old or the new content is complete.

    Text is written as UTF-8, with its line ends unchanged. Of a symbolic link, the target is replaced.

    Raises:
        OSError: where it cannot be written; the old file stays, and no temporary file remains.
    """
    target = Path(os.path.realpath(path))
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    content = data.encode() if isinstance(data, str) else data
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            sync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):  # a full disk names no file, a read-only folder the temporary one
            error.filename, error.filename2 = str(path), None
        raise
    # The new name is on disk only after the folder is synced; Windows cannot open a folder.
    if hasattr(os, "O_DIRECTORY"):
        try:
            folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        except PermissionError:  # a writable folder need not be readable
            return
        try:
            sync(folder)
        finally:
            os.close(folder)


def sync(descriptor: int) -> None:
    """Flush an open file or folder to disk, if its file system supports that.

    Raises:
        OSError: the disk is full or failed.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise


def clear_temporary(folder: str | os.PathLike[str]) -> None:
    """Remove temporary files of killed `write_atomically` calls; no other process may be writing to the folder."""
    for path in Path(folder).glob(".*.tmp"):
        if re.fullmatch(r"\.[0-9a-f]{16}\.tmp", path.name):
            path.unlink(missing_ok=True)


def _storable(name: str, leaf: Any) -> NDArray[Any]:
    if not isinstance(leaf, (np.ndarray, np.generic)) or leaf.dtype.kind not in "biuf" or leaf.dtype.itemsize > 8:
        given = getattr(leaf, "dtype", type(leaf).__name__)
        raise TypeError(
            f"the leaf '{name}' is of type {given}; a checkpoint contains arrays of booleans, integers, and floats of "
            "16 to 64 bits"
        )
    if name == "__metadata__":
        raise ValueError("a leaf is called '__metadata__', a name that safetensors reserves; rename it")
    return np.asarray(leaf, order="C")  # safetensors reads memory in its layout


def _digest(header: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of a file's content: names, dtypes, shapes and values of its arrays, and the header."""
    digest = hashlib.sha256(header.encode())
    for name, array in sorted(arrays.items()):
        stored = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        digest.update(json.dumps([name, stored.dtype.str, stored.shape]).encode())
        digest.update(stored.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _damaged(path: str | os.PathLike[str], error: Exception) -> CheckpointError:
    return CheckpointError(f"'{path}' is not a checkpoint, or it is damaged ({error}); give another, or save it again")

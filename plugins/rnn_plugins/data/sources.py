"""Sources of text: files, folders, globs, gzip, pipes, standard input and built-in generators, read in chunks."""

import glob
import gzip
import hashlib
import io
import os
import stat
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

from rnn_plugins.data import RUN
from rnn_plugins.data.decoding import Changes, NoText, cleaned, decode, decoded
from rnn_plugins.data.vocabulary import TextLevel
from rnn_plugins.errors import UserError, why
from rnn_plugins.words import amount, listing

CHUNK = 1 << 20  # bytes read at a time


class Unreadable(UserError):
    """A file that cannot be read: its label, the problem, and the advice."""

    def __init__(self, label: str, flaw: str, advice: str) -> None:
        super().__init__(f"{label} {flaw}; {advice}")
        self.flaw = flaw


@dataclass(frozen=True)
class Part:
    """A regular file, which is read several times.

    Attributes:
        label: Its name in messages.
        path: Its path.
        packed: Whether it is a gzip file.
        piped: Whether it is a copy of input from a pipe.
    """

    label: str
    path: str
    packed: bool = False
    piped: bool = False

    def chunks(self) -> Iterator[bytes]:
        """The content, unpacked."""
        try:
            with gzip.open(self.path) if self.packed else open(self.path, "rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
        except (gzip.BadGzipFile, EOFError, zlib.error):
            advice = "download it again, or unpack it and give the text itself"
            raise Unreadable(self.label, "is not a complete gzip file", advice) from None
        except FileNotFoundError:
            raise Unreadable(self.label, "no longer exists", "restore it and start again") from None
        except OSError as error:
            raise _no_access(self.label, error) from None

    def text(self, chunks: Iterator[bytes]) -> Iterator[str]:
        """The chunks as text, unchanged otherwise."""
        try:
            yield from decoded(chunks)
        except NoText as error:
            advice = error.advice(None if self.piped else self.path, self.packed)
            raise Unreadable(
                self.label, error.flaw, f"{advice}; or train with --level byte, which accepts any file"
            ) from None

    def flaw(self, level: TextLevel) -> str | None:
        """Why it is not a text of that level; None if it is one."""
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            return "is not a regular file"
        try:
            for _ in self.chunks() if level == "byte" else self.text(self.chunks()):
                pass
        except Unreadable as error:
            return error.flaw
        return None


class Content:
    """The joined content of all parts. Reading it again checks that it has not changed."""

    def __init__(self, label: str, parts: list[Part], level: TextLevel, most: int | None = None) -> None:
        """Read all parts once.

        Raises:
            UserError: a part cannot be read, or all together have more than ``most`` bytes.
        """
        self.label = label
        self.parts = parts
        self.level = level
        self.bytes = 0
        digest = hashlib.sha256()
        for chunk in chain.from_iterable(part.chunks() for part in parts):
            digest.update(chunk)
            self.bytes += len(chunk)
            if most is not None and self.bytes > most:
                raise UserError(f"{label} has more than the {most:,} bytes that it had")
        self.digest = digest.hexdigest()

    @property
    def piped(self) -> bool:
        """Whether some of it came through a pipe, so that no other process can read it."""
        return any(part.piped for part in self.parts)

    def read(self, changes: Changes | None = None, *, line_ends: bool = True) -> Iterator[Any]:
        """The content in chunks: of bytes at level `byte`, else of text.

        Args:
            changes: Records what decoding changes.
            line_ends: Whether to convert line ends.
        """
        digest = hashlib.sha256()

        def hashed(chunks: Iterator[bytes]) -> Iterator[bytes]:
            for chunk in chunks:
                digest.update(chunk)
                yield chunk

        if self.level == "byte":
            yield from chain.from_iterable(hashed(part.chunks()) for part in self.parts)
        else:
            texts = chain.from_iterable(part.text(hashed(part.chunks())) for part in self.parts)
            yield from cleaned(texts, changes or Changes(), line_ends=line_ends)
        if digest.hexdigest() != self.digest:
            raise UserError(f"{self.label} changed while it was read; start again when no program writes to it")


def find(
    sources: Sequence[str], level: TextLevel, stack: ExitStack, *, pipes: bool = True
) -> tuple[list[Part], list[str]]:
    """The files of the sources, in order, and notices on what was left out.

    Args:
        sources: As for ``load_corpus``.
        level: What a symbol is.
        stack: Owns the copies of input that can be read only once.
        pipes: Whether to read named pipes; a pipe from a run's manifest may have no writer.
    """
    if sources.count("-") > 1:
        raise UserError("standard input can be read only once; give - only once")
    parts: list[Part] = []
    notices: list[str] = []
    for source in sources:
        if source == "-":
            parts.append(_spool(Part(label_of([source]), source, piped=True), standard_input(), stack))
        elif source.startswith("builtin:"):
            parts.append(_spool(Part(label_of([source]), source), _builtin(source.removeprefix("builtin:")), stack))
        else:
            for path in _matches(source):
                part = Part(repr(path), path, packed=_is_packed(path))
                if os.path.isdir(path):
                    found, notice = _folder(path, level)
                    parts += found
                    notices.append(notice)
                elif is_pipe(path) and not pipes:
                    raise Unreadable(part.label, "is a pipe", "give the text that came through it")
                elif is_pipe(path):  # such as the shell's <(command): its content cannot be read again
                    parts.append(_spool(replace(part, piped=True), replace(part, packed=False).chunks(), stack))
                else:
                    refuse_devices(part.label, path)
                    parts.append(part)
    return parts, notices


def is_pipe(source: str) -> bool:
    """Whether a source can be read only once: standard input, or a named pipe such as the shell's ``<(command)``."""
    try:
        return source == "-" or stat.S_ISFIFO(os.stat(source).st_mode)
    except (OSError, ValueError):
        return False


def refuse_devices(label: str, path: str) -> None:
    """Check that a path is not a device, which might be endless.

    Raises:
        UserError: it is a device.
    """
    with suppress(OSError, ValueError):
        mode = os.stat(path).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise Unreadable(label, "is a device", "give a file, or pipe its output into rnn and read it with -")


def read_text(path: str, label: str, *, line_ends: bool = True) -> tuple[str, list[str]]:
    """Read a short text; return it with notices.

    Args:
        path: Its file; ``-`` is standard input.
        label: Its name in messages.
        line_ends: Whether to convert line ends to line feeds.

    Raises:
        UserError: It cannot be read, or is not text.
    """
    return decode(read_bytes(path, label), label, None if is_pipe(path) else path, line_ends=line_ends)


def read_bytes(path: str, label: str) -> bytes:
    """The whole of a small file; ``-`` is standard input.

    Raises:
        UserError: It cannot be read.
    """
    if path == "-":
        return b"".join(standard_input())
    refuse_devices(label, path)
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        reason = why(error) if isinstance(error, OSError) else str(error)
        raise UserError(f"{label} cannot be read: {reason}") from None


def label_of(sources: Sequence[str]) -> str:
    """The name of these sources in messages."""
    first = sources[0]
    label = "standard input" if first == "-" else first if first.startswith("builtin:") else repr(first)
    return label if len(sources) == 1 else f"the text of {label} and {len(sources) - 1:,} more"


def _is_packed(path: str) -> bool:
    return path.lower().endswith(".gz")


def _matches(source: str) -> list[str]:
    """The paths of a source: itself if it exists, else the paths that match it as a glob, sorted."""
    try:
        os.stat(source)
        return [source]
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL character in the name
        pass
    except OSError as error:
        raise _no_access(repr(source), error) from None
    if not glob.has_magic(source):
        raise UserError(
            f"there is no file or folder {source!r}; give a text file, a folder, a glob such as 'books/*.txt', "
            "- for standard input, or builtin:latex"
        )
    found = [] if "\0" in source else sorted(filter(os.path.exists, glob.glob(source, recursive=True)))
    if not found:
        raise UserError(f"no file matches {source!r}; check the pattern, and the folder that it starts from")
    return found


def in_folder(folder: str) -> tuple[list[Path], dict[Path, list[Path]]]:
    """The files in a folder, and those below each of its folders, in order; without hidden ones.

    Raises:
        UserError: it cannot be read.
    """
    try:
        entries = sorted(entry for entry in Path(folder).iterdir() if not is_hidden(entry.name))
        inside = {
            entry: sorted(
                file
                for file in entry.rglob("*")
                if file.is_file() and not any(map(is_hidden, file.relative_to(entry).parts))
            )
            for entry in entries
            if entry.is_dir()
        }
    except OSError as error:
        raise UserError(f"the folder {folder!r} cannot be read: {why(error)}") from None
    return [entry for entry in entries if entry not in inside], inside


def is_hidden(name: str) -> bool:
    """Whether a file or a folder is hidden by its name, as those are that operating systems put beside others."""
    return name.startswith(".")


def _folder(folder: str, level: TextLevel) -> tuple[list[Part], str]:
    """The texts in a folder, at any depth, and a notice on which files were read and left out."""
    parts: list[Part] = []
    flaws: list[str] = []
    without: list[str] = []

    def closed(error: OSError) -> None:
        flaws.append(f"{error.filename!r} {_no_access('', error).flaw}")

    paths: list[Path] = []
    for current, folders, files in os.walk(folder, onerror=closed):
        # The files of runs are not training text.
        folders[:] = [n for n in folders if not (n.startswith(".") or os.path.isfile(os.path.join(current, n, RUN)))]
        paths += [Path(current, name) for name in files if not name.startswith(".")]
    for path in map(str, sorted(paths)):
        part = Part(repr(path), path, packed=_is_packed(path))
        if flaw := part.flaw(level):
            flaws.append(f"{part.label} {flaw}")
            without.append(path)
        else:
            parts.append(part)
    if not parts:
        why = f" ({listing(flaws)})" if flaws else ""
        advice = "" if level == "byte" else ", or take any file with --level byte"
        raise UserError(f"there is no text in the folder {folder!r}{why}; give a folder with UTF-8 text in it{advice}")
    told = f"of the folder {folder!r}, {_files([part.path for part in parts])} read"
    if without:
        told += f" and {_files(without)} left out"
    return parts, told + (f": {listing(flaws)}" if flaws else "")


def _files(paths: list[str]) -> str:
    """``3 files (2 .txt, 1 .md) were``: the number of files, by their endings."""
    kinds = Counter(Path(path).suffix.lower() or "without ending" for path in paths)
    named = listing([f"{count:,} {kind}" for kind, count in kinds.most_common()])
    return f"{amount(len(paths), 'file')} ({named}) {'was' if len(paths) == 1 else 'were'}"


def _spool(part: Part, chunks: Iterator[bytes], stack: ExitStack) -> Part:
    """A copy of input that can be read only once; it exists as long as the stack."""
    try:
        with tempfile.NamedTemporaryFile(prefix="rnn-lab-", delete=False) as file:
            stack.callback(os.unlink, file.name)
            file.writelines(chunks)
    except OSError as error:
        raise UserError(
            f"{part.label} could not be copied to the folder for temporary files ({why(error)}); "
            "set TMPDIR to a folder with enough space"
        ) from None
    return replace(part, path=file.name)


def standard_input() -> Iterator[bytes]:
    """Its bytes, as soon as they arrive."""
    if sys.stdin is None:
        raise UserError("standard input is closed; pipe a text into it, or name a file")
    try:
        while chunk := cast(io.BufferedReader, sys.stdin.buffer).read1(CHUNK):
            yield chunk
    except OSError as error:
        raise _no_access("standard input", error) from None


def _builtin(name: str) -> Iterator[bytes]:
    from rnn_plugins.data.builtin import builtin

    return (text.encode() for text in builtin(name))


def _no_access(label: str, error: OSError) -> Unreadable:
    return Unreadable(label, f"cannot be read ({why(error)})", "make it readable, or give another file")

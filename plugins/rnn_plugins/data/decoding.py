"""What a text is and how its bytes become characters: one rule for texts, primes and configuration files.

A text is UTF-8 without NUL characters. Byte order marks are left out, and a line ends with a line feed, as in Python's
own text files. It opens no files.
"""

import codecs
import io
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from rnn_plugins.errors import UserError

MARK = "\ufeff"
"""The byte order mark. It stands at the beginning of files, and inside of those that were joined from several."""

LINE_ENDS = {"\r\n": "CR LF", "\r": "CR"}

_LOOKED_AT = 4096  # bytes at the beginning of a text, by which its encoding is guessed


class NoText(Exception):
    """Bytes that are no text.

    Attributes:
        flaw: What is wrong, as the predicate of a sentence: "is not UTF-8 (0xE9 at byte offset 3)".
        encoding: What iconv calls the encoding that they seem to have; empty where they look like no text at all.
        whole: The bytes before a character that breaks off at the end; None where none does.
    """

    def __init__(self, flaw: str, encoding: str = "", whole: int | None = None) -> None:
        super().__init__(flaw)
        self.flaw, self.encoding, self.whole = flaw, encoding, whole

    def advice(self, path: str | None, packed: bool = False) -> str:
        """What to do about it.

        Args:
            path: The file as a shell finds it; None for what came through a pipe.
            packed: Whether it is a gzip file.
        """
        if self.whole is not None:
            command = f"head -c {self.whole}"
        elif self.encoding:
            command = f"iconv -f {self.encoding} -t UTF-8"
        else:
            return "give a text in UTF-8"
        if path is None:
            command = f"... | {command} | rnn ..."
        else:
            name = Path(path.removesuffix(".gz")) if packed else Path(path)
            source, target = shlex.quote(path), shlex.quote(str(name.with_name(f"{name.stem}.utf-8{name.suffix}")))
            command = f"gzip -dc {source} | {command} > {target}" if packed else f"{command} {source} > {target}"
        if self.whole is not None:
            return f"get the whole of it, or leave the broken character out: {command}"
        if self.encoding.startswith("UTF"):
            return f"convert it: {command}"
        return f"convert it from the encoding that it has, as in: {command}"


@dataclass
class Changes:
    """What was changed in a text while it was decoded.

    Attributes:
        marks: How many byte order marks were left out.
        line_ends: Those that were read as line feeds.
    """

    marks: int = 0
    line_ends: list[str] = field(default_factory=list)

    def notice(self, label: str) -> list[str]:
        """The sentence on it, if there is one."""
        told = []
        if self.marks:
            many = self.marks > 1
            told.append(f"{self.marks:,} byte order marks were left out" if many else "a byte order mark was left out")
        if self.line_ends:
            told.append(f"the line ends {' and '.join(LINE_ENDS[end] for end in self.line_ends)} were read as LF")
        return [f"in {label}, {' and '.join(told)}"] if told else []


def decoded(chunks: Iterable[bytes]) -> Iterator[str]:
    """The bytes of one file as text, with all that is in it.

    Raises:
        NoText: they are none.
    """
    rest = iter(chunks)
    head = b""
    for chunk in rest:
        head += chunk
        if len(head) >= _LOOKED_AT:
            break
    decoder = codecs.getincrementaldecoder("utf-8")()
    position, ascii_only = 0, True
    for chunk in chain([head] if head else [], rest, [b""]):
        start = position - len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            place = start + error.start
            # A single byte at the end, after nothing but ASCII, is rather a letter of Latin-1.
            if error.reason == "unexpected end of data" and (not ascii_only or error.end - error.start > 1):
                flaw = f"is UTF-8 that breaks off inside of its last character, at byte offset {place}"
                raise NoText(flaw, whole=place) from None
            encoding = _encoding(head)
            name = f"is {encoding} and not UTF-8" if encoding.startswith("UTF") else "is not UTF-8"
            raise NoText(f"{name} (0x{error.object[error.start]:02X} at byte offset {place})", encoding) from None
        if "\0" in text:
            encoding = _encoding(head)
            raise NoText(f"is {encoding} and not UTF-8 (it has NUL bytes)" if encoding else "has NUL bytes", encoding)
        ascii_only = ascii_only and text.isascii()
        position += len(chunk)
        yield text


def cleaned(texts: Iterable[str], changes: Changes, *, line_ends: bool = True) -> Iterator[str]:
    """A text in pieces without byte order marks, its lines ended by line feeds; where it is cut does not matter.

    Args:
        texts: The pieces.
        changes: What was changed is put here.
        line_ends: Whether to change these.
    """
    newlines = io.IncrementalNewlineDecoder(None, translate=line_ends)
    for text in texts:
        marks = text.count(MARK)
        changes.marks += marks
        yield newlines.decode(text.replace(MARK, "") if marks else text)
    yield newlines.decode("", final=True)
    if line_ends:
        found = newlines.newlines or ()
        changes.line_ends = [end for end in LINE_ENDS if end in ((found,) if isinstance(found, str) else found)]


def decode(content: bytes, label: str, path: str | None = None, *, line_ends: bool = True) -> tuple[str, list[str]]:
    """A whole text and the notices on it.

    Args:
        content: Its bytes.
        label: What a message calls it.
        path: The file that it is in; None where it is in none.
        line_ends: Whether to change these.

    Raises:
        UserError: It is no text.
    """
    changes = Changes()
    try:
        text = "".join(cleaned(decoded([content]), changes, line_ends=line_ends))
    except NoText as error:
        raise UserError(f"{label} {error.flaw}; {error.advice(path)}") from None
    return text, changes.notice(label)


def _encoding(head: bytes) -> str:
    """What iconv calls the encoding of a text that is not UTF-8, guessed by its beginning; empty for no text."""
    candidates = [name for name, marks in _MARKED.items() if head.startswith(marks)]
    if not candidates and 0 in head:
        zeros = [head[i::4].count(0) for i in range(4)]
        quarter = len(head) // 4
        if quarter and min(zeros[2:]) >= quarter > zeros[0]:
            candidates = ["UTF-32LE"]
        elif quarter and min(zeros[:2]) >= quarter > zeros[3]:
            candidates = ["UTF-32BE"]
        else:
            candidates = ["UTF-16LE"] if zeros[1] + zeros[3] > zeros[0] + zeros[2] else ["UTF-16BE"]
    for encoding in candidates or ["CP1252", "ISO-8859-1"]:
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(head)
        except UnicodeDecodeError:
            continue
        readable = sum(letter.isprintable() or letter.isspace() or letter == MARK for letter in text)
        if readable >= 0.95 * len(text):
            return encoding
    return ""


_MARKED = {
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}

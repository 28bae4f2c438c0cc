"""Decoding of bytes to text: one rule for training texts, primes and configuration files.

A text is UTF-8 without NUL characters. Byte order marks are removed, and line ends become line feeds, as in Python's
text files.
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
"""The byte order mark, at the beginning of a file, or inside a file that was joined from several."""

LINE_ENDS = {"\r\n": "CR LF", "\r": "CR"}

_LOOKED_AT = 4096  # bytes at the beginning of a text, from which its encoding is guessed


class NoText(Exception):
    """Bytes that are not text.

    Attributes:
        flaw: The problem, as the predicate of a sentence: "is not UTF-8 (0xE9 at byte offset 3)".
        encoding: The probable encoding, by its name in iconv; empty if the bytes are probably not text.
        whole: The number of bytes before an incomplete last character; None if it is complete.
    """

    def __init__(self, flaw: str, encoding: str = "", whole: int | None = None) -> None:
        super().__init__(flaw)
        self.flaw, self.encoding, self.whole = flaw, encoding, whole

    def advice(self, path: str | None, packed: bool = False) -> str:
        """How to fix it.

        Args:
            path: The file's path for the shell; None for text from a pipe.
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
            return f"get the complete file, or cut off the broken character: {command}"
        if self.encoding.startswith("UTF"):
            return f"convert it: {command}"
        return f"convert it from its encoding, for example: {command}"


@dataclass
class Changes:
    """What decoding changed in a text.

    Attributes:
        marks: The number of byte order marks removed.
        line_ends: The line ends that were read as line feeds.
    """

    marks: int = 0
    line_ends: list[str] = field(default_factory=list)

    def notice(self, label: str) -> list[str]:
        """The sentence on the changes, if there are any."""
        told = []
        if self.marks:
            many = self.marks > 1
            told.append(f"{self.marks:,} byte order marks were left out" if many else "a byte order mark was left out")
        if self.line_ends:
            told.append(f"the line ends {' and '.join(LINE_ENDS[end] for end in self.line_ends)} were read as LF")
        return [f"in {label}, {' and '.join(told)}"] if told else []


def decoded(chunks: Iterable[bytes]) -> Iterator[str]:
    """Decode the bytes of one file, unchanged otherwise.

    Raises:
        NoText: they are not text.
    """
    rest = iter(chunks)
    head = b""

    def encoding() -> str:
        """What it is probably, by its beginning."""
        beginning = head
        while len(beginning) < _LOOKED_AT and (more := next(rest, b"")):
            beginning += more
        return _encoding(beginning)

    decoder = codecs.getincrementaldecoder("utf-8")()
    position, ascii_only = 0, True
    for chunk in chain(rest, [b""]):
        head += chunk if len(head) < _LOOKED_AT else b""
        start = position - len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            offset = start + error.start
            # A single byte at the end, after ASCII only, is more probably a Latin-1 letter.
            if error.reason == "unexpected end of data" and (not ascii_only or error.end - error.start > 1):
                flaw = f"is UTF-8 that ends inside its last character, at byte offset {offset}"
                raise NoText(flaw, whole=offset) from None
            probable = encoding()
            name = f"is {probable} and not UTF-8" if probable.startswith("UTF") else "is not UTF-8"
            raise NoText(f"{name} (0x{error.object[error.start]:02X} at byte offset {offset})", probable) from None
        if "\0" in text:
            probable = encoding()
            raise NoText(f"is {probable} and not UTF-8 (it has NUL bytes)" if probable else "has NUL bytes", probable)
        ascii_only = ascii_only and text.isascii()
        position += len(chunk)
        yield text


def cleaned(texts: Iterable[str], changes: Changes, *, line_ends: bool = True) -> Iterator[str]:
    """A text in pieces, without byte order marks, with line feeds as line ends; the pieces may be cut anywhere.

    Args:
        texts: The pieces.
        changes: Records the changes.
        line_ends: Whether to convert line ends.
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
    """Decode a whole text; return it with notices.

    Args:
        content: Its bytes.
        label: Its name in messages.
        path: Its file; None if there is none.
        line_ends: Whether to convert line ends.

    Raises:
        UserError: It is not text.
    """
    changes = Changes()
    try:
        text = "".join(cleaned(decoded([content]), changes, line_ends=line_ends))
    except NoText as error:
        raise UserError(f"{label} {error.flaw}; {error.advice(path)}") from None
    return text, changes.notice(label)


def _encoding(head: bytes) -> str:
    """The encoding of a text that is not UTF-8, by its name in iconv, guessed from its beginning; empty if not text."""
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

"""Sentences with a tag per token: a token per line, in columns, and a blank line after each sentence."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rnn_plugins.data.lines import Hash, lines, name_of
from rnn_plugins.data.tables import label_flaw
from rnn_plugins.errors import UserError
from rnn_plugins.words import amount

CONLL_U = 10
"""Columns of a file in the format CoNLL-U: ID, FORM, LEMMA, UPOS and others."""

DOCUMENT = "-DOCSTART-"
"""What begins a document in CoNLL-2003, on a line of its own."""


@dataclass(frozen=True)
class Sentence:
    """A sentence.

    Attributes:
        file: the name of its file.
        lines: the number of each token's line, from 1.
        tokens: its tokens, at least one.
        tags: a tag per token; None if the file has tokens alone.
    """

    file: str
    lines: list[int]
    tokens: list[str]
    tags: list[str] | None

    def mistake(self, problem: str, token: int = 0) -> UserError:
        """An error that names the file and the line of a token: ``pos.tsv, line 7: PROBLEM``."""
        return UserError(f"{self.file}, line {self.lines[token]}: {problem}")


def sentences(
    file: str,
    *,
    token_column: int = 0,
    tag_column: int = 0,
    tags: bool = True,
    digest: Hash | None = None,
    content: Iterable[str] | None = None,
) -> Iterator[Sentence]:
    """The sentences of a file in columns, as a stream.

    Columns are separated by tabs if the first line with a token has one, otherwise by blanks. Comments are lines that
    begin with ``#`` and have no tab, and, between blanks, not the columns of the others. ``-DOCSTART-`` is no token;
    neither are the ranges (``1-2``) and empty nodes (``8.1``) of CoNLL-U.

    Args:
        file: its path; ``-`` for standard input.
        token_column: the column of tokens, from 1, or from -1 backwards; 0 for the first (in CoNLL-U, the second).
        tag_column: the column of tags, likewise; 0 for the last (in CoNLL-U, the fourth).
        tags: whether tags are needed; otherwise a file may have tokens alone.
        digest: takes the content of the file.
        content: its lines, if they are being read already.

    Raises:
        UserError: the file cannot be read or has no tokens, or a line has another number of columns or an empty field.
    """
    name, columns = name_of(file), None
    numbers: list[int] = []
    rows: list[tuple[str, str | None]] = []
    found = False

    def sentence() -> Sentence:
        tagged = [tag for _, tag in rows if tag is not None]
        return Sentence(name, numbers, [token for token, _ in rows], tagged if columns and columns.tag else None)

    for number, line in enumerate(lines(file, digest) if content is None else content, 1):
        if not line.strip() and "\t" not in line:
            if rows:
                yield sentence()
                numbers, rows = [], []
            continue
        if line[0] == "#" and (columns is None or len(columns.divide(line)) != columns.count) and "\t" not in line:
            continue
        if columns is None:
            columns = _Columns(line, f"{name}, line {number}", token_column, tag_column, tags)
        row = columns.read(line, f"{name}, line {number}")
        if row:
            rows.append(row)
            numbers.append(number)
            found = True
    if rows:
        yield sentence()
    if not found:
        raise UserError(
            f"{name} has no tokens; expected a token and its tag per line, and a blank line after sentences"
        )


class _Columns:
    """The columns of a file, by its first line with a token.

    Attributes:
        count: their number.
        token: the number of the column of tokens, from 1.
        tag: likewise; 0 if there are no tags.
    """

    def __init__(self, line: str, place: str, token: int, tag: int, tags: bool) -> None:
        self._tab = "\t" in line
        fields = self.divide(line)
        self.count = len(fields)
        self._conll_u = self.count == CONLL_U and re.fullmatch(r"1([-.]\d+)?|0\.1", fields[0]) is not None
        self.token = self._number(token or (2 if self._conll_u else 1), place)
        if self.count == 1 and not tags:
            self.tag = 0
            return
        if self.count == 1:
            raise UserError(f"{place}: there is a token and no tag; expected a token, a tab and its tag")
        self.tag = self._number(tag or (4 if self._conll_u else -1), place)

    def divide(self, line: str) -> list[str]:
        return line.split("\t") if self._tab else line.split()

    def read(self, line: str, place: str) -> tuple[str, str | None] | None:
        """The token and the tag of a line; None if it has no token of the sentence."""
        fields = self.divide(line)
        if len(fields) != self.count:
            are = "is" if self.count == 1 else "are"
            raise UserError(f"{place}: it has {amount(len(fields), 'column')} where {self.count} {are} expected")
        if fields[0] == DOCUMENT or (self._conll_u and not fields[0].isdecimal()):
            return None
        token = fields[self.token - 1].strip()
        tag = fields[self.tag - 1].strip() if self.tag else None
        if not token:
            raise UserError(f"{place}: the token (column {self.token}) is empty")
        if tag is not None and (flaw := label_flaw(tag)):
            raise UserError(f"{place}: the tag (column {self.tag}) {flaw}; expected a token and its tag in each line")
        return token, tag

    def _number(self, column: int, place: str) -> int:
        if not 1 <= abs(column) <= self.count:
            raise UserError(f"{place}: there is no column {column}: the line has {amount(self.count, 'column')}")
        return column if column > 0 else self.count + 1 + column

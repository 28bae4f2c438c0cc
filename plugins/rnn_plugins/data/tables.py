"""Tables: records of text (TSV, CSV, JSON lines, one text per line), pairs of texts, and rows of numbers, as streams.

In CSV, fields are quoted as usual. In TSV, a quote is a character like any other, so that a field has no line ends.
"""

import csv
import json
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_plugins.data.lines import LABEL, LONGEST, Hash, lines, name_of
from rnn_plugins.errors import UserError, did_you_mean
from rnn_plugins.words import amount, listing

Kind = Literal["tsv", "csv", "jsonl", "lines"]

SUFFIXES: dict[str, Kind] = {
    ".tsv": "tsv",
    ".tab": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}

TIMES = ("time", "timestamp", "date", "datetime", "ds")
"""Names of columns that are times and not values."""

LARGEST = 1e100
"""A number is below this, so that squares and sums are finite."""

FARTHEST = 1e15
"""Deviations of a number from the mean of the training data; farther ones are damage, whose squares overflow."""

_SHOWN = 40  # characters of a field in a message


class Record(NamedTuple):
    """Some fields of a row of a table.

    Attributes:
        file: its name.
        line: the number of its first line, from 1.
        values: the fields by their columns.
    """

    file: str
    line: int
    values: dict[str, str]

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return f"{self.file}, line {self.line}"

    def mistake(self, problem: str) -> UserError:
        """An error that names file and line: ``reviews.tsv, line 7: PROBLEM``."""
        return _mistake(self.file, self.line, problem)


class Row(NamedTuple):
    """A row of a table of numbers.

    Attributes:
        file: its name.
        line: the number of its first line, from 1.
        values: F numbers below ``LARGEST``.
        label: its label, if labels were asked for.
        time: the field of its time column, if it has one.
    """

    file: str
    line: int
    values: list[float]
    label: str | None = None
    time: str | None = None

    def mistake(self, problem: str) -> UserError:
        """An error that names file and line."""
        return _mistake(self.file, self.line, problem)


@dataclass(frozen=True, eq=False)
class Frames:
    """A table of numbers.

    Attributes:
        file: its name.
        columns: the names of the F columns of values.
        values: the numbers, shape (N, F), float64, finite.
        labels: N labels; None if none were asked for.
        lines: the numbers of the rows' lines, from 1.
        times: N fields of the time column; None if there is none.
    """

    file: str
    columns: tuple[str, ...]
    values: NDArray[np.float64]
    labels: list[str] | None
    lines: list[int]
    times: list[str] | None = None

    def mistake(self, row: int, problem: str) -> UserError:
        """An error that names the file and the line of a row."""
        return _mistake(self.file, self.lines[row], problem)


def records(
    file: str,
    columns: Sequence[str],
    *,
    optional: Sequence[str] = (),
    bare: Sequence[str] = (),
    named_by: Mapping[str, str] | None = None,
    digest: Hash | None = None,
) -> Iterator[Record]:
    """The records of a table.

    The suffix of the file's name says what it is (``.tsv``, ``.csv``, ``.jsonl``, each also before ``.gz``), or else
    its first line: a JSON object, a line with a tab, a line with all the columns between commas, or else one text per
    line. The first row of a table is its header. A file has none if its columns are asked for by number (from 1), or
    if its first row lacks some column and has as many fields as ``bare``, or its first few, have names.

    Args:
        file: its path; ``-`` for standard input.
        columns: the columns that are needed.
        optional: columns whose fields are given where the table has them.
        bare: the names of the columns of a file without a header.
        named_by: the task's options that name columns, by the columns; a message on a missing one gives its option.
        digest: takes the content of the file.

    Raises:
        UserError: the file cannot be read, has no rows, lacks a column, or has a row that is damaged or of another
            length.
    """
    yield from _records(_Table(file, digest), columns, optional, bare, named_by)


PAIR = ("source", "target")
"""The values of a record of a pair, and by default the names of its columns."""


def pairs(
    files: Sequence[str],
    columns: tuple[str, str] = PAIR,
    *,
    targets: bool = True,
    named_by: Mapping[str, str] | None = None,
    digest: Hash | None = None,
) -> Iterator[Record]:
    """Pairs of texts, as records with the values ``source`` and ``target``.

    A file is a table with these columns, or JSON lines with these keys; a table of two columns needs no header, unless
    other columns than ``source`` and ``target`` are asked for. Two files of one text per line that stand one after the
    other are parallel: line n of the second is the translation of line n of the first.

    Args:
        files: their paths; ``-`` for standard input.
        columns: those of sources and of targets.
        targets: whether targets are needed; otherwise files may have sources alone, and none are parallel.
        named_by: as for ``records``.
        digest: takes the content of the files.

    Raises:
        UserError: a file cannot be read, a line is not a pair, or parallel files have unlike numbers of lines.
    """
    first: _Table | None = None
    for file in files:
        table = _Table(file, digest)
        if targets and table.kind == "lines":
            if first:
                yield from _parallel(first, table)
            first = None if first else table
        elif first:
            break
        else:
            alone = columns[:1] if table.kind == "lines" and not targets else ()
            bare = columns if columns == PAIR else alone
            for record in _records(table, columns[: 1 + targets], columns[1:], bare, named_by):
                values = {
                    name: record.values[at] for name, at in zip(PAIR, columns, strict=True) if at in record.values
                }
                yield record._replace(values=values)
    if first:
        raise UserError(
            f"{first.name} has one text per line and no file of translations after it; give two such files, the "
            "sources first, or a file with a source, a tab and a target in each line"
        )


def rows_of_numbers(
    file: str,
    *,
    label_column: str = "",
    time_column: str | None = None,
    labelled: bool = True,
    only: Sequence[str] = (),
    digest: Hash | None = None,
) -> tuple[tuple[str, ...], Iterator[Row]]:
    """The columns and the rows of a table of numbers, CSV or TSV.

    A file whose first row has numbers only has no header; its columns are called ``1``, ``2`` and so on.

    Args:
        file: its path; ``-`` for standard input.
        label_column: the column of labels, which is none of the values; empty for none.
        time_column: the column of times, likewise; None for the first one named as in ``TIMES``, empty for none.
        labelled: whether the column of labels is needed; otherwise labels are None where it is missing.
        only: the columns of numbers that are wanted, in that order; if there are none, all.
        digest: takes the content of the file.

    Raises:
        UserError: the file cannot be read, has no rows or no numbers, lacks a column, or has a row that is damaged,
            of another length, or has something else than a number below ``LARGEST``.
    """
    table = _Table(file, digest)
    if table.kind == "jsonl" or _guess(table.first) == "jsonl":
        raise UserError(f"{table.name} has JSON; expected numbers in CSV or TSV, with a header")
    rows = table.rows(())
    line, first = next(rows)
    header = [name.strip() for name in first]
    if all(_number(field) is not None for field in first):
        header, rows = [str(number) for number in range(1, len(first) + 1)], chain([(line, first)], rows)
    _check_header(table.name, line, header, header)
    dated = time_column is None
    if time_column is None:
        time_column = next((name for name in header if name.lower() in TIMES and name != label_column), "")
    for name in (label_column, time_column, *only):
        if name and name not in header and (labelled or name != label_column):
            named_by = {label_column: "label_column", time_column: "time_column"}
            raise _mistake(table.name, line, _no_column(name, header, named_by))
    label = header.index(label_column) if label_column in header else None
    time = header.index(time_column) if time_column in header else None
    places = [place for place in range(len(header)) if place not in (label, time)]
    places = [header.index(name) for name in only] or places
    columns = tuple(header[place] for place in places)
    if not columns:
        raise _mistake(table.name, line, "there is no column of numbers")
    return columns, _numbers(table, header, places, label, time, dated and time is None, rows)


def frames(
    file: str,
    *,
    label_column: str = "",
    time_column: str | None = None,
    labelled: bool = True,
    only: Sequence[str] = (),
    digest: Hash | None = None,
) -> Frames:
    """A whole table of numbers; the arguments and errors are those of ``rows_of_numbers``."""
    columns, rows = rows_of_numbers(
        file, label_column=label_column, time_column=time_column, labelled=labelled, only=only, digest=digest
    )
    values, labels, numbers, times = array("d"), [], [], []
    for row in rows:
        values.extend(row.values)
        numbers.append(row.line)
        labels.append(row.label)
        times.append(row.time)
    return Frames(
        name_of(file),
        columns,
        np.asarray(values).reshape(len(numbers), len(columns)),
        [label for label in labels if label is not None] or None,
        numbers,
        [time for time in times if time is not None] or None,
    )


def standardised(values: ArrayLike, mean: ArrayLike, deviation: ArrayLike, place: str) -> NDArray[np.float64]:
    """Numbers without a mean, in deviations; ``place`` names where they are.

    Raises:
        UserError: a number is too far from the mean.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found: NDArray[np.float64] = np.divide(np.subtract(values, mean), deviation, dtype=np.float64)
    most = np.abs(found).max(initial=0)
    if not most < FARTHEST:
        raise UserError(
            f"{place}: a number is {most:.2g} deviations from the mean of the training data; expected at most "
            f"{FARTHEST:g}"
        )
    return found


def label_flaw(field: str) -> str:
    """Why a field is no label, as the predicate of a sentence; empty if it is one."""
    if not field.strip():
        return "is empty"
    return f"has {len(field):,} characters" if len(field) > LABEL else ""


# Rows ---------------------------------------------------------------------------------------------------------


class _Table:
    """The lines of a table, and what kind of table it is.

    Attributes:
        name: in messages.
        kind: of its rows; ``lines`` for one field per line, unless the header turns out to be CSV.
        start: the number of its first line that is not blank.
        first: that line.
        lines: all lines from there.
    """

    def __init__(self, file: str, digest: Hash | None) -> None:
        self.name = name_of(file)
        found = lines(file, digest)
        csv.field_size_limit(LONGEST)  # by default less than a long text has
        self.start, self.first = next(((n, line) for n, line in enumerate(found, 1) if not _blank(line)), (0, ""))
        if not self.start:
            raise UserError(f"{self.name} is empty; expected a table, or lines of text")
        self.lines = chain([self.first], found)
        self.kind = SUFFIXES.get(Path(file.lower().removesuffix(".gz")).suffix) or _guess(self.first)

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
        """The fields of each row, with the number of its first line.

        Args:
            columns: names in its header, by which CSV is known; if there are none, a line with commas is CSV.
        """
        separator = _separator(self.first, columns)
        if self.kind == "csv":
            return self._quoted(separator or _separator(self.first, ()) or ",")
        if self.kind == "lines" and separator:
            return self._quoted(separator)
        return self._split()

    def texts(self) -> Iterator[str]:
        """Its lines, whatever is in them, without blank lines at the end."""
        blank = self.start - 1
        for line in self.lines:
            if line.strip():
                yield from ("" for _ in range(blank))
                blank = 0
                yield line
            else:
                blank += 1

    def _split(self) -> Iterator[tuple[int, list[str]]]:
        """Rows without quotes. A blank line is an empty text where a row is one text, but not at the file's end."""
        blank = list(range(1, self.start))
        for number, line in enumerate(self.lines, self.start):
            if _blank(line):
                blank.append(number)
                continue
            if self.kind == "lines":
                yield from ((number, [""]) for number in blank)
            blank.clear()
            yield number, [line] if self.kind == "lines" else line.split("\t")

    def _quoted(self, separator: str) -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader((line + "\n" for line in self.lines), delimiter=separator, strict=True)
        while True:
            line = self.start + reader.line_num
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise _mistake(self.name, line, _badly_quoted(error, separator)) from None
            if row is None:
                return
            if len(row) > 1 or (row and not row[0].isspace()):
                yield line, row


def _records(
    table: _Table,
    columns: Sequence[str],
    optional: Sequence[str],
    bare: Sequence[str],
    named_by: Mapping[str, str] | None = None,
) -> Iterator[Record]:
    if table.kind == "jsonl":
        yield from _objects(table, columns, optional, named_by)
        return
    rows = table.rows(columns)
    line, first = next(rows)
    header = [name.strip() for name in first]
    if missing := [name for name in columns if name not in header]:
        names, bare = bare, bare[: len(first)]
        if all(map(str.isdecimal, columns)):
            header = [str(number) for number in range(1, len(first) + 1)]
            if beyond := [name for name in columns if name not in header]:
                problem = f"there is no column {beyond[0]}: the line has {amount(len(first), 'field')}"
                raise _mistake(table.name, line, problem)
        elif len(bare) == len(first) and set(columns) <= set(bare):
            header = list(bare)
        elif len(first) > len(names) > 1 and not set(names) & set(header):
            named = " and ".join(f"--task-option {option}=NAME" for option in (named_by or {}).values())
            others = f"; name others with {named}" if named else ""
            raise _mistake(
                table.name, line, f"{_other_length(first, names)}, or a header that has these columns{others}"
            )
        else:
            raise _mistake(table.name, line, _no_column(missing[0], header, named_by))
        rows = chain([(line, first)], rows)
    places = {name: header.index(name) for name in (*columns, *optional) if name in header}
    _check_header(table.name, line, header, places)
    count = 0
    for line, row in rows:
        if len(row) != len(header):
            raise _mistake(table.name, line, _other_length(row, header))
        count += 1
        yield Record(table.name, line, {name: row[place] for name, place in places.items()})
    if not count:
        raise UserError(f"{table.name} has a header and no rows; expected rows with {_names(header)}")


def _objects(
    table: _Table, columns: Sequence[str], optional: Sequence[str], named_by: Mapping[str, str] | None
) -> Iterator[Record]:
    """The records of JSON lines; numbers and truth values are given as JSON writes them."""
    for number, line in enumerate(table.lines, table.start):
        if _blank(line):
            continue
        record = Record(table.name, number, {})
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            problem = f"this is not JSON ({error.msg} at column {error.colno}); expected an object per line"
            raise record.mistake(problem) from None
        except (ValueError, RecursionError):  # an integer with thousands of digits; thousands of brackets
            raise record.mistake("this JSON is too large to read; expected an object of texts per line") from None
        if not isinstance(value, dict):
            expected = json.dumps(dict.fromkeys(columns, "..."))
            raise record.mistake(f"this is {_kind(value)}; expected a JSON object per line, such as {expected}")
        for name in (*columns, *optional):
            if name in columns and name not in value:
                raise record.mistake(_no_column(name, value, named_by, "key"))
            if name in columns or value.get(name) is not None:
                record.values[name] = _text(record, name, value[name])
        yield record


def _text(record: Record, name: str, value: Any) -> str:
    if value is None or isinstance(value, list | dict):
        raise record.mistake(f"the key {name!r} has {_kind(value)}; expected a text")
    text = value if isinstance(value, str) else json.dumps(value)
    if "\0" in text:
        raise record.mistake(f"the text of {name!r} has a NUL character; leave it out")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise record.mistake(f"the text of {name!r} has a lone surrogate, which is not a character; leave it out")
    return text


def _parallel(sources: _Table, targets: _Table) -> Iterator[Record]:
    number = 0
    for number, (source, target) in enumerate(zip_longest(sources.texts(), targets.texts()), 1):
        if source is None or target is None:
            fewer, more = (sources, targets) if source is None else (targets, sources)
            raise UserError(
                f"{fewer.name} has {amount(number - 1, 'line')} and {more.name} has more; expected parallel texts, in "
                "which line n of one is the translation of line n of the other"
            )
        yield Record(sources.name, number, {"source": source, "target": target})


def _numbers(
    table: _Table,
    header: list[str],
    places: list[int],
    label: int | None,
    time: int | None,
    untimed: bool,
    rows: Iterator[tuple[int, list[str]]],
) -> Iterator[Row]:
    line = 0
    for line, fields in rows:
        if len(fields) != len(header):
            raise _mistake(table.name, line, _other_length(fields, header))
        values = [_number(fields[place]) for place in places]
        if None in values:
            place = places[values.index(None)]
            field, name = fields[place], header[place][:_SHOWN]
            found = f"is {_shown(field)}" if field.strip() else "is empty"
            expected = f"expected a number, below {LARGEST:g} and above {-LARGEST:g}"
            if _number(field.replace(",", ".")) is not None:
                expected = "expected a number with a decimal point and no comma"
            elif untimed and re.match(r"\d+[-/:]\d", field.strip()):
                expected += "; if these are times, name the column with --task-option time_column=NAME"
            raise _mistake(table.name, line, f"the column {name!r} {found}; {expected}")
        if label is not None and (flaw := label_flaw(fields[label])):
            raise _mistake(table.name, line, f"the column {header[label][:_SHOWN]!r} {flaw}; expected a label")
        yield Row(
            table.name,
            line,
            values,  # type: ignore[arg-type]
            None if label is None else fields[label].strip(),
            None if time is None else fields[time].strip(),
        )
    if not line:
        raise UserError(f"{table.name} has a header and no rows; expected rows of numbers")


# Fields and messages ------------------------------------------------------------------------------------------


def _guess(line: str) -> Kind:
    """What a table is whose name does not say it, by its first line."""
    if line.lstrip()[:1] == "{" and line.lstrip()[1:].lstrip()[:1] in ('"', "}"):
        return "jsonl"
    return "tsv" if "\t" in line else "lines"


def _separator(line: str, columns: Sequence[str]) -> str:
    """What stands between the fields of a line of CSV; empty if that is no header with these columns."""
    for separator in ",;\t":
        if columns and separator in line:
            header = {name.strip() for name in next(csv.reader([line], delimiter=separator), ())}
            if header.issuperset(columns):
                return separator
    if not all(map(str.isdecimal, columns)):
        return ""
    separator = max(",;\t", key=line.count)
    return separator if separator in line else ""


def _blank(line: str) -> bool:
    return not line.strip() and "\t" not in line


def _number(field: str) -> float | None:
    """A number below ``LARGEST``; None for anything else."""
    try:
        number = float(field)
    except ValueError:
        return None
    return number if abs(number) < LARGEST and "_" not in field else None  # NaN is not below


def _check_header(name: str, line: int, header: Sequence[str], wanted: Iterable[str]) -> None:
    if twice := [column for column in wanted if header.count(column) > 1]:
        raise _mistake(name, line, f"the column {_shown(twice[0])} occurs twice in the header; rename one of them")


def _mistake(name: str, line: int, problem: str) -> UserError:
    return UserError(f"{name}, line {line}: {problem}")


def _no_column(name: str, known: Iterable[str], named_by: Mapping[str, str] | None, noun: str = "column") -> str:
    known = list(known)
    there = f"The {noun}s are {listing(map(_shown, known))}" if known else f"There are no {noun}s"
    option = (named_by or {}).get(name, "")
    option = option and f"; name another one with --task-option {option}=NAME"
    return f"there is no {noun} {_shown(name)}.{did_you_mean(name, known)} {there}{option}"


def _other_length(row: Sequence[str], header: Sequence[str]) -> str:
    return (
        f"it has {amount(len(row), 'field')} where {len(header)} {'is' if len(header) == 1 else 'are'} expected "
        f"({_names(header)})"
    )


def _badly_quoted(error: csv.Error, separator: str) -> str:
    if "unexpected end" in str(error):
        return 'a quote (") that opens a field is not closed'
    if "field larger" in str(error):
        return f'a field has more than {LONGEST:,} characters; is a quote (") not closed?'
    if "expected after" in str(error):
        return (
            f'text follows the quote (") that closes a field; expected {separator!r} there, and two quotes ("") for '
            "a quote in the field"
        )
    return f"it is not CSV ({error})"


def _names(columns: Sequence[str]) -> str:
    return listing(column if len(column) <= _SHOWN else column[:_SHOWN] + "..." for column in columns)


def _shown(field: str) -> str:
    return repr(field if len(field) <= _SHOWN else field[:_SHOWN] + "...")


def _kind(value: object) -> str:
    kinds: dict[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    return kinds.get(type(value), "null" if value is None else "a number")

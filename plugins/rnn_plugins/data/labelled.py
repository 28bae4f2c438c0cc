"""Texts, rows of numbers and images with their classes, from tables, and from files and folders named after a class."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from rnn_plugins.data.images import common_white, is_images, read_images
from rnn_plugins.data.lines import Hash, lines, name_of
from rnn_plugins.data.sources import in_folder, is_pipe
from rnn_plugins.data.tables import SUFFIXES, label_flaw, records, rows_of_numbers
from rnn_plugins.errors import UserError
from rnn_plugins.words import amount, listing

Kind = Literal["texts", "rows", "images"]
"""What a file has: texts, a table of numbers whose rows are sequences, or images."""


class Found(NamedTuple):
    """A text, a row or an image with its class.

    Attributes:
        where: file and line, or the image's name, for messages.
        value: a text, or numbers (H, W, C); of a row (F / width, width, 1).
        label: its class; empty if there is none.
        file: the file that has this text alone; empty if there is none.
    """

    where: str
    value: Any
    label: str
    file: str = ""


@dataclass(frozen=True)
class Reader:
    """How files are read.

    Attributes:
        text_column: of a table of texts.
        label_column: of a table.
        width: numbers per step of the rows of a table.
        image_size: the height and width that pictures are scaled to; 0 leaves them as they are.
    """

    text_column: str = "text"
    label_column: str = "label"
    width: int = 1
    image_size: int = 0

    @property
    def _options(self) -> dict[str, str]:
        return {self.text_column: "text_column", self.label_column: "label_column"}

    def kind(self, files: Sequence[str]) -> Kind:
        """What files or folders have, by their names and first lines.

        Raises:
            UserError: they are of several kinds.
        """
        kinds = {file: self._kind(file) for file in files}
        first, kind = next(iter(kinds.items()))
        for file, other in kinds.items():
            if other != kind:
                raise UserError(f"{name_of(file)} has {other} and {first} has {kind}; give files of one kind")
        return kind

    def labelled(self, file: str, kind: Kind, digest: Hash, notices: list[str]) -> Iterator[Found]:
        """The texts or the rows of a file, with their classes.

        Args:
            file: its path; that of a folder for texts.
            kind: what it has.
            digest: takes the content.
            notices: takes sentences.

        Raises:
            UserError: the file cannot be read, is not of that kind, or has something without a class.
        """
        if kind == "rows":
            return self.rows(file, digest=digest, notices=notices)
        if os.path.isdir(file):
            return self._folder(file, digest, notices)
        return self._table(file, digest) if self._is_table(file) else _lines(file, digest, notices)

    def images(
        self, files: Sequence[str], how: Mapping[str, Any], digest: Hash, notices: list[str]
    ) -> tuple[list[Found], dict[str, Any]]:
        """The images of files, and how they are read: shape, white and label_column of ``read_images``.

        Args:
            files: their paths, or those of folders.
            how: as it was found in the files that were trained on; empty for those.
            digest: takes the content.
            notices: takes sentences.

        Raises:
            UserError: a file cannot be read, or its images have no classes, another size or other pixels.
        """
        found, scales = list[Found](), dict[str, int | None]()
        for file in files:
            images = read_images(file, size=self.image_size, **how)
            if images.labels is None:
                raise UserError(f"{name_of(file)} has images without classes: {images.unlabelled}")
            how = how or {"shape": images.shape, "label_column": images.label_column}
            scales[file] = images.scale
            digest.update(images.digest.encode())
            notices += images.notices
            found += map(Found, images.names, images.pixels, images.labels)
        return found, {"white": common_white(scales), **how} if "white" not in how else dict(how)

    def texts(self, file: str, whole: bool = False) -> Iterator[Found]:
        """Texts whose class is not needed: those of a table, the lines of a file, or those of all files in a folder.

        Args:
            file: its path; that of a folder.
            whole: whether each file in a folder is a text, and not each of its lines; if it has folders, it always is.

        Raises:
            UserError: the file or a file in the folder cannot be read, or there is none.
        """
        if os.path.isdir(file):
            yield from _unlabelled(file, whole)
            return
        for record in records(file, (self.text_column,), bare=(self.text_column,), named_by=self._options):
            yield Found(f"{record.file}, line {record.line}", record.values[self.text_column], "")

    def rows(
        self, file: str, size: int = 0, *, digest: Hash | None = None, notices: list[str] | None = None
    ) -> Iterator[Found]:
        """The rows of a table of numbers.

        In a table without a header, the class is the last number.

        Args:
            file: its path; ``-`` for standard input.
            size: the number of values in a row if that is known, and rows need no class; 0 otherwise.
            digest: takes the content.
            notices: takes sentences.

        Raises:
            UserError: as ``rows_of_numbers``, or there is no class, or the width does not divide the number of columns.
        """
        name, label = name_of(file), self.label_column
        columns, rows = rows_of_numbers(file, label_column=label, labelled=False, time_column="", digest=digest)
        bare = columns == tuple(str(i + 1) for i in range(len(columns)))
        last = None
        for row in rows:
            if last is None:
                last = bare and row.label is None and len(columns) > 1 and (not size or len(columns) == size + 1)
                if not last and row.label is None and not size:
                    raise UserError(
                        f"{name} has no column {label!r} for the class; its columns are {listing(columns)}: name one "
                        "with --task-option label_column=NAME"
                    )
                if last and notices is not None:
                    notices.append(f"{name} has no header, so the last of its {len(columns)} columns is the class")
                if (len(columns) - last) % self.width:
                    raise UserError(
                        f"{name} has {amount(len(columns) - last, 'column')} of numbers, and width is {self.width}; "
                        "expected a multiple of the width, which is the numbers of one step"
                    )
            values = row.values[:-1] if last else row.values
            found = f"{row.values[-1]:.15g}" if last else row.label or ""
            yield Found(f"{row.file}, line {row.line}", np.array(values).reshape(-1, self.width, 1), found)

    def _kind(self, file: str) -> Kind:
        if is_pipe(file):
            return "texts"
        if is_images(file):
            return "images"
        return "texts" if os.path.isdir(file) or not self._has_numbers(file) else "rows"

    def _table(self, file: str, digest: Hash) -> Iterator[Found]:
        columns = (self.text_column, self.label_column)
        for record in records(file, columns, named_by=self._options, digest=digest):
            label = record.values[self.label_column].strip()
            if flaw := label_flaw(label):
                raise record.mistake(f"the column {self.label_column!r} {flaw}; expected the class of the text")
            yield Found(f"{record.file}, line {record.line}", record.values[self.text_column], label)

    def _is_table(self, file: str) -> bool:
        """Whether a file is a table of texts by its ending, or has the columns of one."""
        if is_pipe(file) or Path(file.lower().removesuffix(".gz")).suffix in SUFFIXES:
            return True
        try:
            next(records(file, (self.text_column, self.label_column)))
        except UserError:
            return False
        return True

    def _has_numbers(self, file: str) -> bool:
        """Whether the first row of a file has numbers, several of them."""
        try:
            columns, rows = rows_of_numbers(file, label_column=self.label_column, labelled=False, time_column="")
            return len(columns) > 1 and self.text_column not in columns and next(rows, None) is not None
        except UserError:
            return False

    def _folder(self, folder: str, digest: Hash, notices: list[str]) -> Iterator[Found]:
        """The texts of a folder: a line of each file, or each file in the folder of a class."""
        files, inside = _listed(folder)
        if not inside and not files:
            raise UserError(f"the folder {folder!r} is empty; expected a text file, or a folder, for each class")
        if inside and files:
            notices.append(
                f"of the folder {folder!r}, the folders were read; left out: {listing(file.name for file in files)}"
            )
        for entry, texts in inside.items():
            if not texts:
                raise UserError(f"the folder {str(entry)!r} is empty; expected a file for each text of its class")
            for file in texts:
                digest.update(f"{entry.name}\0".encode("utf-8", "surrogateescape"))
                yield _whole(file, entry.name, digest)
        for file in files if not inside else ():
            yield from _lines(str(file), digest, notices)


def _listed(folder: str) -> tuple[list[Path], dict[Path, list[Path]]]:
    """The files in a folder, and those below each of its folders, in order.

    Raises:
        UserError: it cannot be read, or has tables.
    """
    files, inside = in_folder(folder)
    if tables := [file.name for file in files if Path(file.name.removesuffix(".gz")).suffix.lower() in SUFFIXES]:
        raise UserError(
            f"the folder {folder!r} has tables ({listing(tables)}); give the tables themselves: "
            f"{shlex.quote(str(Path(folder, tables[0])))}"
        )
    return files, inside


def _whole(file: Path, label: str = "", digest: Hash | None = None) -> Found:
    """The text that is a whole file."""
    return Found(str(file), "\n".join(lines(str(file), digest)), label, str(file))


def _unlabelled(folder: str, whole: bool) -> Iterator[Found]:
    """The texts of all files in a folder and its folders, one per file or one per line that is not blank."""
    files, inside = _listed(folder)
    files += [file for some in inside.values() for file in some]
    if not files:
        raise UserError(f"there is no file in the folder {folder!r}; expected text files")
    for file in files:
        if whole or inside:
            yield _whole(file)
            continue
        for number, line in enumerate(lines(str(file)), 1):
            if line.strip():
                yield Found(f"{file}, line {number}", line.strip(), "")


def _lines(file: str, digest: Hash, notices: list[str]) -> Iterator[Found]:
    """The lines of a file whose name is their class."""
    label = Path(file.removesuffix(".gz")).stem
    digest.update(f"{label}\0".encode("utf-8", "surrogateescape"))
    blank, number = [], 0
    for number, line in enumerate(lines(file, digest), 1):
        if line.strip():
            yield Found(f"{file}, line {number}", line.strip(), label)
        else:
            blank.append(str(number))
    if len(blank) == number:
        raise UserError(f"{file} has no text; expected one on each line, of the class {label!r}")
    if blank:
        notices.append(f"{file}: {amount(len(blank), 'empty line')} left out (line {listing(blank)})")

"""Sequences with a label at every step: sentences in columns, and tables of frames, one file per sequence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.data import conll, tables
from rnn_plugins.data.balance import weights_of
from rnn_plugins.data.lines import Hash
from rnn_plugins.data.tokens import Tokens
from rnn_plugins.errors import UserError, did_you_mean
from rnn_plugins.words import listing

Array: TypeAlias = NDArray[Any]

LONGEST_WORD = 20
"""Letters of a word that are read: of a longer one, half of them from its beginning and half from its end."""

Scale = Literal["training", "recording"]
"""What frames are standardised by: the mean and deviation of the training part, or of each recording, before that."""

REMEMBERED = 1 << 16
"""Words whose letters are remembered."""


NOUNS = {"tokens": ("token", "sentence"), "frames": ("frame", "recording")}
"""What a step and a sequence are, by the kind of a sequence."""


@dataclass(frozen=True, eq=False)
class Tagged:
    """A sequence from a file.

    Attributes:
        file: its name.
        lines: the number of the line of each step, from 1.
        labels: T labels; none where the file has none.
        tokens: T tokens; none for frames.
        frames: (T, F) numbers; None for tokens.
        columns: the names of the F columns.
        timed: whether the frames have a column of times, which is none of these.
    """

    file: str
    lines: Sequence[int]
    labels: Sequence[str] = ()
    tokens: Sequence[str] = ()
    frames: Array | None = None
    columns: tuple[str, ...] = ()
    timed: bool = False

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def kind(self) -> str:
        """``tokens`` or ``frames``."""
        return "tokens" if self.frames is None else "frames"

    def mistake(self, step: int, problem: str) -> UserError:
        """An error that names the file and the line of a step."""
        return UserError(f"{self.file}, line {self.lines[step]}: {problem}")


class Example(NamedTuple):
    """A sequence as a network takes it.

    Attributes:
        tokens: T words; none for frames.
        xs: ids of the words (T,), or standardised frames (T, F).
        spelling: T arrays of ids of letters if they are read, otherwise none.
        tags: (T,), ids of labels; zeros where they are not known.
        weights: (T,), of the steps in the mean loss.
    """

    tokens: tuple[str, ...]
    xs: Array
    spelling: tuple[Array, ...]
    tags: Array
    weights: Array

    def pieces(self, length: int) -> list[Example]:
        """The sequence cut into pieces of at most ``length`` steps; whole if that is 0."""
        starts = range(0, len(self.tags), length or len(self.tags))
        cuts = [slice(start, start + length if length else None) for start in starts]
        return [
            Example(self.tokens[cut], self.xs[cut], self.spelling[cut], self.tags[cut], self.weights[cut])
            for cut in cuts
        ]


class Encoder:
    """From sequences to examples, by the facts of a run.

    The facts are ``kind`` (tokens or frames), ``labels``, and their ``counts`` in the training part; of tokens
    ``words`` and ``letters`` (None if they are not read); of frames ``columns``, ``differences`` and ``scale``, as
    ``features`` takes them, and ``mean`` and ``deviation`` of the features.

    Attributes:
        kind: of the sequences.
        labels: the labels.
        weights: (K,), of the labels.
        words: the words; None for frames.
        letters: the letters; None if they are not read.
        columns: of frames.
        features: of frames, such as "x" and "change of x".

    Raises:
        ValueError: the facts are damaged; a ``KeyError`` or ``TypeError`` means the same.
    """

    def __init__(self, facts: Mapping[str, Any], *, weighted: bool = False) -> None:
        self.kind: str = facts["kind"]
        self.labels: list[str] = facts["labels"]
        self._numbers = {label: i for i, label in enumerate(self.labels)}
        counts = np.array(facts["counts"], np.float64)
        if counts.shape != (len(self.labels),) or not counts.sum() > 0:
            raise ValueError("it does not have a count per label")
        self.weights = weights_of(counts, balanced=weighted).astype(np.float32)
        self.words = self.letters = None
        self.columns: list[str] = []
        self.features: list[str] = []
        if self.kind == "tokens":
            self.words = Tokens.from_json(facts["words"])
            self.letters = Tokens.from_json(facts["letters"]) if facts["letters"] else None
        else:
            self.columns = facts["columns"]
            self._differences, self._scale = facts["differences"], facts["scale"]
            changes = [f"change of {name}" for name in self.columns] if self._differences else []
            self.features = [*self.columns, *changes]
            self._mean, self._deviation = (np.array(facts[name], np.float64) for name in ("mean", "deviation"))
            if not self._mean.shape == self._deviation.shape == (len(self.features),):
                raise ValueError("its mean and deviation are not a number per column")
        self._spelling = lru_cache(REMEMBERED)(self._letters)

    def labelled(self, sequence: Tagged) -> Example:
        """A sequence with its labels as an example.

        Raises:
            UserError: a label is not known, or frames have other columns.
        """
        for step, label in enumerate(sequence.labels):
            if label not in self._numbers:
                raise sequence.mistake(
                    step,
                    f"the label {label!r} is not in the training data, which have {listing(self.labels)}."
                    f"{did_you_mean(label, self.labels)}",
                )
        tags = np.array([self._numbers[label] for label in sequence.labels], np.intp)
        return self.unlabelled(sequence)._replace(tags=tags, weights=self.weights[tags])

    def unlabelled(self, sequence: Tagged) -> Example:
        """A sequence without its labels as an example.

        Raises:
            UserError: frames have other columns, or a number that is too far from the mean.
        """
        if sequence.frames is None:
            return self.sentence(sequence.tokens)
        require_columns(sequence, self.columns)
        return self.recording(sequence.frames, sequence.file)

    def sentence(self, tokens: Sequence[str]) -> Example:
        """Tokens as an example without labels."""
        assert self.words is not None
        spelling = tuple(map(self._spelling, tokens)) if self.letters else ()
        return _without_labels(self.words.encode(tokens), tuple(tokens), spelling)

    def recording(self, frames: Array, name: str) -> Example:
        """Frames (T, F) as an example without labels; ``name`` is that of the recording.

        Raises:
            UserError: a number is too far from the mean.
        """
        found = features(frames, self._differences, self._scale)
        return _without_labels(tables.standardised(found, self._mean, self._deviation, name))

    def _letters(self, word: str) -> Array:
        assert self.letters is not None
        half = LONGEST_WORD // 2
        return self.letters.encode(word if len(word) <= LONGEST_WORD else word[:half] + word[-half:])


def _without_labels(xs: Array, tokens: tuple[str, ...] = (), spelling: tuple[Array, ...] = ()) -> Example:
    return Example(tokens, xs, spelling, np.zeros(len(xs), np.intp), np.ones(len(xs), np.float32))


def features(frames: Array, differences: bool, scale: Scale) -> Array:
    """Frames (T, F) as a network reads them, (T, F), or (T, 2 F) with differences.

    Args:
        frames: of one recording.
        differences: whether to add the change of each number since the frame before, 0 at the first frame.
        scale: ``recording`` to subtract each column's mean and divide by its deviation, within the recording.
    """
    if differences:
        frames = np.hstack([frames, np.diff(frames, axis=0, prepend=frames[:1])])
    if scale == "training":
        return frames
    found: Array = (frames - frames.mean(0)) / deviation(frames)
    return found


def deviation(values: Array) -> Array:
    """The standard deviation of each column, 1 where all its numbers are the same: (N, F) gives (F,)."""
    # Rounding makes the deviation of equal numbers not quite 0.
    return np.where(np.ptp(values, axis=0) > 0, values.std(0), 1.0)


def require_columns(sequence: Tagged, columns: Sequence[str]) -> None:
    """Check that frames have the columns of others, in their order.

    Raises:
        UserError: they have not.
    """
    if list(sequence.columns) == list(columns):
        return
    missing = [name for name in columns if name not in sequence.columns]
    more = [name for name in sequence.columns if name not in columns]
    differences = [f"{what} {listing(names)}" for what, names in (("lacks", missing), ("also has", more)) if names]
    raise UserError(
        f"{sequence.file} {' and '.join(differences) or 'has the columns in another order'}; expected the columns "
        f"{listing(columns)}, as in the training data"
    )


def is_frames(file: str) -> bool:
    """Whether a file has frames, by its name: ``.csv``, also before ``.gz``."""
    return file.lower().removesuffix(".gz").endswith(".csv")


def read(
    file: str,
    *,
    frames: bool,
    text_column: str = "",
    label_column: str = "",
    time_column: str = "",
    labelled: bool = True,
    digest: Hash | None = None,
    content: Iterable[str] | None = None,
) -> Iterator[Tagged]:
    """The sequences of a file.

    Args:
        file: its path.
        frames: whether it is a table of frames, one sequence, and not sentences in columns.
        text_column: the number of the column of tokens, from 1, or from -1 backwards; by default the first.
        label_column: the number of the column of labels, by default the last; of frames the name, by default ``label``.
        time_column: the name of a column of times in frames; by default one that is called so; ``none`` for none.
        labelled: whether labels are needed.
        digest: takes the content of the file.
        content: the lines of sentences, if they are being read already.

    Raises:
        UserError: the file cannot be read, or has something else.
    """
    if frames:
        time = {"": None, "none": ""}.get(time_column, time_column)
        table = tables.frames(
            file, label_column=label_column or "label", time_column=time, labelled=labelled, digest=digest
        )
        yield Tagged(
            table.file,
            table.lines,
            table.labels or (),
            frames=table.values,
            columns=table.columns,
            timed=table.times is not None,
        )
        return
    token, tag = _number("text_column", text_column), _number("label_column", label_column)
    found = conll.sentences(file, token_column=token, tag_column=tag, tags=labelled, digest=digest, content=content)
    for sentence in found:
        yield Tagged(sentence.file, sentence.lines, sentence.tags or (), sentence.tokens)


def columns_or_texts(content: Iterator[str]) -> tuple[bool, Iterator[str]]:
    """Whether lines are columns, whose first line that is not blank has a tab, and not a sentence each; all lines.

    Where all lines are blank, they are columns, which are refused if they have no tokens.
    """
    begin = list[str]()
    for line in content:
        begin.append(line)
        if line.strip():
            break
    sentence = bool(begin) and bool(begin[-1].strip()) and "\t" not in begin[-1]
    return not sentence, chain(begin, content)


def _number(option: str, value: str) -> int:
    """A column of tokens or tags as a number; 0 for the usual one."""
    try:
        return int(value or 0)
    except ValueError:
        raise UserError(
            f"{option} is {value!r}; columns of tokens and tags are numbered from 1, or from -1 backwards"
        ) from None

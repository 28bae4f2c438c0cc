"""What share of what a model opens it closes rightly, by how far apart the two are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import trees
from minigrad.trees import Tree
from rnn_plugins.data.latex_check import Count, check, spans
from rnn_plugins.data.vocabulary import Vocabulary
from rnn_plugins.errors import UserError
from rnn_plugins.language import Language
from rnn_plugins.language.model import Model
from rnn_plugins.language.sampling import muted, opening, start_of_text
from rnn_plugins.progress import advance
from rnn_plugins.reports.report import Chart, Curve, Figure, Findings, Look, Quantity, Report, Table
from rnn_plugins.reports.subject import Subject, language_of
from rnn_plugins.words import percent

Array: TypeAlias = NDArray[Any]

LENGTH = 5000
"""Characters of each of the texts that are written side by side: several times the longest environments."""

TEXTS = 64
"""How many are written at most; more characters make them longer."""

MOST = 1_000_000
"""Symbols of a longer training text that are checked, to compare with."""

BYTES_PER_CHARACTER = 40
"""The memory that checking a text takes, about."""

SEARCHED = 200_000
"""Symbols of it that are checked to see whether there is anything to close."""

FEW = 10
"""Things opened at a distance below which nothing is said of their share."""

TOLD = 100
"""Things opened below which nothing is said of how far closing goes well, unless it fails for certain."""

ENOUGH = 20
"""Things that a text must open of a class for it to be measured."""

SHARE = 0.95
"""The part of the share in the training text below which closing is called going wrong."""

NORMAL = 1.96
"""Standard deviations to either side that hold 95 % of a normal distribution."""

CLASSES = ("environments", "brackets")
"""What is closed: LaTeX environments; brackets, groups and ``\\left ... \\right``. Formulas stand in a table only."""

DISTANCE = "characters from the opening to its end"
"""What groups are by, as an axis says it."""


@dataclass(frozen=True)
class Outcomes:
    """What became of all that some texts open, but for what is still open at a text's end.

    Attributes:
        distance: for each class, of all that was opened, the characters from there to where it was closed or given
            up, (N,).
        right: for each class, whether it was closed rightly, (N,).
        counts: by kind.
        characters: of all texts.
    """

    distance: dict[str, Array]
    right: dict[str, Array]
    counts: dict[str, Count]
    characters: int

    def total(self, which: str) -> Count:
        """The counts of a class."""
        total = Count()
        for kind, count in self.counts.items():
            if class_of(kind) == which:
                total.opened += count.opened
                total.rightly += count.rightly
                total.wrongly += count.wrongly
                total.never += count.never
                total.unopened += count.unopened
        return total


def class_of(kind: str) -> str:
    """One of ``CLASSES`` or ``formulas``, for a kind as ``latex_check`` names it."""
    if kind[0].isalpha():
        return "environments"
    return "brackets" if kind in ("()", "[]", "{}", "\\left") else "formulas"


def outcomes(texts: Sequence[str]) -> Outcomes:
    """Check texts for what they open and close."""
    distance: dict[str, list[int]] = {name: [] for name in CLASSES}
    right: dict[str, list[bool]] = {name: [] for name in CLASSES}
    counts: dict[str, Count] = {}
    for text in texts:
        still_open: Counter[str] = Counter()
        for span in spans(text):
            name = class_of(span.kind)
            if span.fate == "open":
                still_open[span.kind] += 1
            elif name in CLASSES:
                distance[name].append(span.end - span.start)
                right[name].append(span.fate == "right")
        for kind, count in check(text).counts.items():
            total = counts.setdefault(kind, Count())
            total.opened += count.opened - still_open[kind]
            total.rightly += count.rightly
            total.wrongly += count.wrongly
            total.never += count.never - still_open[kind]
            total.unopened += count.unopened
    return Outcomes(
        {name: np.array(values, np.intp) for name, values in distance.items()},
        {name: np.array(values, bool) for name, values in right.items()},
        counts,
        sum(map(len, texts)),
    )


def wilson(successes: Array, trials: Array) -> tuple[Array, Array]:
    """The interval of Wilson (1927) that holds a share with 95 % confidence; from 0 to 1 without trials."""
    n = np.maximum(trials, 1e-9)
    share, z2 = successes / n, NORMAL**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


class Failure(NamedTuple):
    """Where closing goes wrong.

    Attributes:
        distance: from how many characters on.
        at_latest: whether it may do so nearer already, because there are too few cases there.
    """

    distance: int
    at_latest: bool


@dataclass(frozen=True)
class Bins:
    """Outcomes by distance: group i holds distances from 2**i up to, but without, 2**(i + 1); group 0 holds 0 too.

    Attributes:
        count: (G,).
        right: (G,), how many of them were right.
    """

    count: Array
    right: Array

    @property
    def centres(self) -> Array:
        """The geometric mean of the smallest and the largest distance, (G,)."""
        first = 2.0 ** np.arange(len(self.count))
        middle: Array = np.sqrt(first * (2 * first - 1))
        return middle

    @property
    def shares(self) -> Array:
        """What share of all distances each group holds, (G,)."""
        shares: Array = self.count / max(self.count.sum(), 1)
        return shares

    def known(self, truth: Bins) -> Array:
        """Which groups the true text has, with ``FEW`` cases or more, (G,).

        What a model opens and closes at distances that do not occur says little of how far it remembers.
        """
        known = np.zeros(len(self.count), bool)
        known[: len(truth.count)] = truth.count[: len(known)] >= FEW
        return known

    def fails_from(self, truth: Bins, reference: float) -> Failure | None:
        """The first distance of the first known group whose share is certainly below ``SHARE`` of another.

        Certain: the whole interval of ``wilson`` lies below. None where there is no such group.
        """
        known, enough = self.known(truth), self.count >= FEW
        _, high = wilson(self.right, self.count)
        below = np.flatnonzero(known & enough & (high < SHARE * reference))
        if not len(below):
            return None
        return Failure(2 ** int(below[0]), bool((known & ~enough)[: below[0]].any()))

    def too_few(self, truth: Bins) -> bool:
        """Whether nothing can be said of how far closing goes well where it is not seen to fail."""
        return bool(self.count.sum() < TOLD or not (self.known(truth) & (self.count >= FEW)).any())


def bins(distance: Array, right: Array, groups: int = 0) -> Bins:
    """Sort outcomes by distance into at least so many groups."""
    group = np.frexp(np.maximum(distance, 1))[1] - 1
    count = np.bincount(group, minlength=groups)
    return Bins(count, np.bincount(group[right], minlength=len(count)))


def write_side_by_side(
    model: Model, params: Tree, prime: Sequence[int], texts: int, length: int, rng: np.random.Generator
) -> Array:
    """Let a model write several texts after the same symbols, each symbol drawn from its distribution.

    Args:
        model: the model.
        params: its parameters, plain arrays.
        prime: what it reads first; not repeated.
        texts: how many.
        length: of each, in symbols.
        rng: draws.

    Returns:
        (length, texts).

    Raises:
        UserError: the model's scores are not finite.
    """
    carry, scores = start_of_text(model, params, prime)
    carry = trees.map(lambda leaf: np.repeat(leaf, texts, axis=0), carry)
    rows = np.tile(scores, (texts, 1))
    step = model.stepper(params, carry)
    written = np.empty((length, texts), np.intp)
    for t in range(length):
        p = np.exp(rows - rows.max(axis=1, keepdims=True), dtype=np.float64)
        cumulated = p.cumsum(axis=1)
        if not np.isfinite(cumulated[:, -1]).all():
            raise UserError("the model's scores are not finite (NaN): its training went wrong; use another run")
        drawn = rng.random((texts, 1)) * cumulated[:, -1:]
        written[t] = np.minimum((cumulated <= drawn).sum(axis=1), p.shape[1] - 1)
        if step is not None:
            (rows,) = step(written[t])
        else:
            carry, rows = model.step(params, carry, written[t])
        advance((t + 1) / length)
    return written


def write(language: Language, params: Tree, training: Array, characters: int, seed: int) -> list[str]:
    """Texts that a model writes.

    Args:
        language: the model.
        params: its parameters.
        training: the symbols that it learns from, (N,).
        characters: of all texts together, about.
        seed: of what is drawn.
    """
    vocabulary = language.vocabulary
    texts = min(max(1, characters // LENGTH), TEXTS)
    some = training[:MOST]
    length = max(1, round(characters / texts * len(some) / max(_size(vocabulary, some), 1)))
    prime = language.opening or opening(vocabulary, training)
    params = muted(params, vocabulary.unwritten)
    symbols = write_side_by_side(language.model, params, prime, texts, length, np.random.default_rng(seed))
    return [vocabulary.decode(column) for column in symbols.T]


def closed_rightly(subject: Subject, characters: int) -> float | None:
    """The share of the brackets and environments that a model opens which it closes rightly.

    Args:
        subject: the model.
        characters: of what it writes, about.

    Returns:
        None where it is no language model, or the text that it learns from or its own opens too few.

    Raises:
        UserError: the model's scores are not finite.
    """
    language = subject.language
    if not language or _share(outcomes([language.vocabulary.decode(subject.learnt[:SEARCHED])])) is None:
        return None
    return _share(outcomes(write(language, subject.params, subject.learnt, characters, 0)))


def _share(found: Outcomes) -> float | None:
    right = np.concatenate([found.right[name] for name in CLASSES])
    return float(right.mean()) if len(right) >= ENOUGH else None


def _size(vocabulary: Vocabulary, tokens: Array) -> int:
    return vocabulary.measure(tokens)[0]


class Structure(Report):
    """What share of brackets and environments samples close rightly, by distance.

    The model writes by itself, drawing each symbol from its distribution, and what it opens is compared with what it
    closes (``latex_check`` says how), by the number of characters between the two.
    """

    title: ClassVar[str] = "Structure"
    question: ClassVar[str] = "What share of what it opens does it close rightly, and from which distance does it fail?"

    def memory(self, subject: Subject, look: Look) -> int:
        """For the training text and the generated one, as symbols and as what is found in them.

        Raises:
            UserError: it is no language model.
        """
        language_of(subject, "structure")
        return BYTES_PER_CHARACTER * (min(MOST, len(subject.learnt)) + look.characters)

    def measure(self, subject: Subject, look: Look) -> Findings:
        """Measure one language model.

        Raises:
            UserError: it is none, the text has nothing to close, or the model's scores are not finite.
        """
        language = language_of(subject, "structure")
        text = outcomes([language.vocabulary.decode(subject.learnt[:MOST])])
        classes = [name for name in CLASSES if len(text.distance[name]) >= ENOUGH]
        if not classes:
            raise UserError(
                f"the text that {subject.label} learns from contains nothing to close: its first {text.characters:,} "
                f"characters have fewer than {ENOUGH} brackets ( ), [ ], {{ }} and environments \\begin ... \\end"
            )
        written = outcomes(write(language, subject.params, subject.learnt, look.characters, look.seed))
        groups = max(
            int(data.distance[name].max(initial=1)).bit_length() for data in (text, written) for name in classes
        )
        found = {name: bins(written.distance[name], written.right[name], groups) for name in classes}
        # The text's own groups only, so that its curve is the same beside every model that learns from it.
        truth = {name: bins(text.distance[name], text.right[name]) for name in classes}
        quantities: list[Quantity] = []
        figures: list[Figure] = []
        verdict, notices = [], []
        for name in classes:
            share = truth[name].right.sum() / truth[name].count.sum()
            fails = found[name].fails_from(truth[name], share)
            too_few = fails is None and found[name].too_few(truth[name])
            quantities += _quantities(name, written, found[name], fails, too_few)
            if (found[name].count >= FEW).any():
                figures.append(_rightly(name, found[name]))
            else:
                notices.append(
                    f"the chart of {name} closed rightly is left out: too few end at any distance (below {FEW} a group)"
                )
            figures.append(_reach(name, found[name], truth[name]))
            verdict.append(_sentence(name, written, found[name], truth[name], fails, too_few))
        figures += [_by_distance(found), _by_kind(written, text)]
        return Findings(tuple(quantities), tuple(figures), tuple(verdict), tuple(notices))


def _quantities(name: str, written: Outcomes, found: Bins, fails: Failure | None, too_few: bool) -> list[Quantity]:
    total, count = written.total(name), int(found.count.sum())
    what = f"the {name} opened in {written.characters:,} characters that the model generates"
    low, high = wilson(found.right.sum(), found.count.sum())
    longest = int(written.distance[name].max(initial=0))
    none = "none opened"
    fail_from: int | str | None = fails.distance if fails else None
    if fails and fails.at_latest:
        fail_from = f"at most {fails.distance:,} characters"

    def share(part: int, key: str, label: str, definition: str) -> Quantity:
        return Quantity(f"{name}_{key}", label, 100 * part / count if count else None, "%", definition, none)

    return [
        Quantity(f"{name}_opened", f"{name} opened", count, "", f"All {what}, but for what is open at a text's end."),
        share(
            total.rightly,
            "right",
            f"{name} closed rightly",
            f"Of {what}, those with a closing of their own; with 95 % confidence {100 * float(low):.3g} to "
            f"{100 * float(high):.3g} %.",
        ),
        share(
            total.wrongly, "wrong", f"{name} closed wrongly", f"Of {what}, those that a closing of another kind ends."
        ),
        share(total.never, "never", f"{name} never closed", f"Of {what}, those that end with something around them."),
        Quantity(
            f"{name}_unopened",
            f"{name} closed unopened",
            total.unopened,
            "",
            f"Closings of {name} in the same text where nothing is open that they could close.",
        ),
        Quantity(
            f"{name}_fail_from",
            f"{name} fail from",
            fail_from,
            "" if isinstance(fail_from, str) else "characters",
            f"The first distance of the first group (from each power of 2 to the next, {FEW} outcomes or more, in the "
            f"training text too) whose share closed rightly is, with 95 % confidence, below {percent(SHARE, 0)} of "
            "that in the training text. At most: a nearer group, which the training text has, has too few of the "
            "model's cases.",
            "too few cases" if too_few else f"not within {longest:,}",
        ),
    ]


def _rightly(name: str, found: Bins) -> Chart:
    low, high = wilson(found.right, found.count)
    enough = found.count >= FEW
    share = found.right / np.maximum(found.count, 1)
    share, low, high = (np.where(enough, values, np.nan) for values in (share, low, high))
    return Chart(
        name,
        f"{name.capitalize()} closed rightly, by distance",
        DISTANCE,
        "share closed rightly",
        (Curve("", found.centres, share, low, high),),
        log_x=True,
        y_limits=(0.0, 1.05),
        definition=f"Of the {name} that the model opens and that end (rightly closed, wrongly closed or given up) "
        "at distances from each power of 2 to the next, the share closed rightly; the band is Wilson's 95 % "
        f"interval. Groups of fewer than {FEW} are left out.",
    )


def _reach(name: str, found: Bins, truth: Bins) -> Chart:
    return Chart(
        f"{name}_distances",
        f"How far {name} reach",
        DISTANCE,
        "share of all",
        (
            Curve("the model's", found.centres, found.shares),
            Curve("the training text's", truth.centres, truth.shares, role="reference"),
        ),
        log_x=True,
        definition=f"What share of all {name} end, in whatever way, at distances from each power of 2 to the next.",
    )


def _by_distance(found: dict[str, Bins]) -> Table:
    rows = []
    for i in range(max(len(each.count) for each in found.values())):
        cells: list[int | str | None] = []
        for each in found.values():
            count = int(each.count[i])
            cells += [count, percent(each.right[i] / count) if count else None]
        rows.append((f"{2**i if i else 0:,} to {2 ** (i + 1) - 1:,}", *cells))
    return Table(
        "groups",
        "The same in numbers",
        ("DISTANCE", *(head for name in found for head in (name.upper(), "RIGHT"))),
        tuple(rows),
        "How many that the model opens end at these distances, in whatever way, and the share that it closes rightly.",
    )


def _by_kind(written: Outcomes, text: Outcomes) -> Table:
    per = written.characters / max(text.characters, 1)
    kinds = sorted(written.counts, key=lambda kind: (not kind[0].isalpha(), -written.counts[kind].opened, kind))
    # A model that has learnt little makes up names of environments, each of which would be a row.
    known = [kind for kind in kinds if kind in text.counts]
    rows = [
        (kind, c.opened, c.rightly, c.wrongly, c.never, c.unopened, round(per * text.counts[kind].opened))
        for kind in known
        for c in [written.counts[kind]]
    ]
    made_up = [written.counts[kind] for kind in kinds if kind not in text.counts]
    if made_up:
        sums = [
            sum(getattr(c, part) for c in made_up) for part in ("opened", "rightly", "wrongly", "never", "unopened")
        ]
        rows.append((f"made up: {len(made_up)}", *sums, 0))
    return Table(
        "kinds",
        "What became of what it opened, by kind",
        ("KIND", "OPENED", "RIGHTLY", "WRONGLY", "NEVER", "UNOPENED", "IN TEXT"),
        tuple(rows),
        "How many the model opened, and what became of them: closed rightly, wrongly or never; UNOPENED closings had "
        "nothing to close. IN TEXT: how many as much of the training text opens. What is still open at the end of a "
        "text is not counted.",
    )


def _sentence(name: str, written: Outcomes, found: Bins, truth: Bins, fails: Failure | None, too_few: bool) -> str:
    count = int(found.count.sum())
    if not count:
        return f"It opens no {name}."
    share = f"Of {count:,} {name} that it opens, it closes {percent(found.right.sum() / count)} rightly"
    if too_few:
        more = f"give --characters more than {written.characters:,}"
        return f"{share}; these are too few to say from which distance it fails: {more}."
    if fails is None:
        return f"{share}, at all distances as well as the text, as far as these numbers show."
    beyond = truth.count[fails.distance.bit_length() - 1 :].sum() / truth.count.sum()
    where = f"from a distance of {fails.distance:,} characters on{' at the latest' if fails.at_latest else ''}"
    return f"{share}; it fails {where}, and {percent(beyond, 0)} of the text's reach that far."

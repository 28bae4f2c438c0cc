"""Generated sequences: the classic problems on which the memory of recurrent networks is tried."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.errors import UserError
from rnn_plugins.words import is_whole

Array: TypeAlias = NDArray[Any]

BUILTIN = "builtin:memory"
"""The name of generated sequences, which ``:SEED`` may follow."""

NOTHING = -1
"""The target of a step after which nothing is to be predicted."""

RECALLED, ALPHABET = 10, 8
"""Symbols that are to be copied, and of how many kinds (Arjovsky, Shah and Bengio 2016)."""

DEEPEST = 8
"""Brackets that may be open at once."""

OPENING, CLOSING = "([{", ")]}"

BLANK, MARK = ".", ">"
"""The symbol of a step at which there is nothing to read, and the one after which the network writes."""

COUNTS, COUNTED, UNSEEN = 20, 500, 0.01
"""Draws of so many sequences on which ``Memoryless`` counts, and the count of what was not seen."""

NUMBER_HELP = "write numbers from 0 to 1 with spaces between, and a * after those to add: 0.5* 0.1 0.25*"


class Drawn(NamedTuple):
    """Some sequences of a problem, side by side.

    Attributes:
        inputs: (T, B) symbols, or (T, B, 2) numbers and marks.
        targets: (B,), or (T, B), ``NOTHING`` where there is none.
        lengths: (B,), the steps of each.
    """

    inputs: Array
    targets: Array
    lengths: Array


@dataclass(frozen=True)
class Problem:
    """A kind of sequences.

    Attributes:
        draw: ``draw(rng, count, lag)``.
        lag: the default one.
        steps: the number of steps for a lag.
        meaning: of the lag, a noun phrase with ``{lag}``.
        classes: what is predicted; none for a number.
        symbols: the inputs; empty for numbers.
        at_end: whether the target is at the end of a sequence, and not at its steps.
        shortest: the smallest lag.
        longest: the largest lag.
        far: how far what is to be remembered is from where it is needed, as a multiple of the lag, and words for it, as
            ``Probe.distance`` takes them; None where it differs.
    """

    draw: Callable[[np.random.Generator, int, int], Drawn]
    lag: int
    steps: Callable[[int], int]
    meaning: str
    classes: tuple[str, ...] = ()
    symbols: str = ""
    at_end: bool = True
    shortest: int = 1
    longest: int = 100_000
    far: tuple[float | None, str] = (None, "")

    def inputs_shown(self, inputs: Array) -> tuple[str, ...]:
        """A text for each input of a sequence, (n,) or (n, 2)."""
        if self.symbols:
            return tuple(self.symbols[symbol] for symbol in inputs.tolist())
        return tuple(f"{number:.2f}{'*' if mark else ''}" for number, mark in inputs.tolist())

    def targets_shown(self, targets: Array) -> tuple[str, ...]:
        """A text for each target of a sequence, () or (n,); an empty one where there is none."""
        if not self.classes:
            return (f"{float(targets):.2f}",)
        return tuple(self.classes[target] if target != NOTHING else "" for target in np.ravel(targets).tolist())


def _adding(rng: np.random.Generator, count: int, lag: int) -> Drawn:
    """Numbers in [0, 1], one of each half marked; the target is the sum of these two."""
    inputs = np.zeros((lag, count, 2), np.float32)
    inputs[:, :, 0] = rng.random((lag, count), dtype=np.float32)
    rows = np.arange(count)
    for marked in (rng.integers(0, lag // 2, count), rng.integers(lag // 2, lag, count)):
        inputs[marked, rows, 1] = 1
    return Drawn(inputs, (inputs[:, :, 0] * inputs[:, :, 1]).sum(0), np.full(count, lag))


def _copy(rng: np.random.Generator, count: int, lag: int) -> Drawn:
    """Ten symbols, ``lag`` steps of blanks that end with a mark, and ten blanks after which the symbols are written."""
    shown = rng.integers(0, ALPHABET, (RECALLED, count))
    inputs = np.full((lag + 2 * RECALLED, count), ALPHABET)
    inputs[:RECALLED], inputs[RECALLED + lag - 1] = shown, ALPHABET + 1
    targets = np.full_like(inputs, ALPHABET)
    targets[-RECALLED:] = shown
    return Drawn(inputs, targets, np.full(count, len(inputs)))


def _order(rng: np.random.Generator, count: int, lag: int) -> Drawn:
    """Distractors, an X or Y in the second tenth and another one in the fifth; the class is what these are."""
    inputs = rng.integers(0, 4, (lag, count))
    which = rng.integers(0, 2, (2, count))
    for tenth, some in zip((1, 4), which, strict=True):
        inputs[rng.integers(lag * tenth // 10, lag * (tenth + 1) // 10, count), np.arange(count)] = 4 + some
    return Drawn(inputs, 2 * which[0] + which[1], np.full(count, lag))


def _parity(rng: np.random.Generator, count: int, lag: int) -> Drawn:
    """From 1 to ``lag`` bits; whether the number of ones is odd."""
    lengths = rng.integers(1, lag + 1, count)
    inputs = rng.integers(0, 2, (lag, count)) * (np.arange(lag)[:, None] < lengths)
    return Drawn(inputs, inputs.sum(0) % 2, lengths)


def _brackets(rng: np.random.Generator, count: int, lag: int) -> Drawn:
    """The beginning of a balanced text; after each bracket, which one closes next, or that nothing is open."""
    deepest = max(1, min(DEEPEST, lag // 2))
    # A random walk, folded at 0 and at the greatest depth.
    walk = np.cumsum(2 * rng.integers(0, 2, (lag, count)) - 1, axis=0)
    depth = deepest - np.abs(walk % (2 * deepest) - deepest)
    opens = np.diff(depth, axis=0, prepend=np.zeros((1, count), np.intp)) > 0
    kinds, steps = rng.integers(0, len(OPENING), (lag, count)), np.arange(lag)[:, None]
    top = np.full((lag, count), len(CLOSING))  # the kind that is open innermost after each step
    before = top.copy()
    for level in range(1, deepest + 1):
        opened = np.maximum.accumulate(np.where(opens & (depth == level), steps, 0), axis=0)
        kind = np.take_along_axis(kinds, opened, axis=0)
        top = np.where(depth == level, kind, top)
        before = np.where(~opens & (depth == level - 1), kind, before)  # what a closing bracket closes
    inputs = np.where(opens, kinds, before + len(OPENING))
    return Drawn(inputs, top, np.full(count, lag))


def _sorting(rng: np.random.Generator, count: int, lag: int) -> Drawn:
    """``lag`` digits and a mark, after which they are written in order."""
    digits = rng.integers(0, 10, (lag, count))
    inputs, targets = np.full((2 * lag, count), 11), np.full((2 * lag, count), NOTHING)
    inputs[:lag], inputs[lag], targets[lag:] = digits, 10, np.sort(digits, axis=0)
    return Drawn(inputs, targets, np.full(count, 2 * lag))


def _sums(rng: np.random.Generator, count: int, lag: int) -> Drawn:
    """Two numbers of 1 to ``lag`` digits with + and =, after which their sum and an end are written."""
    a, b = (rng.integers(0, 10 ** rng.integers(1, lag + 1, count)) for _ in range(2))
    sizes = [_digits(number, lag + 1) for number in (a, b, a + b)]
    steps = np.arange(SUMS.steps(lag))[:, None]
    plus, equals = sizes[0], sizes[0] + 1 + sizes[1]
    inputs = np.select(
        [steps < plus, steps == plus, steps < equals, steps == equals],
        [_digit(a, sizes[0] - 1 - steps), 10, _digit(b, equals - 1 - steps), 11],
        12,
    )
    written = steps - equals
    targets = np.select(
        [(written >= 0) & (written < sizes[2]), written == sizes[2]], [_digit(a + b, sizes[2] - 1 - written), 10], -1
    )
    return Drawn(inputs, targets, np.full(count, len(steps)))


def _digits(numbers: Array, most: int) -> Array:
    """The number of digits of whole numbers."""
    return np.asarray(1 + (numbers >= 10 ** np.arange(1, most)[:, None]).sum(0))


def _digit(numbers: Array, place: Array) -> Array:
    """The digit of whole numbers (B,) at some places, 0 for the units, (T, B); where a place is negative, any."""
    return np.asarray(numbers // 10 ** np.clip(place, 0, 18) % 10)


SUMS = Problem(
    _sums,
    2,
    lambda lag: 3 * lag + 3,
    "numbers of up to {lag} digits",
    (*"0123456789", BLANK),
    "0123456789+=" + BLANK,
    at_end=False,
    longest=17,
)

PROBLEMS = {
    "adding": Problem(
        _adding,
        50,
        lambda lag: lag,
        "{lag} numbers",
        shortest=2,
        far=(0.75, "half of the first marks are further from the end than"),
    ),
    "copy": Problem(
        _copy,
        50,
        lambda lag: lag + 2 * RECALLED,
        "{lag} steps between",
        (*"01234567", BLANK),
        "01234567" + BLANK + MARK,
        at_end=False,
        far=(1.0, "symbols are to be copied after more than"),
    ),
    "order": Problem(
        _order,
        50,
        lambda lag: lag,
        "{lag} symbols",
        ("XX", "XY", "YX", "YY"),
        "abcdXY",
        shortest=10,
        far=(0.85, "half of the first symbols that count are further from the end than"),
    ),
    "parity": Problem(
        _parity,
        20,
        lambda lag: lag,
        "up to {lag} bits",
        ("even", "odd"),
        "01",
        far=(0.5, "half of the sequences are longer than"),
    ),
    "brackets": Problem(
        _brackets, 50, lambda lag: lag, "{lag} brackets", (*CLOSING, "-"), OPENING + CLOSING, at_end=False
    ),
    "sorting": Problem(
        _sorting,
        8,
        lambda lag: 2 * lag,
        "{lag} digits",
        tuple("0123456789"),
        "0123456789" + MARK + BLANK,
        at_end=False,
        far=(1.0, "half of the digits are to be written later than"),
    ),
    "sums": SUMS,
}
"""By name."""


@dataclass(frozen=True)
class Stream:
    """Sequences that are drawn from a seed.

    Attributes:
        problem: its name.
        lag: the lag.
        seed: of all sequences.
        count: how many; 0 for no end.
    """

    problem: str
    lag: int
    seed: int
    count: int = 0

    def __len__(self) -> int:
        return self.count

    def draw(self, step: tuple[int, int] | None = None, size: int | None = None) -> Drawn:
        """The sequences themselves, or those of a training step: a run's seed, and the step."""
        key = [self.seed, 0] if step is None else [self.seed, 1, *step]
        return PROBLEMS[self.problem].draw(np.random.default_rng(key), size or self.count, self.lag)


def seed_of(name: str) -> int:
    """The seed of generated sequences by their name: ``builtin:memory``, 0, or ``builtin:memory:SEED``.

    Raises:
        UserError: it is another name.
    """
    seed = name.removeprefix(f"{BUILTIN}:") if name != BUILTIN else "0"
    if not is_whole(seed):
        raise UserError(f"{name!r} is not understood; expected {BUILTIN}, or {BUILTIN}:SEED with a number below 1e7")
    return int(seed)


class Memoryless:
    """The best answers without memory: the mean of all sums, or the likeliest after the symbol that was read last.

    They are counted on sequences with another seed; after each step anew, or where the target is at the end, there.
    """

    def __init__(self, examples: Stream) -> None:
        self.problem = problem = PROBLEMS[examples.problem]
        others = replace(examples, seed=examples.seed + 1)
        some = (others.draw((0, step), COUNTED) for step in range(COUNTS))
        if not problem.classes:
            self.table = np.full((1, 1), np.mean([drawn.targets.mean() for drawn in some]))
            return
        steps = 1 if problem.at_end else problem.steps(examples.lag)
        counts = np.full((steps * len(problem.symbols), len(problem.classes)), UNSEEN)
        for drawn in some:
            live = drawn.targets != NOTHING
            cells = self._contexts(drawn)[live] * len(problem.classes) + drawn.targets[live]
            counts += np.bincount(cells, minlength=counts.size).reshape(counts.shape)
        self.table = np.log(counts / counts.sum(axis=1, keepdims=True))

    def answers(self, drawn: Drawn) -> Array:
        """The sums, (B, 1), or the logarithms of probabilities, (B, classes) or (T, B, classes)."""
        return np.asarray(self.table[self._contexts(drawn)])

    def _contexts(self, drawn: Drawn) -> Array:
        """The number of the symbol that was read last and its step, (B,) or (T, B)."""
        if not self.problem.classes:
            return np.zeros(len(drawn.lengths), np.intp)
        if self.problem.at_end:
            return np.asarray(drawn.inputs[drawn.lengths - 1, np.arange(len(drawn.lengths))])
        return np.arange(len(drawn.inputs))[:, None] * len(self.problem.symbols) + drawn.inputs


def chance(name: str, lag: int) -> float:
    """The mean loss of the best prediction that remembers nothing, or of uniform guessing where that is unknown.

    For ``adding`` the variance of the sum of two uniform numbers, 1/6; for ``copy`` 10 ln 8 / (T + 20) (Arjovsky, Shah
    and Bengio 2016, arXiv:1511.06464, section 4.1).
    """
    if name == "adding":
        return 1 / 6
    if name == "copy":
        return RECALLED * math.log(ALPHABET) / (lag + 2 * RECALLED)
    return math.log(len(PROBLEMS[name].classes))


def read_text(name: str, text: str, lag: int) -> Array:
    """A sequence as a user types it, as the inputs of a network, (n,) symbols or (n, 2) numbers and marks.

    What follows from the lag may be left out: of ``copy`` all but the symbols to copy, of ``sorting`` and ``sums`` what
    comes after the mark and after the sign of equality.

    Raises:
        UserError: it is no such sequence.
    """
    problem = PROBLEMS[name]
    if not problem.symbols:
        return _numbers(text)
    text = "".join(text.split())
    unknown = next((symbol for symbol in text if symbol not in problem.symbols), None)
    if unknown is not None:
        raise UserError(f"{unknown!r} is no symbol of {name}; expected some of {' '.join(problem.symbols)}")
    if not text:
        raise UserError(f"a sequence of {name} is empty; expected some of {' '.join(problem.symbols)}")
    if name == "copy":
        shown = text.rstrip(BLANK + MARK)
        if len(shown) != RECALLED or BLANK in shown or MARK in shown:
            raise UserError(f"{shown!r} has {len(shown)} symbols to copy; expected {RECALLED} digits from 0 to 7")
        text = shown + BLANK * (lag - 1) + MARK + BLANK * RECALLED
    elif name == "sorting":
        shown = text.partition(MARK)[0]
        if not shown or BLANK in shown:
            raise UserError(f"{text!r} has nothing to sort; expected digits, such as 3142")
        text = shown + MARK + BLANK * (len(shown) - 1)
    elif name == "sums":
        first, _, second = text.partition("=")[0].partition("+")
        if not (first.isdigit() and second.isdigit()):
            raise UserError(f"{text!r} is no sum; expected two whole numbers with +, such as 12+57=")
        text = f"{first}+{second}=" + BLANK * (max(len(first), len(second)) + 1)
    return np.array([problem.symbols.index(symbol) for symbol in text])


def read_array(name: str, values: Any, lag: int) -> Array:
    """A sequence given as numbers, as ``read_text`` gives it; one that is its beginning is completed.

    Raises:
        UserError: it is no such sequence.
    """
    try:
        given = np.asarray(values)
    except ValueError:  # rows of several lengths
        given = np.empty(0, object)
    problem, came = PROBLEMS[name], f"of shape {given.shape} and dtype {given.dtype}"
    if not problem.symbols:
        if given.dtype.kind not in "iuf" or given.shape[1:] != (2,) or not given.size:
            raise UserError(f"a sequence of {name} is {came}; expected numbers (n, 2), each with a mark, 0 or 1")
        numbers, marks = given.T
        if not (np.all((numbers >= 0) & (numbers <= 1)) and np.isin(marks, (0, 1)).all()):
            raise UserError(f"a sequence of {name} has other numbers than expected: from 0 to 1, with marks of 0 or 1")
        return given.astype(np.float32)
    most = len(problem.symbols) - 1
    if given.dtype.kind not in "iu" or given.ndim != 1:
        raise UserError(f"a sequence of {name} is {came}; expected whole numbers (n,), the places of symbols")
    if np.any((given < 0) | (given > most)):
        raise UserError(f"a sequence of {name} has numbers from {given.min()} to {given.max()}; expected 0 to {most}")
    whole = read_text(name, "".join(problem.symbols[i] for i in given.tolist()), lag)
    return whole if np.array_equal(whole[: len(given)], given) else given  # with another lag, for example


def _numbers(text: str) -> Array:
    rows = []
    for word in text.split():
        marked = word.endswith("*")
        try:
            number = float(word.removesuffix("*"))
        except ValueError:
            number = math.nan
        if not 0 <= number <= 1:
            raise UserError(f"{word!r} is no number to add; {NUMBER_HELP}")
        rows.append((number, float(marked)))
    if not rows:
        raise UserError(f"a sequence of numbers to add is empty; {NUMBER_HELP}")
    return np.array(rows, np.float32)


def write_text(name: str, inputs: Array, longest: int = 0) -> str:
    """The part of a sequence that has something to read, as a user types it.

    Args:
        name: the problem's.
        inputs: (n,) or (n, 2).
        longest: how many characters of its end to give at most; 0 for all.
    """
    shown = PROBLEMS[name].inputs_shown(inputs)
    text = " ".join(shown) if name == "adding" else "".join(shown).partition(MARK)[0].rstrip(BLANK)
    return f"...{text[-longest:]}" if 0 < longest < len(text) else text


def write_answer(name: str, inputs: Array, scores: Array) -> str:
    """The answer of a network to a sequence.

    Args:
        name: the problem's.
        inputs: (n,) or (n, 2).
        scores: (classes,) at the end, or (n, classes).
    """
    if not PROBLEMS[name].classes:
        return f"{float(scores[0]):.3f}"
    return write_target(name, inputs, np.argmax(scores, axis=-1))


def write_target(name: str, inputs: Array, target: Array) -> str:
    """The target of a sequence, () or (n,), or an answer of that form, without what is the same for all sequences."""
    shown = PROBLEMS[name].targets_shown(target)
    if name == "copy":
        shown = shown[-RECALLED:]
    elif name == "sorting":
        shown = shown[len(inputs) // 2 :]
    elif name == "sums":
        shown = shown[inputs.tolist().index(SUMS.symbols.index("=")) :]
        return "".join(shown).partition(BLANK)[0]
    return "".join(shown)

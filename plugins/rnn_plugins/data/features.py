"""Features of each character's position in a text: in the line, in a word, in brackets, in a formula.

The value at a character is that after reading it, so that it can be compared with a state.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.data.latex_check import Span, spans

Array: TypeAlias = NDArray[Any]

BRACKETS = {")": "(", "]": "[", "}": "{"}

QUOTES = {"``": 1, "“": 1, "«": 1, "''": -1, "”": -1, "»": -1, '"': 0}
"""Quotation marks: they open (1), close (-1), or either."""

NAMED = 3
"""The number of environments with a feature each, the commonest first."""

_QUOTE = re.compile("|".join([*QUOTES, r"\n[ \t\r]*(?=\n)"]))


def features(text: str) -> dict[str, Array]:
    """The value of each feature at every character of a non-empty text, (N,).

    Constant features are left out. What is never closed does not count as open.
    """
    position = np.arange(len(text))
    signs, kinds = np.unique(list(text), return_inverse=True)
    letter, capital, feed, blank = (
        np.array([test(sign) for sign in signs.tolist()])[kinds]
        for test in (str.isalpha, str.isupper, "\n".__eq__, lambda sign: sign in " \t")
    )
    line, word, capitals, blanks = (_since(position, mark) for mark in (feed, ~letter, ~capital, ~blank))
    empty = np.zeros(len(text), bool)
    empty[1:] = feed[1:] & feed[:-1]
    last_indent = np.maximum.accumulate(np.where((blanks == line) & (line > 0), position, -1))
    inside = _depth(len(text), _brackets(text))
    latex = [span for span in spans(text) if span.fate == "right"] if "\\" in text else []
    environments = [span for span in latex if span.kind[0].isalpha() and span.kind != "document"]
    common = Counter(span.kind for span in environments).most_common(NAMED)
    found = {
        "position in the line": line if feed.any() else np.zeros(len(text)),
        "position in the word": word,
        "position in the paragraph": _since(position, empty) if empty.any() else np.zeros(len(text)),
        "indentation of the line": np.maximum(last_indent - (position - line), 0),
        "in a word of capitals": (word > 1) & (capitals == word),
        "inside quotes": _depth(len(text), _quotes(text)) > 0,
        "inside brackets": inside > 0,
        "nesting depth of brackets": inside if inside.max(initial=0) > 1 else np.zeros(len(text)),
        "inside a formula": _within(len(text), latex, ("$", "$$", "\\(", "\\[")) > 0,
        "an open environment": _within(len(text), environments, None) > 0,
        **{f"inside {name}": _within(len(text), environments, (name,)) > 0 for name, _ in common},
    }
    numbers = {name: np.asarray(values, np.float64) for name, values in found.items()}
    return {name: values for name, values in numbers.items() if np.ptp(values)}


def _since(position: Array, mark: Array) -> Array:
    """The distance to the last mark, in characters; the text begins after one."""
    return position - np.maximum.accumulate(np.where(mark, position, -1))


def _depth(length: int, pairs: Iterable[tuple[int, int]]) -> Array:
    """At each character, the number of pairs that begin at or before it and end after it."""
    steps = np.zeros(length + 1, np.intp)
    for first, last in pairs:
        steps[first] += 1
        steps[last] -= 1
    depth: Array = np.cumsum(steps[:-1])
    return depth


def _within(length: int, found: list[Span], kinds: tuple[str, ...] | None) -> Array:
    """The depth of spans of the given kinds, from the last character of the opening to the first of the closing."""
    return _depth(length, ((span.start - 1, span.end) for span in found if kinds is None or span.kind in kinds))


def _brackets(text: str) -> list[tuple[int, int]]:
    """Positions of matching brackets. A closing bracket skips what was opened since the last bracket of its kind."""
    stack: list[tuple[str, int]] = []
    waiting: Counter[str] = Counter()
    pairs = []
    for match in re.finditer(r"[()\[\]{}]", text):
        sign, position = match[0], match.start()
        if sign not in BRACKETS:
            stack.append((sign, position))
            waiting[sign] += 1
            continue
        while waiting[BRACKETS[sign]]:
            opening, start = stack.pop()
            waiting[opening] -= 1
            if opening == BRACKETS[sign]:
                pairs.append((start, position))
                break
    return pairs


def _quotes(text: str) -> list[tuple[int, int]]:
    """Positions where quotations begin and end; none extends past a blank line."""
    start: int | None = None
    pairs = []
    for match in _QUOTE.finditer(text):
        turn = QUOTES.get(match[0])
        if turn is None:
            start = None
        elif start is None and turn >= 0:
            start = match.end() - 1
        elif start is not None and turn <= 0:
            pairs.append((start, match.end() - 1))
            start = None
    return pairs

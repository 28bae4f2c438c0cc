r"""Count, by kind, how well a LaTeX text closes what it opens, with the distance between opening and closing.

It accepts any text. Macros are not expanded, and verbatim text is read like any other.

There are five levels, from weak to strong: brackets `()` and `[]`; groups `{}` and `\left ... \right`; mathematics
`$`, `$$`, `\(`, `\[`; groups that contain text, `\text{...}`; environments. A closing sees what was opened since the
innermost opening of a stronger level, so that a stray bracket closes no environment. Among what it sees,

  * if its own kind is the innermost of its level, that is closed rightly;
  * if its own kind is further out, that is closed rightly too, and the innermost of the level was closed wrongly:
    `\begin{lemma} \begin{proof} \end{lemma}` closes `proof` wrongly;
  * if its own kind is not there, the innermost of the level was closed wrongly:
    `\begin{proof} \end{lemma}` closes `proof` wrongly, and so does `(0, 1]` with `()`;
  * if there is nothing of its level, it closes something that was not opened.

Everything else that it skips was never closed.

One mistake must not make everything after it wrong. A lone `$` would swap text and mathematics up to the end; so, as in
TeX, a blank line ends what is open within the innermost environment, and so does `\item`. An environment that cannot
occur in mathematics ends the mathematics before it, and `\section` ends everything but `document`.
"""

import re
from bisect import bisect
from collections import defaultdict
from dataclasses import dataclass, field, fields
from typing import Literal, NamedTuple

# A text group such as \text{...} occurs in mathematics and may contain mathematics.
BRACKET, GROUP, MATHEMATICS, TEXT, ENVIRONMENT = range(5)

TOKEN = re.compile(
    r"""
      % [^\n]*
    | \\ (?P<edge> begin | end ) [ ]* \{ (?P<name> [A-Za-z]+ \*? ) \}
    | \\ (?P<reference> label | ref | eqref | pageref ) [ ]* \{ (?P<label> [^{}\n]* ) \}
    | (?P<text> \\ (?: text[a-z]* | mbox | hbox | footnote ) [ ]* \{ )
    | \\ (?P<side> left | right ) (?![A-Za-z]) [ ]* (?: \\ [A-Za-z]+ | \\ [^\n] | [^\s\\${}] )?
    | (?P<section> \\ (?: chapter | (?:sub)*section ) (?![A-Za-z]) )
    | (?P<pause> \\ item (?![A-Za-z]) | \n [ \t\r]* (?= \n ) )
    | (?P<delimiter> \\ [()\[\]] )
    | \\ (?: [A-Za-z]+ | [^\n] )?
    | (?P<dollar> \$\$? )
    | (?P<bracket> [(){}\[\]] )
    """,
    re.VERBOSE,
)

PARTNER = {")": "()", "]": "[]", "\\)": "\\(", "\\]": "\\["}

INSIDE_MATHEMATICS = {
    *("matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix", "Vmatrix", "smallmatrix", "array", "cases"),
    *("aligned", "alignedat", "gathered", "split", "CD", "tikzcd"),
}


@dataclass(slots=True)
class Count:
    """Counts of one kind: everything `opened` was closed `rightly`, `wrongly` or `never`.

    `unopened` counts closings without anything open that they could close.
    """

    opened: int = 0
    rightly: int = 0
    wrongly: int = 0
    never: int = 0
    unopened: int = 0


class Closing(NamedTuple):
    """One closing: its kind, its distance from the opening in characters, and whether it is right."""

    kind: str
    distance: int
    right: bool


class Span(NamedTuple):
    """Something opened, from the end of its opening.

    It ends at its closing, right or wrong; or where it was abandoned; or, still open, at the end of the text.
    """

    kind: str
    start: int
    end: int
    fate: Literal["right", "wrong", "never", "open"]


@dataclass(slots=True)
class Report:
    r"""What `check` found. A kind is the name of an environment or one of `$ $$ \( \[ {} [] () \left`."""

    counts: defaultdict[str, Count] = field(default_factory=lambda: defaultdict(Count))
    closings: list[Closing] = field(default_factory=list)  # in the order of the text
    labels: set[str] = field(default_factory=set)
    defined: int = 0  # references to a label defined earlier in the text
    undefined: int = 0  # all other references

    @property
    def total(self) -> Count:
        """All kinds together."""
        return Count(*(sum(getattr(count, each.name) for count in self.counts.values()) for each in fields(Count)))

    def rows(self) -> list[tuple[str, int, int, int, int, int]]:
        """Kind, opened, closed rightly, closed wrongly, never closed, closed without opening; environments first."""
        kinds = sorted(self.counts, key=lambda kind: (not kind[0].isalpha(), -self.counts[kind].opened, kind))
        return [
            (kind, count.opened, count.rightly, count.wrongly, count.never, count.unopened)
            for kind in kinds
            for count in [self.counts[kind]]
        ]


class _Opening(NamedTuple):
    kind: str
    level: int
    end: int  # where its text ends


class _Reader:
    """The stack of openings, indexed by level and kind, so that a closing finds its opening without a search."""

    def __init__(self) -> None:
        self.report = Report()
        self.spans: list[Span] = []
        self.position = 0  # start of the current token
        self.stack: list[_Opening] = []
        self.levels: list[list[int]] = [[] for _ in range(ENVIRONMENT + 1)]
        self.kinds: defaultdict[tuple[str, int], list[int]] = defaultdict(list)

    def innermost(self, level: int, kind: str | None = None) -> int:
        """The index of the innermost opening of this level (and kind) not hidden by a stronger one, or -1."""
        indices = self.levels[level] if kind is None else self.kinds[kind, level]
        hidden = max((stronger[-1] for stronger in self.levels[level + 1 :] if stronger), default=-1)
        return indices[-1] if indices and indices[-1] > hidden else -1

    def open(self, kind: str, level: int, end: int) -> None:
        self.levels[level].append(len(self.stack))
        self.kinds[kind, level].append(len(self.stack))
        self.stack.append(_Opening(kind, level, end))
        self.report.counts[kind].opened += 1

    def close(self, kind: str, level: int, start: int) -> None:
        own, nearest = self.innermost(level, kind), self.innermost(level)
        if nearest < 0:
            self.report.counts[kind].unopened += 1
            return
        self.abandon(nearest + 1)
        if nearest != own:
            self.take_off(start, right=False)
        if own >= 0:
            self.abandon(own + 1)
            self.take_off(start, right=True)

    def take_off(self, start: int, *, right: bool) -> None:
        """Remove the innermost opening as closed, rightly or wrongly."""
        opening = self.pop()
        count = self.report.counts[opening.kind]
        count.rightly += right
        count.wrongly += not right
        self.report.closings.append(Closing(opening.kind, start - opening.end, right))
        self.spans.append(Span(opening.kind, opening.end, start, "right" if right else "wrong"))

    def abandon(self, index: int) -> None:
        """Remove the openings from this index of the stack on, as never closed."""
        while len(self.stack) > index:
            opening = self.pop()
            self.report.counts[opening.kind].never += 1
            self.spans.append(Span(opening.kind, opening.end, self.position, "never"))

    def pop(self) -> _Opening:
        opening = self.stack.pop()
        self.levels[opening.level].pop()
        self.kinds[opening.kind, opening.level].pop()
        return opening

    def environment(self, edge: str, name: str, start: int, end: int) -> None:
        if edge == "end":
            self.close(name, ENVIRONMENT, start)
            return
        if name not in INSIDE_MATHEMATICS:
            formulas = self.levels[MATHEMATICS]
            outermost = bisect(formulas, self.innermost(ENVIRONMENT))
            if outermost < len(formulas):
                self.abandon(formulas[outermost])
        self.open(name, ENVIRONMENT, end)

    def dollar(self, sign: str, start: int, end: int) -> None:
        inside = self.innermost(MATHEMATICS)
        if inside < 0:
            self.open(sign, MATHEMATICS, end)
        elif sign == "$$" and self.stack[inside].kind == "$":  # $a$$b$: one formula after another
            self.close("$", MATHEMATICS, start)
            self.open("$", MATHEMATICS, end)
        else:
            self.close(sign, MATHEMATICS, start)

    def bracket(self, sign: str, start: int, end: int) -> None:
        if sign in "([":
            self.open("()" if sign == "(" else "[]", BRACKET, end)
        elif sign == "{":
            self.open("{}", GROUP, end)
        elif sign != "}":
            self.close(PARTNER[sign], BRACKET, start)
        elif self.innermost(GROUP, "{}") < 0 <= self.innermost(TEXT):
            self.close("{}", TEXT, start)
        else:
            self.close("{}", GROUP, start)

    def reference(self, command: str, label: str, start: int) -> None:
        braces = self.report.counts["{}"]
        braces.opened += 1
        braces.rightly += 1
        self.report.closings.append(Closing("{}", len(label), True))
        self.spans.append(Span("{}", start, start + len(label), "right"))
        if command == "label":
            self.report.labels.add(label)
        elif label in self.report.labels:
            self.report.defined += 1
        else:
            self.report.undefined += 1

    def token(self, match: re.Match[str]) -> None:
        start, end, sign = match.start(), match.end(), match[0]
        self.position = start
        if match["edge"]:
            self.environment(match["edge"], match["name"], start, end)
        elif match["reference"]:
            self.reference(match["reference"], match["label"], match.start("label"))
        elif match["text"]:
            self.open("{}", TEXT, end)
        elif match["side"] == "left":
            self.open("\\left", GROUP, end)
        elif match["side"] == "right":
            self.close("\\left", GROUP, start)
        elif match["section"]:
            documents = self.kinds["document", ENVIRONMENT]
            self.abandon(documents[-1] + 1 if documents else 0)
        elif match["pause"]:
            self.abandon(self.innermost(ENVIRONMENT) + 1)
        elif match["delimiter"] in ("\\(", "\\["):
            self.open(sign, MATHEMATICS, end)
        elif match["delimiter"]:
            self.close(PARTNER[sign], MATHEMATICS, start)
        elif match["dollar"]:
            self.dollar(sign, start, end)
        elif match["bracket"]:
            self.bracket(sign, start, end)


def check(text: str) -> Report:
    """Count what `text` opens and closes, by kind, in time linear in its length.

    What a truncated text leaves open counts as never closed.
    """
    reader = _read(text)
    reader.abandon(0)
    return reader.report


def spans(text: str) -> list[Span]:
    """Everything that `text` opens, in order; see `check`."""
    reader = _read(text)
    left = [Span(opening.kind, opening.end, len(text), "open") for opening in reader.stack]
    return sorted(reader.spans + left, key=lambda span: span.start)


def _read(text: str) -> _Reader:
    reader = _Reader()
    for match in TOKEN.finditer(text):
        reader.token(match)
    return reader

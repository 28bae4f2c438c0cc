r"""An endless algebra textbook in LaTeX, generated from a seed: lemmas, proofs, nested lists, formulas, references.

Everything opened is closed and everything cited is defined, but most of its claims are false.

`latex_grammar.py` contains the phrases within a sentence; this module the structures that span lines. A statement and
its proof use the same letters, and a proof treats the parts of its statement in order. Nothing is indented, so the
depth must be remembered and cannot be read from the last line. Lengths cover several orders of magnitude: most
environments close within a few lines, some after more than a thousand characters.
"""

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from rnn_plugins.data.latex_grammar import GRAMMAR, HANDS, NAMES

WIDTH = 78
DEEPEST_FORMULA = 5
DEEPEST_LIST = 3
MEMORY = 8  # the number of recent labels that can be cited
BLOCKS = [*["lemma"] * 4, "proposition", "theorem", "definition", "remark", "example", "prose"]

RULES = {symbol: textwrap.dedent(lines).strip().split("\n") for symbol, lines in GRAMMAR.items()}
ALPHABETS = [dict(zip(NAMES, hand.split(", "), strict=True)) for hand in HANDS]
HOLE = re.compile("<([^<>]+)>")

Choice = TypeVar("Choice")


class _Author:
    """The generator's state: the letters of the current statement and what can be cited."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)
        self.draws: list[float] = []
        self.letters: dict[str, str] = {}
        self.depth = 0
        self.citations: list[str] = []  # the last few, the newest last
        self.wanted: dict[str, int] = {}  # how often each label was drawn

    # Chance

    def draw(self) -> float:
        if not self.draws:
            self.draws = self.random.random(4096).tolist()  # drawing one at a time would take most of the time
        return self.draws.pop()

    def several(self, most: int) -> int:
        """A log-uniform integer from 1 to `most`, so that sizes of every order of magnitude occur."""
        return int((most + 1) ** self.draw())

    def pick(self, choices: Sequence[Choice]) -> Choice:
        return choices[int(self.draw() * len(choices))]

    # Sentences

    def say(self, template: str) -> str:
        """The template with its holes filled."""
        return HOLE.sub(self.fill_hole, template)

    def fill_hole(self, hole: re.Match[str]) -> str:
        symbol = hole[1]
        if symbol in self.letters:
            return self.letters[symbol]
        if symbol == "citation":
            return self.cite()
        self.depth += 1
        rules = RULES[symbol]
        said = self.say(self.pick(rules) if self.depth <= DEEPEST_FORMULA else rules[0])
        self.depth -= 1
        return said

    def line(self, template: str) -> str:
        """The template with its holes filled, folded where it is too long for one line."""
        return textwrap.fill(self.say(template), WIDTH, break_long_words=False, break_on_hyphens=False)

    def cite(self) -> str:
        """One of the last labels, newer ones more often."""
        if not self.citations:
            return "the introduction"
        return self.citations[-min(self.several(MEMORY), len(self.citations))]

    def new_label(self, kind: str) -> str:
        label = self.say(f"{kind}-<word>")
        self.wanted[label] = self.wanted.get(label, 0) + 1
        return label if self.wanted[label] == 1 else f"{label}-{self.wanted[label]}"

    def allow(self, citation: str) -> None:
        self.citations = [*self.citations, citation][-MEMORY:]

    # Blocks of whole lines, without the final line feed

    def display(self) -> str:
        """A formula on lines of its own."""
        form = self.pick(["sequence", "sequence", "equation", "align*", "matrix"])
        if form == "equation":
            label = self.new_label("equation")
            self.allow(f"(\\ref{{{label}}})")
            return _environment("equation", f"\\label{{{label}}}", self.line(r"<module> \cong <module>"))
        if form == "align*":
            rows = [
                self.line("<element> & = <element>"),
                *(self.line("& = <element>") for _ in range(self.several(3) - 1)),
            ]
            return _environment("align*", " \\\\\n".join(rows))
        if form == "matrix":
            rows = [self.line("<element> & <element>") for _ in range(2)]
            return "\n".join(["$$", r"\left(", _environment("matrix", " \\\\\n".join(rows)), r"\right)", "$$"])
        return "\n".join(["$$", self.line("<sequence>"), "$$"])

    def paragraph(self, template: str, sentences: int) -> list[str]:
        """Sentences, occasionally with a displayed formula between them."""
        lines = []
        for _ in range(sentences):
            lines.append(self.line(template))
            if self.draw() < 0.07:
                lines += [self.line("<display opening>"), self.display()]
        return lines

    def enumeration(self, template: str, items: int, depth: int = 1) -> str:
        """A list whose items may contain formulas and further lists."""
        lines = []
        for _ in range(items):
            lines += self.paragraph("\\item " + template, 1)
            if depth < DEEPEST_LIST and self.draw() < 0.15:
                lines += [self.line("<list opening>"), self.enumeration("<item>", 1 + self.several(2), depth + 1)]
        return _environment("enumerate", *lines)

    def labelled(self, kind: str, *lines: str) -> str:
        """An environment that usually has a label, and can then be cited."""
        if self.draw() < 0.4:
            return _environment(kind, *lines)
        label = self.new_label(kind)
        self.allow(f"{kind.capitalize()} \\ref{{{label}}}")
        return _environment(kind, f"\\label{{{label}}}", *lines)

    def block(self) -> str:
        """One block of a section, with one set of letters."""
        self.letters = self.pick(ALPHABETS)
        kind = self.pick(BLOCKS)
        if kind == "prose":
            return "\n".join(["\\noindent", *self.paragraph("<remark>", self.several(3))])
        if kind == "remark":
            return self.labelled(kind, *self.paragraph("<remark>", self.several(3)))
        if kind == "definition":
            return self.labelled(kind, *self.given(), self.line("<definition>"))
        if kind == "example":
            return self.labelled(kind, *self.given(), *self.paragraph("<illustration>", self.several(4)))
        return self.theorem(kind)

    def given(self) -> list[str]:
        return [self.line("<setting>"), *(self.line("<hypothesis>") for _ in range(self.several(3) - 1))]

    def theorem(self, kind: str) -> str:
        """A lemma, a proposition or a theorem, and its proof."""
        form = self.pick(["short", "short", "short", "plain", "plain", "list"])
        parts = 1 + self.several(4) if form == "list" else 0
        if form == "short":
            body = [self.line("<short statement>")]
        elif form == "plain":
            body = [*self.given(), self.line("<conclusion>")]
        else:
            body = [*self.given(), self.line("<list opening>"), self.enumeration("<item>", parts)]
        return self.labelled(kind, *body) + "\n\n" + _environment("proof", self.argument(parts))

    def argument(self, parts: int) -> str:
        """The text of a proof: a phrase, or a paragraph per part of the statement, or a few paragraphs."""
        if self.draw() < 0.4:
            return self.line("<short proof>")
        if parts:
            paragraphs = [
                [f"Proof of ({part + 1}).", *self.paragraph("<step>", self.several(4))] for part in range(parts)
            ]
        else:
            paragraphs = [self.paragraph("<step>", self.several(6)) for _ in range(self.several(2))]
            if self.draw() < 0.2:
                paragraphs[-1] += [self.line("<list opening>"), self.enumeration("<step>", 1 + self.several(3))]
            paragraphs[-1].append(self.line("<last step>"))
        return "\n\n".join("\n".join(lines) for lines in paragraphs)

    def section(self) -> Iterator[str]:
        """A heading, a few sentences, and the blocks that follow."""
        self.letters = self.pick(ALPHABETS)
        label = self.new_label("section")
        opening = self.paragraph("<opening>", self.several(3))
        yield "\n".join([self.say(r"\section{<title>}"), f"\\label{{{label}}}", "", "\\noindent", *opening])
        self.allow(f"Section \\ref{{{label}}}")
        for _ in range(3 + self.several(9)):
            yield self.block()


def _environment(name: str, *lines: str) -> str:
    return "\n".join([f"\\begin{{{name}}}", *lines, f"\\end{{{name}}}"])


def generate(seed: int = 0) -> Iterator[str]:
    """The endless textbook for this seed, in pieces of a few hundred characters."""
    author = _Author(seed)
    while True:
        for block in author.section():
            yield block + "\n\n"


def excerpt(characters: int, seed: int = 0) -> Iterator[str]:
    """The first `characters` characters of the textbook, in pieces; the cut may fall inside an environment.

    Raises:
        ValueError: the length is negative; raised when the first piece is requested.
    """
    if characters < 0:
        raise ValueError(f"the length is {characters}; expected 0 characters or more")
    for piece in generate(seed):
        yield piece[:characters]
        characters -= len(piece)
        if characters <= 0:
            return


def latex_text(characters: int, seed: int = 0) -> str:
    """The first `characters` characters of the textbook as one string.

    Raises:
        ValueError: the length is negative.
    """
    return "".join(excerpt(characters, seed))

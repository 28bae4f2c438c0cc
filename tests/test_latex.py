r"""The built-in textbook closes what it opens, and the checker sees what a text does not."""

import inspect
import itertools
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_plugins.data import latex
from rnn_plugins.data.latex import generate, latex_text
from rnn_plugins.data.latex_check import Closing, check
from rnn_plugins.data.latex_grammar import GRAMMAR, NAMES

seeds = st.integers(0, 2**32)
HOLES = {symbol: [latex.HOLE.findall(rule) for rule in rules] for symbol, rules in latex.RULES.items()}


def written(seed: int, pieces: int) -> str:
    return "".join(itertools.islice(generate(seed), pieces))


# The textbook


@given(seed=seeds, pieces=st.integers(0, 60))
def test_textbook_is_right_throughout(seed: int, pieces: int) -> None:
    report = check(written(seed, pieces))
    assert report.total.rightly == report.total.opened
    assert report.total.unopened == report.undefined == 0


@given(seed=seeds, characters=st.integers(0, 8000))
def test_cut_textbook_has_nothing_wrong_but_its_open_end(seed: int, characters: int) -> None:
    text = latex_text(characters, seed)
    assert len(text) == characters
    report = check(text)
    assert report.total.wrongly <= text.endswith("$")  # where the cut made one dollar of two
    assert report.total.unopened == report.undefined == 0
    assert report.total.never < 12


@given(seed=seeds, characters=st.integers(0, 5000))
def test_same_seed_writes_the_same_text_whatever_its_length(seed: int, characters: int) -> None:
    text = latex_text(5000, seed)
    assert latex_text(characters, seed) == text[:characters]
    assert written(seed, 50)[:5000] == text[: len(written(seed, 50))]


def test_seeds_write_different_texts() -> None:
    assert len({latex_text(2000, seed) for seed in range(20)}) == 20


def test_a_negative_length_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"^the length is -1; expected 0 characters or more$"):
        latex_text(-1)


@given(seed=seeds)
def test_alphabet_and_lines_are_those_of_a_plain_file(seed: int) -> None:
    text = latex_text(20_000, seed)
    symbols = set(text)
    assert symbols <= {chr(code) for code in range(32, 127)} | {"\n"}
    assert 60 < len(symbols) < 100
    assert max(len(line) for line in text.split("\n")) < 90
    assert "\n\n\n" not in text


def test_textbook_has_all_that_a_textbook_needs() -> None:
    text = latex_text(200_000)
    report = check(text)
    assert set(report.counts) == {
        *("lemma", "proposition", "theorem", "proof", "definition", "remark", "example"),
        *("enumerate", "equation", "align*", "matrix", "$", "$$", "{}", "[]", "()", "\\left"),
    }
    assert min(count.rightly for count in report.counts.values()) > 10
    assert report.defined > 300
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert len(labels) == len(set(labels)) > 300


def test_closings_bridge_short_and_long_distances() -> None:
    report = check(latex_text(200_000))
    distances = [closing.distance for closing in report.closings if closing.kind[0].isalpha()]
    for low, high in [(0, 64), (64, 300), (300, 1000)]:
        assert sum(low <= distance < high for distance in distances) > 0.1 * len(distances)
    assert sum(distance > 1000 for distance in distances) > 10


def test_lists_nest_to_depth_three() -> None:
    depth, depths = 0, Counter()
    for edge in re.findall(r"\\(begin|end)\{enumerate\}", latex_text(200_000)):
        depth += 1 if edge == "begin" else -1
        depths[depth] += edge == "begin"
    assert set(depths) >= {1, 2, 3}
    assert max(depths) == 3


def test_proofs_take_up_the_parts_of_their_statement() -> None:
    taken_up = 0
    for piece in itertools.islice(generate(1), 1000):
        parts = re.findall(r"^Proof of \((\d)\)\.$", piece, re.MULTILINE)
        depth = items = 0
        for edge in re.findall(r"\\(begin|end)\{enumerate\}|(\\item)", piece.split(r"\begin{proof}")[0]):
            depth += {"begin": 1, "end": -1, "": 0}[edge[0]]
            items += edge[1] != "" and depth == 1
        if parts:
            assert parts == [str(part) for part in range(1, items + 1)]
            taken_up += 1
    assert taken_up > 30


def test_little_is_said_twice() -> None:
    lines = [line for line in latex_text(200_000).split("\n") if len(line) > 40]
    assert len(set(lines)) > 0.8 * len(lines)


# The grammar


def test_every_hole_of_the_grammar_can_be_filled_and_every_symbol_is_wanted() -> None:
    wanted = {hole for rules in HOLES.values() for rule in rules for hole in rule}
    assert wanted <= {*GRAMMAR, *NAMES, "citation"}
    spoken = set(latex.HOLE.findall(inspect.getsource(latex)))
    assert set(GRAMMAR) <= wanted | spoken


def test_first_alternatives_lead_out() -> None:
    def depth(symbol: str, within: tuple[str, ...] = ()) -> int:
        assert symbol not in within, f"{within} never ends"
        return 1 + max((depth(hole, (*within, symbol)) for hole in HOLES[symbol][0] if hole in HOLES), default=0)

    assert max(depth(symbol) for symbol in HOLES) < 10


# The checker: opened, rightly, wrongly, never, unopened

WRITTEN = {
    "right": (r"\begin{lemma} $x$ \end{lemma}", {"lemma": (1, 1, 0, 0, 0), "$": (1, 1, 0, 0, 0)}),
    "the lecture's mistake": (r"\begin{proof} \end{lemma}", {"proof": (1, 0, 1, 0, 0), "lemma": (0, 0, 0, 0, 0)}),
    "outer one closed": (
        r"\begin{lemma} \begin{proof} \end{lemma}",
        {"lemma": (1, 1, 0, 0, 0), "proof": (1, 0, 1, 0, 0)},
    ),
    "two passed over": (
        r"\begin{lemma} \begin{proof} \begin{enumerate} \end{lemma}",
        {"lemma": (1, 1, 0, 0, 0), "proof": (1, 0, 0, 1, 0), "enumerate": (1, 0, 1, 0, 0)},
    ),
    "crossed": (
        r"\begin{a} \begin{b} \end{a} \end{b}",
        {"a": (1, 1, 0, 0, 0), "b": (1, 0, 1, 0, 1)},
    ),
    "what it encloses was never closed": (
        r"\begin{proof} { \end{lemma}",
        {"proof": (1, 0, 1, 0, 0), "{}": (1, 0, 0, 1, 0)},
    ),
    "never closed": (r"\begin{proof} $x$", {"proof": (1, 0, 0, 1, 0), "$": (1, 1, 0, 0, 0)}),
    "never opened": (r"x \end{proof}", {"proof": (0, 0, 0, 0, 1)}),
    "one mistake stays one": (
        r"\begin{lemma} \end{proof} \begin{lemma} \end{lemma} \begin{proof} \end{proof}",
        {"lemma": (2, 1, 1, 0, 0), "proof": (1, 1, 0, 0, 0)},
    ),
    "nested": (
        r"\begin{enumerate} \item \begin{enumerate} \item x \end{enumerate} \end{enumerate}",
        {"enumerate": (2, 2, 0, 0, 0)},
    ),
    "starred": (r"\begin{align*} \end{align}", {"align*": (1, 0, 1, 0, 0), "align": (0, 0, 0, 0, 0)}),
    "brackets": ("([{}])", {"()": (1, 1, 0, 0, 0), "[]": (1, 1, 0, 0, 0), "{}": (1, 1, 0, 0, 0)}),
    "half-open interval": ("(0, 1]", {"()": (1, 0, 1, 0, 0), "[]": (0, 0, 0, 0, 0)}),
    "bracket passed over": ("([)", {"()": (1, 1, 0, 0, 0), "[]": (1, 0, 1, 0, 0)}),
    "brace passes bracket": ("{(}", {"{}": (1, 1, 0, 0, 0), "()": (1, 0, 0, 1, 0)}),
    "bracket cannot pass brace": ("({)}", {"{}": (1, 1, 0, 0, 0), "()": (1, 0, 0, 1, 1)}),
    "bracket cannot leave formula": ("($)$", {"()": (1, 0, 0, 1, 1), "$": (1, 1, 0, 0, 0)}),
    "bracket cannot leave environment": (
        r"(\begin{a})\end{a})",
        {"()": (1, 1, 0, 0, 1), "a": (1, 1, 0, 0, 0)},
    ),
    "environment ends brackets": (
        r"\begin{a}({$\end{a}",
        {
            "a": (1, 1, 0, 0, 0),
            "()": (1, 0, 0, 1, 0),
            "{}": (1, 0, 0, 1, 0),
            "$": (1, 0, 0, 1, 0),
        },
    ),
    "escapes": (r"\{ \$ \% \} \( x \) \\[2pt]", {"\\(": (1, 1, 0, 0, 0), "[]": (1, 1, 0, 0, 0)}),
    "comments": ("% \\begin{a} ( $\n\\% (x)", {"()": (1, 1, 0, 0, 0)}),
    "displays": (r"\[ x \] $$ y $$", {"\\[": (1, 1, 0, 0, 0), "$$": (1, 1, 0, 0, 0)}),
    "one dollar for two": ("$$ x $", {"$$": (1, 0, 1, 0, 0), "$": (0, 0, 0, 0, 0)}),
    "formula after formula": ("$a$$b$", {"$": (2, 2, 0, 0, 0)}),
    "mixed signs": (r"\( x $ y", {"\\(": (1, 0, 1, 0, 0), "$": (0, 0, 0, 0, 0)}),
    "mixed brackets": (r"\[ x \)", {"\\[": (1, 0, 1, 0, 0), "\\(": (0, 0, 0, 0, 0)}),
    "left and right": (
        r"\left( x \right] \left\{ y \right. \leftarrow \rightarrow \left.)\right|",
        {"\\left": (3, 3, 0, 0, 0), "()": (0, 0, 0, 0, 1)},
    ),
    "left without right": (r"${\left( x}$", {"\\left": (1, 0, 1, 0, 0), "{}": (1, 1, 0, 0, 0), "$": (1, 1, 0, 0, 0)}),
    "formula in text in formula": (r"$x \text{ if $y$ } z$", {"$": (2, 2, 0, 0, 0), "{}": (1, 1, 0, 0, 0)}),
    "text ends its formula": (r"$x \text{ if $y } z$", {"$": (2, 1, 0, 1, 0), "{}": (1, 1, 0, 0, 0)}),
    "lone dollar until the blank line": ("$a b\n \nc$", {"$": (2, 0, 0, 2, 0)}),
    "lone dollar until the item": ("$a \\item c$", {"$": (2, 0, 0, 2, 0)}),
    "lone dollar until the environment": (
        r"$a \begin{lemma} \end{lemma} d$",
        {"$": (2, 0, 0, 2, 0), "lemma": (1, 1, 0, 0, 0)},
    ),
    "matrix in a formula": (r"$a \begin{matrix} c \end{matrix} d$", {"$": (1, 1, 0, 0, 0), "matrix": (1, 1, 0, 0, 0)}),
    "blank line in CRLF": ("(\r\n\r\n)", {"()": (1, 0, 0, 1, 1)}),
    "blank line leaves environments": ("\\begin{a}\n\n\\end{a}", {"a": (1, 1, 0, 0, 0)}),
    "section ends all": (
        r"\begin{document} \begin{lemma} \section{A} \end{lemma} \end{document}",
        {"document": (1, 0, 1, 0, 1), "lemma": (1, 0, 0, 1, 0), "{}": (1, 1, 0, 0, 0)},
    ),
    "section within a document": (
        r"\begin{document} ( \section{A} \end{document}",
        {"document": (1, 1, 0, 0, 0), "()": (1, 0, 0, 1, 0), "{}": (1, 1, 0, 0, 0)},
    ),
    "cut off": ("\\begin{lem", {"{}": (1, 0, 0, 1, 0)}),
}


@pytest.mark.parametrize(("text", "expected"), WRITTEN.values(), ids=WRITTEN)
def test_checker_counts(text: str, expected: dict[str, tuple[int, ...]]) -> None:
    rows = {kind: tuple(counts) for kind, *counts in check(text).rows() if any(counts)}
    assert rows == {kind: counts for kind, counts in expected.items() if any(counts)}


def test_references_are_to_labels_that_stand_earlier() -> None:
    report = check(r"\ref{a} \label{a} \ref{a} \eqref{a} \ref{b} \label{c} \pageref{c} % \ref{c}")
    assert (report.defined, report.undefined, report.labels) == (3, 2, {"a", "c"})
    assert report.counts["{}"].rightly == 7


def test_closings_tell_the_distance_and_come_in_the_order_of_the_text() -> None:
    assert check(r"\begin{lemma}$x$ (12]\end{proof}").closings == [
        Closing("$", 1, True),
        Closing("()", 2, False),
        Closing("lemma", 8, False),
    ]


def test_rows_put_environments_first_and_the_frequent_before_the_rare() -> None:
    rows = check(r"$a$ $b$ () \begin{b}\end{b} \begin{a}\end{a} \begin{c}\end{c} \begin{c}\end{c}").rows()
    assert [kind for kind, *_ in rows] == ["c", "a", "b", "$", "()"]


def test_total_is_the_sum_of_the_rows() -> None:
    report = check(r"\begin{a} ( ] { $ \end{b} } \end{c}")
    total = report.total
    columns = [sum(column) for column in list(zip(*report.rows(), strict=True))[1:]]
    assert columns == [total.opened, total.rightly, total.wrongly, total.never, total.unopened]


PIECES = [
    *[rf"\{edge}{{{name}}}" for edge in ("begin", "end") for name in ("a", "b", "matrix", "document")],
    *["$", "$$", r"\(", r"\)", r"\[", r"\]", "(", ")", "[", "]", "{", "}", r"\{", r"\}", r"\left(", r"\right)"],
    *[r"\text{", r"\item", r"\section", r"\label{x}", r"\ref{x}", r"\ref{y}", "%", "x", r"\\", "\\", " "],
    *["\n", "\n\n", "\r\n"],
]


@given(st.text() | st.lists(st.sampled_from(PIECES), max_size=80).map("".join))
def test_checker_reads_anything_and_its_books_balance(text: str) -> None:
    report = check(text)
    for count in report.counts.values():
        assert count.opened == count.rightly + count.wrongly + count.never
    total = report.total
    assert total.rightly == sum(closing.right for closing in report.closings)
    assert total.wrongly == sum(not closing.right for closing in report.closings)
    assert all(0 <= closing.distance < len(text) for closing in report.closings)


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join), seeds)
def test_a_mistake_ends_at_the_next_section(text: str, seed: int) -> None:
    book = written(seed, 10)
    before, after, alone = check(text), check(text + "\n\n" + book), check(book)
    for name in ("rightly", "wrongly", "unopened"):
        assert getattr(after.total, name) - getattr(before.total, name) == getattr(alone.total, name)


def test_checker_finds_a_real_chapter_right(data) -> None:
    total = check((data / "stacks-algebra.tex").read_text()).total
    assert total.opened > 60_000
    assert total.wrongly + total.never + total.unopened < 10

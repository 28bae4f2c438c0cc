"""The share closed rightly, by distance: samples of models with known behaviour."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_cells import Copy, on, subject_of
from test_latex import PIECES

from minigrad import softmax
from minigrad.scan import available_backends, use_backend
from rnn_cells import Cell
from rnn_plugins.data.latex_check import check, spans
from rnn_plugins.data.vocabulary import Vocabulary
from rnn_plugins.errors import UserError
from rnn_plugins.language import Language
from rnn_plugins.language.model import Model
from rnn_plugins.reports.report import Look, compose
from rnn_plugins.reports.structure import (
    Bins,
    Failure,
    Structure,
    bins,
    class_of,
    outcomes,
    wilson,
    write,
    write_side_by_side,
)

BACKENDS = ["reference", *available_backends()]


@dataclass(frozen=True)
class Last(Cell):
    """h_t = x_t: the last symbol is all that is known."""

    def init_params(self, rng):
        return {}

    def __call__(self, params, h, x):
        return x, x


def writer(cycle, training):
    """A model that writes symbols in a cycle, each of which stands in it once."""
    vocabulary = Vocabulary.build([cycle + training])
    size = len(vocabulary)
    model = Model(Last(size, size), size, dtype="float64")
    W = np.zeros((size, size))
    for before, after in zip(cycle, cycle[1:] + cycle[0], strict=True):
        W[vocabulary.encode(before), vocabulary.encode(after)] = 1000
    subject = on(
        subject_of(model.cell),
        model=model,
        params={"cell": {}, "head": {"W": W, "b": np.zeros(size)}},
        vocabulary=vocabulary,
        training=vocabulary.encode(training),
    )
    return replace(subject, label="writer", language=Language(model, vocabulary, tuple(vocabulary.encode(cycle))))


def numbers(findings):
    return {quantity.key: quantity.value for quantity in findings.quantities}


def table(findings, key):
    (found,) = (figure for figure in findings.figures if figure.key == key)
    return {row[0]: row[1:] for row in found.rows}


def test_a_model_that_closes_all_it_opens():
    findings = Structure().measure(writer("(abcde)", "(abcde)" * 100), Look(characters=7000))
    assert numbers(findings) == {
        "brackets_opened": 1000,
        "brackets_right": 100,
        "brackets_wrong": 0,
        "brackets_never": 0,
        "brackets_unopened": 0,
        "brackets_fail_from": None,
    }
    chart, distances, *_ = findings.figures
    assert chart.curves[0].y.tolist()[2:] == [1]
    assert np.isnan(chart.curves[0].y[:2]).all()
    assert chart.curves[0].low[2] == pytest.approx(1 / (1 + 1.96**2 / 1000))
    assert [curve.y.tolist() for curve in distances.curves] == [[0, 0, 1], [0, 0, 1]]
    assert table(findings, "groups") == {"0 to 1": (0, None), "2 to 3": (0, None), "4 to 7": (1000, "100.0 %")}
    assert table(findings, "kinds") == {"()": (1000, 1000, 0, 0, 0, 1000)}
    assert findings.verdict == (
        "Of 1,000 brackets that it opens, it closes 100.0 % rightly, at all distances as well as the text, as far as "
        "these numbers show.",
    )


def test_a_model_that_gives_up_beyond_a_distance():
    """The square bracket is never closed: the group around it ends first, five characters later."""
    findings = Structure().measure(writer("(a){[bcdef}", "(a){[bcdef]}" * 100), Look(characters=2200))
    assert numbers(findings) == {
        "brackets_opened": 600,
        "brackets_right": pytest.approx(200 / 3),
        "brackets_wrong": 0,
        "brackets_never": pytest.approx(100 / 3),
        "brackets_unopened": 0,
        "brackets_fail_from": 4,
    }
    assert table(findings, "groups") == {"0 to 1": (200, "100.0 %"), "2 to 3": (0, None), "4 to 7": (400, "50.0 %")}
    assert table(findings, "kinds")["[]"] == (200, 0, 0, 200, 0, 183)


def test_a_model_that_closes_by_another_kind():
    findings = Structure().measure(writer("(a)[bcdef", "(a)[bcdef]" * 100), Look(characters=2000))
    assert numbers(findings)["brackets_right"] == 100
    wrong = Structure().measure(writer("a(bcdef]", "a(bcdef)" * 100), Look(characters=2000))
    assert numbers(wrong) == {
        "brackets_opened": 250,
        "brackets_right": 0,
        "brackets_wrong": 100,
        "brackets_never": 0,
        "brackets_unopened": 0,
        "brackets_fail_from": 4,
    }
    assert wrong.verdict == (
        "Of 250 brackets that it opens, it closes 0.0 % rightly; it fails from a distance of 4 characters on, and "
        "100 % "
        "of the text's reach that far.",
    )


def test_a_failure_beyond_what_could_be_told_is_one_at_the_latest():
    """The text also has brackets that close at once, which this model does not write."""
    findings = Structure().measure(writer("a(bcdef]", "a(bcdef)()" * 100), Look(characters=2000))
    assert numbers(findings)["brackets_fail_from"] == "at most 4 characters"
    assert findings.verdict == (
        "Of 250 brackets that it opens, it closes 0.0 % rightly; it fails from a distance of 4 characters on at the "
        "latest, and 50 % of the text's reach that far.",
    )


@pytest.mark.parametrize("characters", [7 * 99, 7 * 5])
def test_too_few_brackets_tell_nothing(characters):
    subject = writer("(abcde)", "(abcde)" * 100)
    findings = Structure().measure(subject, Look(characters=characters))
    assert findings.verdict == (
        f"Of {characters // 7} brackets that it opens, it closes 100.0 % rightly; these are too few to say from which "
        f"distance it fails: give --characters more than {characters}.",
    )
    (fail_from,) = (q for q in findings.quantities if q.key == "brackets_fail_from")
    assert (fail_from.value, fail_from.missing) == (None, "too few cases")
    more = Structure().measure(subject, Look(characters=700))
    assert "as well as the text, as far" in more.verdict[0]


def test_brackets_at_other_distances_than_the_text_s_tell_nothing():
    findings = Structure().measure(writer("(abcde)", "(abcdefghi)" * 100), Look(characters=7000))
    assert findings.verdict[0].startswith(
        "Of 1,000 brackets that it opens, it closes 100.0 % rightly; these are too few to say"
    )


def test_a_chart_without_any_group_that_is_large_enough_is_left_out():
    subject = writer("(abcde)", "(abcde)" * 100)
    few, more = (Structure().measure(subject, Look(characters=7 * n)) for n in (9, 10))
    assert [figure.key for figure in few.figures] == ["brackets_distances", "groups", "kinds"]
    assert few.notices == (
        "the chart of brackets closed rightly is left out: too few end at any distance (below 10 a group)",
    )
    assert [figure.key for figure in more.figures] == ["brackets", "brackets_distances", "groups", "kinds"]
    assert more.notices == ()


def test_models_of_one_text_share_its_curve_however_far_their_own_brackets_reach():
    text = "(abcdefghijklmnopq)" * 100
    report, look = Structure(), Look(characters=2000)
    found = {cycle: report.measure(writer(cycle, text), look) for cycle in ("(ab)", "(abcdefghijklmnopq)")}
    far = report.measure(writer("(abcdefghijklmnopqrstuvwxyzABCDEF)", text + "rstuvwxyzABCDEF"), look)
    page = compose("structure", report, found | {"far": far})
    (chart,) = (figure for figure in page.figures if figure.key == "brackets_distances")
    assert [curve.role for curve in chart.curves].count("reference") == 1
    assert [len(curve.x) for curve in chart.curves] == [5, 5, 6, 5]


def test_a_model_that_opens_nothing():
    findings = Structure().measure(writer("ab", "(a)" * 100), Look(characters=100))
    assert findings.verdict == ("It opens no brackets.",)
    assert numbers(findings)["brackets_right"] is None
    assert numbers(findings)["brackets_opened"] == 0


def test_what_became_of_a_text():
    found = outcomes([r"\begin{a} (x) [yy) $(z$ {", "() (", r"\end{b} \left(x\right) \begin{ab}12\end{b}"])
    assert {
        name: list(zip(found.distance[name].tolist(), found.right[name].tolist(), strict=True)) for name in found.right
    } == {
        "environments": [(2, False)],
        "brackets": [(1, True), (2, False), (1, False), (0, True), (1, True)],
    }
    assert (found.counts["a"].opened, found.counts["a"].never) == (0, 0)  # still open at the end
    assert (found.counts["()"].opened, found.counts["()"].rightly, found.counts["()"].never) == (3, 2, 1)
    assert found.total("environments").unopened == 1
    assert found.characters == 71


def test_kinds_belong_to_classes():
    assert [class_of(kind) for kind in ("lemma", "()", "[]", "{}", "\\left", "$", "$$", "\\(", "\\[")] == [
        "environments", *["brackets"] * 4, *["formulas"] * 4,
    ]  # fmt: skip


@given(st.text() | st.lists(st.sampled_from(PIECES), max_size=80).map("".join))
def test_spans_are_what_the_checker_counts(text):
    found, report = spans(text), check(text)
    fates = Counter((span.kind, span.fate) for span in found)
    for kind, count in report.counts.items():
        assert fates[kind, "right"] == count.rightly
        assert fates[kind, "wrong"] == count.wrongly
        assert fates[kind, "never"] + fates[kind, "open"] == count.never
    assert sum(fates.values()) == report.total.opened
    assert all(0 <= span.start <= span.end <= len(text) for span in found)
    assert [span.start for span in found] == sorted(span.start for span in found)
    closed = sorted(
        (span.kind, span.end - span.start, span.fate == "right") for span in found if span.fate in ("right", "wrong")
    )
    assert closed == sorted(report.closings)


def test_distances_are_sorted_into_powers_of_two():
    distance = np.array([0, 1, 2, 3, 4, 7, 8, 100])
    found = bins(distance, distance > 2, groups=9)
    assert found.count.tolist() == [2, 2, 2, 1, 0, 0, 1, 0, 0]
    assert found.right.tolist() == [0, 1, 2, 1, 0, 0, 1, 0, 0]
    np.testing.assert_allclose(found.centres[:3], np.sqrt([1, 2 * 3, 4 * 7]))
    assert found.shares.tolist() == (found.count / 8).tolist()


def test_wilson_s_interval():
    low, high = wilson(np.array([5, 0, 10, 0]), np.array([10, 10, 10, 0]))
    np.testing.assert_allclose(low, [0.2366, 0, 0.7225, 0], atol=1e-4)
    np.testing.assert_allclose(high, [0.7634, 0.2775, 1, 1], atol=1e-4)


@given(st.integers(1, 10_000), st.data())
def test_the_interval_holds_the_share_and_its_ends_solve_wilson_s_equation(n, data):
    k = data.draw(st.integers(0, n))
    low, high = wilson(np.array(k), np.array(n))
    assert 0 <= low <= k / n + 1e-12
    assert k / n - 1e-12 <= high <= 1
    for end in (low, high):  # |share - end| = z sqrt(end (1 - end) / n)
        assert (k / n - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / n, abs=1e-9)


def test_where_it_fails_is_certain():
    def fails(right, count, reference=1.0, truth=(99, 99, 99, 99)):
        text = Bins(np.array(truth), np.array(truth))
        return Bins(np.array(count), np.array(right)).fails_from(text, reference)

    assert fails([100, 99, 50, 0], [100, 100, 100, 100]) == Failure(4, at_latest=False)
    assert fails([100, 99, 50, 0], [100, 100, 100, 100], reference=0.6) == Failure(8, at_latest=False)
    # The text has no such distance.
    assert fails([100, 99, 50, 0], [100, 100, 100, 100], truth=(99, 99, 3, 99)) == Failure(8, at_latest=False)
    assert fails([100, 99, 50, 0], [100, 100, 100, 100], truth=(99, 99)) is None
    assert fails([9, 0], [9, 9]) is None  # too few to be certain
    assert fails([93], [100]) is None
    assert fails([930], [1000]) == Failure(1, at_latest=False)


def test_where_it_fails_is_an_upper_bound_beyond_a_group_of_which_too_little_is_known():
    text = Bins(np.array([99, 9, 99, 99]), np.array([99, 9, 99, 99]))

    def fails(right, count):
        return Bins(np.array(count), np.array(right)).fails_from(text, 1.0)

    assert fails([0, 9, 50, 0], [9, 9, 50, 50]) == Failure(8, at_latest=True)
    assert fails([50, 9, 0, 0], [50, 9, 9, 50]) == Failure(8, at_latest=True)
    assert fails([50, 0, 0, 0], [50, 0, 50, 9]) == Failure(4, at_latest=False)  # the text lacks what is not known


@pytest.mark.parametrize(
    ("characters", "texts", "length"),
    [(100, 1, 100), (9_999, 1, 9_999), (10_000, 2, 5_000), (640_000, 64, 10_000)],
)
def test_more_characters_are_more_texts_and_then_longer_ones(characters, texts, length):
    subject = writer("(abcde)", "(abcde)" * 100)
    written = write(subject.language, subject.params, subject.learnt, characters, seed=0)
    assert (len(written), {len(text) for text in written}) == (texts, {length})


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_symbol_is_drawn_from_the_model_s_distribution(backend):
    model = Model(Copy(5, 3), 5, dtype="float64")
    scores = np.array([0.0, 1, -1, 2, 0.5])
    params = {"cell": {}, "head": {"W": np.zeros((3, 5)), "b": scores}}
    with use_backend(backend):
        written = write_side_by_side(model, params, [0], 50, 400, np.random.default_rng(0))
    assert written.shape == (400, 50)
    expected = softmax(scores)
    found = np.bincount(written.ravel(), minlength=5) / written.size
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(0.25 / written.size))
    assert len({tuple(column) for column in written.T.tolist()}) == 50


def test_texts_are_alike_on_every_backend_and_each_depends_on_its_own_past():
    from rnn_plugins import registry

    model = Model(registry.make_cell("lstm", 7, 9, {}), 7, dtype="float64")
    params = model.init_params(np.random.default_rng(0))
    params["head"]["W"] = params["head"]["W"] * 5
    written = {}
    for backend in BACKENDS:
        with use_backend(backend):
            written[backend] = write_side_by_side(model, params, [1, 2], 4, 60, np.random.default_rng(0))
    for other in written.values():
        np.testing.assert_array_equal(other, written["reference"])
    # By hand: one text after another, with the same random numbers.
    uniform = np.random.default_rng(0).random((60, 4))
    for text in range(4):
        carry, (scores,) = model.step(params, model.step(params, model.init_carry(1), np.array([1]))[0], np.array([2]))
        for t in range(60):
            cumulated = np.cumsum(softmax(scores))
            assert written["reference"][t, text] == np.searchsorted(cumulated, uniform[t, text] * cumulated[-1])
            carry, (scores,) = model.step(params, carry, written["reference"][t, text : text + 1])


def test_scores_that_are_no_numbers():
    subject = writer("(a)", "(a)" * 100)
    subject.params["head"]["b"][:] = np.nan
    with pytest.raises(UserError) as error:
        Structure().measure(subject, Look(characters=100))
    assert str(error.value) == "the model's scores are not finite (NaN): its training went wrong; use another run"


def test_a_text_with_nothing_to_close():
    with pytest.raises(UserError) as error:
        Structure().measure(writer("ab", "abc" * 100 + "(a)" * 19), Look())
    assert str(error.value) == (
        "the text that writer learns from contains nothing to close: its first 357 characters have fewer than 20 "
        "brackets ( ), [ ], { } and environments \\begin ... \\end"
    )


def test_environments_and_brackets_are_told_apart_at_level_word():
    text = "\\begin{lemma} (a) \\end{lemma}\n" * 40
    vocabulary = Vocabulary.build([text], "word")
    size = len(vocabulary)
    model = Model(Last(size, size), size, dtype="float64")
    subject = on(
        subject_of(model.cell),
        model=model,
        params={"cell": {}, "head": {"W": np.zeros((size, size)), "b": np.zeros(size)}},
        vocabulary=vocabulary,
        training=vocabulary.encode(text),
    )
    findings = Structure().measure(subject, Look(characters=3000))
    assert {figure.key for figure in findings.figures} == {
        "environments_distances", "brackets", "brackets_distances", "groups", "kinds",
    }  # fmt: skip
    assert numbers(findings)["brackets_right"] < 100

"""Reports as data: combined for several subjects, written as JSON, found by entry points."""

import json
from dataclasses import replace

import numpy as np
import pytest
from known_cells import Copy, Linear, subject_of
from tiny_runs import TEXT, train

from minigrad.graph import TraceError
from minigrad.scan import available_backends, plans, use_backend
from rnn_lab.reporting import installed, kinds, load, make_pages
from rnn_lab.subject import of_run
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.reports.flow import Flow
from rnn_plugins.reports.report import Chart, Curve, Findings, Image, Look, Quantity, Report, Table, compose, to_json


class Two(Report):
    """A report for these tests."""

    title, question = "Two", "What are two and two?"

    def measure(self, subject, look):
        if subject is None:
            raise UserError("there is nothing to look at")
        curve = Curve("", np.arange(2), np.array([1.0, np.nan]))
        reference = Curve("the text's", np.arange(2), np.array([np.nan, 3.0]), role="reference")
        return Findings(
            (Quantity("two", "two", 2),),
            (
                Chart("one", "One curve", "x", "y", (curve,)),
                Chart(
                    "pair", "Two curves", "x", "y", (Curve("a", *[np.arange(2)] * 2), Curve("b", *[np.arange(2)] * 2))
                ),
                Chart("beside", "And the text", "x", "y", (Curve("a", *[np.arange(2)] * 2), reference)),
                Chart("own", "Apart", "x", "y", (curve,), overlay=False),
                Image("image", "Image", "x", "y", np.array([[np.inf, 1]]), "v"),
            ),
            ("It is four.",),
            ("it was counted twice",),
        )


def test_subjects_are_laid_over_each_other_where_a_chart_allows_it():
    found = {label: Two().measure(0, Look()) for label in ("gru", "lstm")}
    page = compose("two", Two(), found, {"rnn": "it has no states"})
    assert page.subjects == ("gru", "lstm", "rnn")
    keys = [figure.key for figure in page.figures]
    assert keys == ["one", "pair", "beside", "own.gru", "image.gru", "own.lstm", "image.lstm"]
    one, pair, beside, own, image = page.figures[:5]
    assert [curve.label for curve in beside.curves] == ["gru, a", "lstm, a", "the text's"]  # which is the same for both
    assert [(curve.label, curve.style) for curve in one.curves] == [("gru", 0), ("lstm", 1)]
    assert [curve.label for curve in pair.curves] == ["gru, a", "gru, b", "lstm, a", "lstm, b"]
    assert own.title == "gru: Apart"
    assert image.title == "gru: Image"
    assert page.verdict == {"gru": ("It is four.",), "lstm": ("It is four.",)}
    assert page.notices == ("gru: it was counted twice", "lstm: it was counted twice")
    assert page.failed == {"rnn": "it has no states"}


class Pictures(Report):
    """Images with a floor, of what is given as the subject."""

    title, question = "Pictures", "Which?"

    def measure(self, subject, look):
        image = Image("norms", "Norms", "x", "y", np.array([subject]), "v", log=True, floor=1e-3)
        return Findings(figures=(image, replace(image, key="plain", log=False, floor=0.0)))


@pytest.mark.parametrize(
    ("subjects", "floored", "plain"),
    [
        ([[2.0, 1e-9, 0.0, np.nan], [0.5, 0.4]], (0.5e-3, 2.0), (0.0, 2.0)),  # each has 0.001 of its largest on it
        ([[1.0, 0.1], [3e9, 1.0]], (1e-3, 1e3), (0.1, 3e9)),  # one that explodes does not darken the other
        ([[0.0, np.nan], [4.0, np.inf]], (4e-3, 4.0), (0.0, 4.0)),
        ([[np.nan], [np.nan]], None, None),
    ],
)
def test_colours_mean_the_same_for_all_subjects(subjects, floored, plain):
    found = {str(place): Pictures().measure(values, Look()) for place, values in enumerate(subjects)}
    figures = compose("pictures", Pictures(), found).figures
    assert [figure.key for figure in figures] == ["norms.0", "plain.0", "norms.1", "plain.1"]
    assert [figure.limits for figure in figures] == [floored, plain] * 2


def test_a_single_subject_needs_no_name():
    page = compose("two", Two(), {"gru": Two().measure(0, Look())})
    assert [figure.key for figure in page.figures] == ["one", "pair", "beside", "own", "image"]
    assert [curve.label for curve in page.figures[1].curves] == ["a", "b"]
    assert page.figures[0].curves[0].style is None
    assert page.notices == ("it was counted twice",)


def test_json_has_every_number_and_nothing_that_json_does_not_know():
    page = compose("two", Two(), {"gru": Two().measure(0, Look())})
    told = json.loads(json.dumps(to_json([page]), allow_nan=False))["two"]
    assert told["quantities"]["gru"][0] == {
        "key": "two", "label": "two", "value": 2, "unit": "", "definition": "", "missing": "-", "digits": None,
    }  # fmt: skip
    assert told["figures"][0]["type"] == "chart"
    assert told["figures"][0]["curves"][0]["y"] == [1.0, None]
    assert told["figures"][4]["values"] == [[None, 1.0]]


def test_a_table_is_written_as_it_is():
    page = compose("two", Two(), {"a": Findings(figures=(Table("t", "T", ("x",), ((np.float32(1.5),), (None,))),))})
    assert to_json([page])["two"]["figures"][0]["rows"] == [[1.5], [None]]


def test_kinds_are_the_default_those_named_or_all():
    assert kinds(False) == ("flow",)
    assert kinds(False, ("memory", "flow", "memory")) == ("memory", "flow")
    installed = {entry.name for entry in registry.entries("reports")}
    assert set(kinds(True)) == installed
    assert kinds(True)[:3] == ("loss", "flow", "heatmap")


def test_every_installed_report_says_what_it_is():
    for entry in registry.entries("reports"):
        report = registry.load("reports", entry.name)()
        assert report.title
        assert report.question.endswith("?")
        assert registry.describe("reports", entry).summary.endswith(".")


def test_a_subject_that_cannot_be_measured_stands_beside_those_that_can():
    linear, short = subject_of(Linear(7, 5)), subject_of(Copy(7, 5), length=3)
    (page,) = make_pages({"flow": Flow()}, [linear, short], Look(lags=5, positions=4))
    assert list(page.quantities) == ["Linear"]
    assert page.failed == {
        "Copy": "the text has 3 characters, and the gradient over one lag needs 4: give a longer one"
    }
    with pytest.raises(UserError, match=r"^the text has 3 characters"):
        make_pages({"flow": Flow()}, [short], Look())


def test_a_report_that_there_is_not():
    with pytest.raises(UserError, match=r"no report called 'flwo'\. Did you mean 'flow'\? Installed: flow, heatmap"):
        load(("flwo",))


def test_a_run_is_looked_at_on_the_text_that_it_knows(tmp_path, monkeypatch):
    monkeypatch.setenv("RNN_LAB_CACHE", str(tmp_path / "cache"))
    run = train(tmp_path, TEXT, "hamlet", cell_option={"reset": "after"})
    subject = of_run(run)
    held_out = len(TEXT) // 10
    vocabulary = subject.language.vocabulary
    np.testing.assert_array_equal(subject.examples, vocabulary.encode(TEXT)[-held_out:])
    assert len(subject.learnt) + held_out == len(TEXT)
    assert (subject.label, subject.cell) == ("hamlet", "gru")
    assert subject.about.startswith("gru reset=after, 1 x 12, ")
    (tmp_path / "other.txt").write_text("to be? or not!\n" * 9)
    assert vocabulary.decode(of_run(run, [str(tmp_path / "other.txt")]).examples).startswith("to be")
    (tmp_path / "hamlet.txt").write_text("to be, to be, to be\n" * 50)
    without = of_run(run)
    assert without.about.endswith(f", 1 x 12, {run.manifest['parameters']:,} parameters, its best weights, of step 30")
    pages = {page.kind: page for page in make_pages(load(installed()), [without], Look())}
    assert {kind for kind, page in pages.items() if not page.failed} == {"loss", "weights"}
    assert {reason for page in pages.values() for reason in page.failed.values()} == {
        f"the data of the run 'hamlet' are not what they were: {tmp_path / 'hamlet.txt'} has changed since; "
        "--text FILE measures it on other data"
    }
    whole, same = (make_pages(load(["weights"]), [of], Look())[0].quantities["hamlet"] for of in (subject, without))
    assert whole == same
    other = of_run(run, [str(tmp_path / "other.txt")])
    np.testing.assert_array_equal(other.learnt, other.examples)


@pytest.mark.parametrize("backend", ["numpy", "compiled"])
def test_the_memory_of_a_networks_plans_is_given_back_when_it_was_looked_at(backend):
    if backend not in available_backends():
        pytest.skip("without llvmlite")
    subjects = [subject_of(registry.make_cell(name, 7, 5, {}), dtype="float32") for name in ("gru", "lstm")]

    def kept():
        kept = [plan for plan in plans._plans.values() if not isinstance(plan, TraceError)]
        executors = [executor for plan in kept for executor in plan.executors.values()]
        return sum(len(getattr(executor, "idle", None) or getattr(executor, "_pool", ())) for executor in executors)

    seen = []

    class Watched(Flow):
        def measure(self, subject, look):
            seen.append(kept())
            found = super().measure(subject, look)
            seen.append(kept())
            return found

    with use_backend(backend):
        make_pages({"flow": Watched()}, [replace(subjects[0], label="gru"), subjects[1]], Look(lags=5, positions=4))
    assert seen[0::2][1] == 0
    assert min(seen[1::2]) > 0
    assert kept() == 0


def test_reports_that_could_seem_to_contradict_each_other_say_what_they_average():
    lstm = subject_of(registry.make_cell("lstm", 7, 5, {}))
    kinds = ("flow", "spectrum", "lyapunov", "saturation")
    pages = make_pages(load(kinds), [lstm, replace(lstm, label="again")], Look(lags=5, positions=9))
    begins = [page.averaged.partition(":")[0] for page in pages]
    assert begins == ["All directions", "The best direction", "The long run", ""]
    for page in pages:
        assert to_json([page])[page.kind]["averaged"] == page.averaged
    # Nothing is averaged where nothing was found.
    assert compose("flow", Flow(), {}, {"a": "it has no state"}).averaged == ""

"""The losses of a training: its own records, exactly averaged, the kept step, and the levels of baselines."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from known_cells import subject_of
from tiny_runs import TEXT, train

from rnn_cli.main import rnn
from rnn_lab import reporting
from rnn_lab.evaluation import evaluate
from rnn_lab.subject import of_run
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.reports.loss import POINTS, Loss
from rnn_plugins.reports.report import Look, compose
from rnn_plugins.tasks.task import Metric, Score


def record(step, training, held_out=None, rate=0.01, **metrics):
    measured = {} if held_out is None else {"valid_loss": held_out}
    return {"step": step, "train_loss": training, "learning_rate": rate, **measured, **metrics}


def of(*records, kept=0, baselines=(), metrics=None, **changed):
    """The findings on a run with these records."""
    subject = subject_of(registry.make_cell("gru", 7, 4, {}))
    subject = replace(
        subject,
        label="hand",
        steps=kept,
        records=lambda: records,
        metrics=metrics or {"loss": Metric("nats", "min", "NATS")},
        baselines=lambda: baselines,
        **changed,
    )
    return Loss().measure(subject, Look())


def charts(findings):
    return {figure.key: figure for figure in findings.figures}


def curves(chart):
    return {curve.label: curve for curve in chart.curves}


def values(findings):
    return {quantity.key: quantity.value for quantity in findings.quantities}


def told(findings):
    return " ".join(findings.verdict)


def test_a_record_is_drawn_at_the_middle_of_the_steps_that_it_is_the_mean_of():
    found = charts(of(record(10, 3.0), record(20, 2.0, 2.5), record(24, 1.0, 2.25), kept=24))
    drawn = curves(found["loss_in_nats"])
    assert (drawn["training"].x.tolist(), drawn["training"].y.tolist()) == ([5, 15, 22], [3, 2, 1])
    assert (drawn["training"].role, drawn["training"].low) == ("thin", None)
    assert (drawn["held-out"].x.tolist(), drawn["held-out"].y.tolist()) == ([20, 24], [2.5, 2.25])
    mark = drawn["kept, step 24"]
    assert (mark.x.tolist(), mark.y.tolist(), mark.role) == ([24], [2.25], "mark")
    assert found["learning_rate"].curves[0].y.tolist() == [0.01, 0.01, 0.01]


def test_of_many_records_the_curve_shows_means_that_keep_every_step_its_weight():
    rng = np.random.default_rng(0)
    steps = np.cumsum(rng.integers(1, 9, 3 * POINTS))
    losses = rng.uniform(1, 2, len(steps))
    chart = charts(of(*(record(int(s), float(loss)) for s, loss in zip(steps, losses, strict=True))))["loss_in_nats"]
    (curve,) = chart.curves
    assert len(curve.x) <= POINTS
    lengths = np.diff(steps, prepend=0)
    # Each part is as long as the sum of its records' steps, twice the way from where it begins to its middle.
    edges = [0.0]
    for middle in curve.x:
        edges.append(2 * middle - edges[-1])
    np.testing.assert_allclose(edges[-1], steps[-1])
    assert set(np.round(edges).astype(int)) <= {0, *steps.tolist()}
    for start, end, mean, low, high in zip(edges[:-1], edges[1:], curve.y, curve.low, curve.high, strict=True):
        some = (steps > round(start)) & (steps <= round(end))
        assert mean == pytest.approx(np.average(losses[some], weights=lengths[some]))
        assert (low, high) == (losses[some].min(), losses[some].max())
    assert f"of each of {POINTS} equal parts of the run, dropout included, drawn at their middle" in chart.definition


def test_the_training_loss_that_is_compared_is_that_of_the_steps_since_the_validation_before():
    found = values(of(record(10, 9.0), record(20, 5.0, 4.0), record(30, 3.0), record(50, 2.0, 2.1), kept=50))
    assert found["training"] == pytest.approx((3.0 * 10 + 2.0 * 20) / 30)
    assert found["gap"] == pytest.approx(2.1 - 70 / 30)
    assert (found["held_out"], found["last"], found["kept"], found["steps"]) == (2.1, 2.1, 50, 50)


def test_overfitting_is_put_into_words():
    words = told(of(record(10, 3.0, 3.0), record(20, 2.0, 2.5), record(30, 1.0, 2.75), kept=20))
    assert words == (
        "The weights of step 20 are kept, with a held-out loss of 2.500 nats. It overfits after that: up to step 30 "
        "the held-out loss rises by 0.250 nats, and the training loss falls by 1.000."
    )


def test_getting_worse_is_put_into_words():
    words = told(of(record(10, 3.0, 3.0), record(20, 4.0, 3.5), kept=10))
    assert words.endswith(
        "It gets worse after that: up to step 20 the held-out loss rises by 0.500 nats, and the training loss rises "
        "too, by 1.000."
    )


def test_losses_of_a_run_that_diverged_have_few_digits():
    words = told(of(record(10, 1234567.8, 99999.5), record(20, 1.5e9, 4.9876e8), kept=20))
    assert words == (
        "The weights of step 20 are kept, with a held-out loss of 4.99e+08 nats. The training loss up to there is "
        "1e+09 nats above that."
    )


@pytest.mark.parametrize(
    ("training", "level", "words"),
    [
        (2.5, 1.5, "up to there is 0.500 nats above that. The best baseline, 5-gram (1.500), is better by 0.500 nats."),
        (2.0, 2.0001, "up to there is 0.000 nats below that. It is level with the best baseline, 5-gram (2.000)."),
        (1.5, 2.25, "up to there is 0.500 nats below that. It beats the best baseline, 5-gram (2.250), by 0.250 nats."),
    ],
)
def test_the_best_baseline_is_compared(training, level, words):
    rivals = [Score(name, "ngram", {"loss": loss}) for name, loss in (("4-gram", 2.5), ("5-gram", level))]
    found = of(record(10, training, 2.0), kept=10, baselines=rivals)
    assert told(found).endswith(words)
    assert values(found)["baseline"] == level
    lines = [curve for curve in charts(found)["loss_in_nats"].curves if curve.role == "reference"]
    ends = [(line.label, line.x.tolist()) for line in lines]
    assert ends == [("4-gram 2.500", [0, 10]), (f"5-gram {level:.3f}", [0, 10])]


ACCURACY = {"accuracy": Metric("", "max", "ACCURACY", 4), "loss": Metric("nats", "min", "NATS")}


def test_other_metrics_have_charts_of_their_own_and_decide_where_they_choose_the_weights():
    rivals = [
        Score("the commonest class", "baseline", {"accuracy": 0.25, "loss": 1.0}),
        Score("guessing", "baseline", {"accuracy": None, "loss": 0.5}),
    ]
    looks = (record(10, 3.0, 2.0, valid_accuracy=0.5), record(20, 2.0, 1.5, valid_accuracy=0.25))
    found = of(*looks, kept=10, baselines=rivals, metrics=ACCURACY, deciding="accuracy")
    chart = charts(found)["valid_accuracy"]
    assert chart.title == "Accuracy during training"
    drawn = curves(chart)
    assert drawn["held-out"].y.tolist() == [0.5, 0.25]
    assert drawn["kept, step 10"].y.tolist() == [0.5]
    assert drawn["the commonest class 0.2500"].role == "reference"
    assert len(drawn) == 3
    assert told(found) == (
        "The weights of step 10 are kept, for their accuracy, 0.5000; their held-out loss is 2.000 nats. The training "
        "loss up to there is 1.000 nats above that. It beats the best baseline, the commonest class (0.2500), by "
        "0.2500."
    )


def test_losses_over_several_decades_have_a_logarithmic_axis_and_only_together():
    wide = of(record(10, 1.0, 1.0), record(20, 0.001, 0.01), kept=20)
    narrow = of(record(10, 1.0, 1.0), record(20, 0.5, 0.5), kept=20)
    assert charts(wide)["loss_in_nats"].log_y
    assert not charts(narrow)["loss_in_nats"].log_y
    assert compose("loss", Loss(), {"a": wide, "b": wide}).figures[0].log_y
    assert not compose("loss", Loss(), {"a": wide, "b": narrow}).figures[0].log_y
    below = of(record(10, 1.0, 1.0), record(20, -0.001, 0.01), kept=20)
    assert not charts(below)["loss_in_nats"].log_y


def test_where_nothing_is_held_out_the_training_loss_stands_alone():
    found = of(record(10, 3.0), record(20, 2.0), kept=20)
    assert [curve.role for curve in charts(found)["loss_in_nats"].curves] == ["measured"]
    assert found.notices == ("the run holds nothing out, so this is the loss on what it learns",)
    assert told(found) == "The training loss goes from 3.000 nats to 2.000 nats."
    assert values(found)["held_out"] is None


def test_a_run_without_records_is_refused():
    with pytest.raises(UserError, match=r"^the run 'hand' has no records of its training: train it longer$"):
        of()


# Runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loss")
    train(folder, TEXT, "short", valid_every=5, log_every=1)
    train(folder, TEXT, "long", newest=True, cell="lstm", steps=40, valid_every=10)
    return folder


@pytest.fixture
def report(folder, monkeypatch):
    monkeypatch.setenv("RNN_RUNS", str(folder / "runs"))
    monkeypatch.setenv("RNN_LAB_CACHE", str(folder / "cache"))

    def report(*args):
        result = CliRunner().invoke(rnn, ["report", "--lags", "4", "--positions", "8", *args])
        return result.exit_code, result.stdout, result.stderr

    return report


def test_the_lines_are_those_of_rnn_eval(folder, report):
    from rnn_lab.runs import Run

    run = Run(folder / "runs" / "short")
    scores = {score.name: score.metrics["loss"] for score in evaluate(run).assessment.scores if score.kind == "ngram"}
    chart = charts(Loss().measure(of_run(run), Look()))["loss_in_nats"]
    lines = {curve.label.split()[0]: curve.y.tolist() for curve in chart.curves if curve.role == "reference"}
    assert len(lines) == 6
    assert lines == {name: [loss, loss] for name, loss in scores.items()}
    # On another text the curves are those of the training, and so are the lines.
    (folder / "other.txt").write_text("to be, to be, to be\n" * 50)
    other = charts(Loss().measure(of_run(run, (str(folder / "other.txt"),)), Look()))["loss_in_nats"]
    assert [curve.label for curve in other.curves] == [curve.label for curve in chart.curves]


def test_curves_of_runs_on_one_text_are_laid_over_each_other_and_share_the_lines(report):
    code, out, _ = report("short", "long", "--kind", "loss", "--json", "-")
    assert code == 0
    loss, rate = json.loads(out)["reports"]["loss"]["figures"]
    labels = [curve["label"] for curve in loss["curves"]]
    assert labels[:2] == ["short, training", "short, held-out"]
    assert labels[2].startswith("short, kept, step ")
    assert labels[3:5] == ["long, training", "long, held-out"]
    assert [label.split()[0] for label in sorted(labels[6:])] == [f"{n}-gram" for n in range(1, 7)]
    assert {tuple(curve["x"]) for curve in loss["curves"][6:]} == {(0, 40)}
    assert [curve["style"] for curve in loss["curves"]] == [0, 0, 0, 1, 1, 1, *[None] * 6]
    assert [curve["label"] for curve in rate["curves"]] == ["short", "long"]


def test_it_stands_first_and_a_cell_without_a_run_gets_a_sentence(report):
    assert report("--list")[1].splitlines()[1].split()[0] == "loss"
    assert reporting.kinds(True)[0] == "loss"
    code, out, err = report("--cell", "lstm:forget_bias=3", "--hidden-size", "4", "--kind", "loss")
    assert (code, out) == (2, "")
    assert err.endswith(
        "Error: loss shows the training of a run, and lstm:forget_bias=3 is a cell without one: train it with "
        "rnn train FILE --cell lstm:forget_bias=3, and report on that run\n"
    )
    pages = json.loads(
        report("--cell", "gru", "--hidden-size", "4", "--kind", "loss", "--kind", "saturation", "--json", "-")[1]
    )["reports"]
    assert list(pages["loss"]["failed"]) == ["gru"]
    assert pages["saturation"]["quantities"]["gru"]

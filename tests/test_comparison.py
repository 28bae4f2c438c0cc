"""Plans and comparisons: matched sizes, curves over seeds, fairness, and verdicts."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import TEXT, train

from minigrad import trees
from rnn_lab.comparison import trials
from rnn_lab.comparison.comparison import compare, group, verdict
from rnn_lab.comparison.figures import over_seeds
from rnn_lab.comparison.plan import match_size, plan
from rnn_lab.comparison.statistics import welch
from rnn_lab.comparison.trials import Contestant, inspected, read
from rnn_lab.runs import Run, network_of
from rnn_lab.subject import of_run
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.inspect.operations import operations
from rnn_plugins.reports.report import Look, to_json
from rnn_plugins.tasks.language_model import LanguageModel
from rnn_plugins.tasks.task import Metric

FACTS = LanguageModel().read(("builtin:hello",)).facts
CELLS = [entry.name for entry in registry.entries("cells")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs on one text and on others; those of ``pair`` differ in nothing but their seeds."""
    folder = tmp_path_factory.mktemp("comparison")
    every = {"valid_every": 10, "log_every": 5}
    train(folder, TEXT, "hamlet", **every)
    folder.joinpath("runs", "hamlet").rename(folder / "runs" / "pair-1")
    train(folder, TEXT, "hamlet", seed=2, **every)
    folder.joinpath("runs", "hamlet").rename(folder / "runs" / "pair-2")
    train(folder, TEXT, "hamlet", cell="lstm", cell_option={"forget_bias": "2"}, **every)
    train(folder, TEXT.upper(), "loud", **every)
    train(folder, TEXT, "words", level="word", **every)
    train(folder, "hello", "hello", seq_length=4, batch_size=1)
    return folder


@pytest.fixture
def run(folder, monkeypatch):
    """A run by its name."""
    monkeypatch.setenv("RNN_RUNS", str(folder / "runs"))
    monkeypatch.setenv("RNN_LAB_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(trials, "POSITIONS", 20)
    return lambda name: Run(folder / "runs" / name)


def quantities(page, label):
    return {quantity.key: quantity.value for quantity in page.quantities[label]}


class Accurate(LanguageModel):
    """A task whose metric is the better the higher it is."""

    metrics: ClassVar = {"accuracy": Metric("", "max"), "share": Metric("%", "max", digits=1)}


LANGUAGE_MODEL = LanguageModel()


def scored(metric="bits_per_character", task=LANGUAGE_MODEL, guessing=6.0, **values):
    """Contestants of whom only a metric is known."""
    run = SimpleNamespace(task=task)
    return [
        Contestant(
            label,
            tuple(SimpleNamespace(run=run, metric=metric, value=v, guessing=guessing, held_out=True) for v in each),
        )
        for label, each in values.items()
    ]


# Sizes ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.integers(0, 9), st.integers(1, 9))
def test_the_size_of_a_measure_that_is_reached_exactly_is_found(size, a, b):
    def measure(n):
        return a * n * n + b * n + 5

    assert match_size(measure, measure(size)) == size


@given(st.floats(0, 1e6))
def test_otherwise_no_other_size_comes_closer(goal):
    def measure(n):
        return 3 * n * n + n

    found = match_size(measure, goal)
    assert all(abs(measure(found) - goal) <= abs(measure(n) - goal) for n in (max(1, found - 1), found + 1))


@given(st.integers(1, 500), st.floats(-0.4, 0.4), st.sampled_from([lambda n: n**3, lambda n: n * min(n, 30) + 9 * n]))
def test_the_size_is_found_of_a_measure_that_is_no_parabola_too(size, off, measure):
    assert match_size(measure, measure(size) + off) == size


def test_of_a_parabola_one_size_is_tried_beside_three_small_ones():
    tried = []

    def measure(n):
        tried.append(n)
        return 4 * n * n + 71 * n + 67

    assert match_size(measure, measure(512)) == 512
    assert tried == [512, 8, 16, 24, 512]


def test_where_guessing_is_better_nobody_is_the_best():
    assert verdict(scored(rnn=[8.1, 8.0], gru=[6.0, 6.1])) == (
        "No verdict, because none has learnt anything: guessing costs 6.000 bits per character. Train longer, or with "
        "a lower --learning-rate if the loss is far above that.",
    )
    assert verdict(scored(rnn=[8.1], gru=[6.0])) == verdict(scored(rnn=[8.1, 8.0], gru=[6.0, 6.1]))
    assert verdict(scored(rnn=[8.1, 8.0], gru=[5.0, 5.1]))[0] == "gru is the best, with 5.050 bits per character."


def test_a_measure_that_does_not_grow_is_told():
    with pytest.raises(UserError) as raised:
        match_size(lambda n: 7, 8)
    assert str(raised.value) == (
        "no hidden size up to 1,000,000 makes a cell as large as the first: use another --match"
    )


def measured(settings, match):
    network = network_of(settings, lambda size: registry.make_cell(settings.cell, size, settings.hidden_size, {}))
    model = LanguageModel().model(FACTS, network)
    return operations(model.work()) if match == "flops" else trees.count(model.init_params(np.random.default_rng(0)))


@pytest.mark.parametrize("match", ["params", "flops"])
@given(cells=st.permutations(CELLS).map(lambda cells: cells[:2]), size=st.integers(1, 40), layers=st.integers(1, 2))
def test_every_cell_gets_the_size_that_comes_closest_to_the_first(match, cells, size, layers):
    given = {"files": ("builtin:hello",), "hidden_size": size, "num_layers": layers, "seed": 0}
    planned = plan(cells, given, match)
    first, other = planned.settings.values()
    assert first.hidden_size == size
    goal = measured(first, match)
    sizes = [max(1, other.hidden_size - 1), other.hidden_size, other.hidden_size + 1]
    below, here, above = (abs(measured(replace(other, hidden_size=n), match) - goal) for n in sizes)
    assert here <= below
    assert here <= above


CHOOSY = """
from dataclasses import dataclass
from rnn_cells.rnn import RNN

@dataclass(frozen=True)
class Choosy(RNN):
    heads: int = 4
    kind: str = "multiple"

    def __post_init__(self):
        size = self.hidden_size
        fits = size % self.heads == 0 if self.kind == "multiple" else size & (size - 1) == 0 and self.kind == "power"
        if not fits:
            raise ValueError(f"hidden_size {size} is no multiple of heads {self.heads}")
"""


@pytest.mark.parametrize("match", ["params", "flops"])
@pytest.mark.parametrize(
    ("size", "layers", "options"), [(70, 1, "heads=4"), (5, 2, "heads=7"), (29, 1, "heads=50"), (40, 1, "kind=power")]
)
def test_a_cell_that_refuses_sizes_gets_that_which_comes_closest_of_those_that_it_takes(
    tmp_path, match, size, layers, options
):
    path = tmp_path / "choosy.py"
    path.write_text(CHOOSY)
    given = {"files": ("builtin:hello",), "hidden_size": size, "num_layers": layers, "seed": 0}
    planned = plan(["gru", f"{path}:{options}"], given, match)
    first, other = planned.settings.values()
    assert first.hidden_size == size
    name, _, value = options.partition("=")
    taken = [2**n for n in range(12)] if name == "kind" else list(range(int(value), 2000, int(value)))
    goal = measured(first, match)
    place = taken.index(other.hidden_size)
    near = taken[max(0, place - 1) : place + 2]
    distance = {n: abs(measured(replace(other, cell="rnn", hidden_size=n), match) - goal) for n in near}
    assert distance[other.hidden_size] == min(distance.values())


def test_a_cell_that_takes_no_size_says_why(tmp_path):
    path = tmp_path / "choosy.py"
    path.write_text(CHOOSY)
    given = {"files": ("builtin:hello",), "hidden_size": 70, "seed": 0}
    for cells in (["gru", f"{path}:kind=none"], [str(path), "gru"]):
        with pytest.raises(UserError) as raised:
            plan(cells, given)
        assert str(raised.value) == "hidden_size 70 is no multiple of heads 4"


def test_a_plan_says_what_it_chose():
    given = {"files": ("builtin:hello",), "hidden_size": 16, "seed": 7}
    planned = plan(["rnn", "lstm:forget_bias=2"], given, "params", 2)
    assert planned.seeds == (7, 8)
    assert planned.about == ("rnn: 1 x 16, 693 parameters", "lstm:forget_bias=2: 1 x 6, 667 parameters")
    assert planned.settings["lstm:forget_bias=2"].cell_option == {"forget_bias": "2"}
    given["hidden_size"] = 4
    (_, line) = plan(["rnn", "gru"], given, "flops").about
    assert line == "gru: 1 x 2, 77 parameters, 125 operations per step"
    assert [s.hidden_size for s in plan(["rnn", "gru"], given, "none").settings.values()] == [4, 4]


def test_each_cell_has_its_own_learning_rate_unless_one_is_given():
    given = {"files": ("builtin:hello",), "seed": 1}
    assert {s.learning_rate for s in plan(["rnn", "lstm"], given).settings.values()} == {None}
    given["learning_rate"] = 0.5
    assert {s.learning_rate for s in plan(["rnn", "lstm"], given).settings.values()} == {0.5}


def test_an_embedding_does_not_follow_the_hidden_size(tmp_path):
    text = tmp_path / "many.txt"
    text.write_text("".join(map(chr, range(0x4E00, 0x4F00))) + "ab" * 500)
    planned = plan(["rnn", "lstm"], {"files": (str(text),), "hidden_size": 20, "seed": 1})
    assert [settings.embedding_size for settings in planned.settings.values()] == [20, 20]


def test_a_run_has_ten_validations_or_more_and_a_timed_one_does_not_need_its_length():
    given = {"files": ("builtin:hello",), "seed": 1, "hidden_size": 8}

    def first(given, match="params"):
        return next(iter(plan(["rnn", "gru"], given, match, 1).settings.values()))

    assert first(given | {"steps": 200}).valid_every == 20
    assert first(given | {"steps": 5}).valid_every == 1
    assert first(given | {"steps": 200, "valid_every": 33}).valid_every == 33
    timed = first(given | {"max_time": "9s"}, "seconds")
    assert (timed.valid_every, timed.max_time, timed.schedule) == (100, 9.0, "cosine")  # which spans the time
    for schedule in ("exponential:decay=0.5", "linear", "constant"):
        assert first(given | {"schedule": schedule, "steps": 3}, "seconds").schedule == schedule


@pytest.mark.parametrize(
    ("cells", "given", "match", "seeds", "said"),
    [
        (["rnn"], {}, "params", 1, "there is only one cell to compare, rnn: add another --cell"),
        (["rnn", "gru", "rnn"], {}, "params", 1, "--cell rnn is given twice: leave one of them out"),
        (["rnn", "gru"], {}, "params", 0, "--seeds is 0; it must be at least 1"),
        (
            ["rnn", "gru"],
            {"files": ("-",)},
            "params",
            1,
            "a pipe can be read only once, but each run reads the data: save them to a file first",
        ),
        (
            ["rnn", "gru"],
            {"max_time": 9.0, "steps": 9},
            "seconds",
            1,
            "--match seconds takes the time from --max-time, or from the first run, whose length is --steps or "
            "--epochs: leave one of them out",
        ),
    ],
)
def test_what_no_plan_can_be_made_of(cells, given, match, seeds, said):
    with pytest.raises(UserError) as raised:
        plan(cells, given, match, seeds)
    assert str(raised.value) == said


def test_operations_of_a_step_that_is_no_graph_cannot_be_matched(tmp_path):
    file = tmp_path / "odd.py"
    file.write_text(
        "from rnn_cells.rnn import RNN\n"
        "class Odd(RNN):\n"
        "    def __call__(self, params, h, x):\n"
        "        return super().__call__(params, h if float(h.sum()) else h, x)\n"
    )
    cells = [f"{file}:Odd", "rnn"]
    with pytest.raises(UserError) as raised:
        plan(cells, {"files": ("builtin:hello",), "seed": 1}, "flops")
    assert str(raised.value) == (
        f"the operations of {cells[0]} cannot be counted, because it decides by the value of a tensor (if, while, "
        "bool, float, int or item): --match params"
    )


# Runs in turn ---------------------------------------------------------------------------------------------------


def carried_out(planned):
    done = []
    for label, session in planned.sessions():
        for _ in session.trainer.events():
            pass
        done.append((label, session.run))
    return done


def test_cells_take_turns_with_the_same_seeds_and_batches(tmp_path, monkeypatch):
    monkeypatch.setenv("RNN_RUNS", str(tmp_path / "runs"))
    given = {"files": ("builtin:hello",), "hidden_size": 4, "steps": 3, "seed": 5, "seq_length": 3, "batch_size": 1}
    planned = plan(["rnn", "gru:reset=after"], given, "none", 2)
    done = carried_out(planned)
    assert [(label, run.name) for label, run in done] == [
        ("rnn", "rnn-hello-s5"),
        ("gru:reset=after", "gru-reset-after-hello-s5"),
        ("rnn", "rnn-hello-s6"),
        ("gru:reset=after", "gru-reset-after-hello-s6"),
    ]
    assert [run.settings.seed for _, run in done] == [5, 5, 6, 6]
    assert [run.settings.learning_rate for _, run in done[:2]] == [
        registry.cell_class(name).suggested_learning_rate or 0.002 for name in ("rnn", "gru")
    ]
    assert next(run.name for _, run in carried_out(planned)) == "rnn-hello-s5-2"


def test_equal_time_is_that_of_the_first_run(tmp_path, monkeypatch):
    monkeypatch.setenv("RNN_RUNS", str(tmp_path / "runs"))
    given = {"files": ("builtin:hello",), "hidden_size": 4, "steps": 40, "seed": 5, "seq_length": 3, "batch_size": 1}
    (_, first), *others = carried_out(plan(["rnn", "gru"], given, "seconds", 2))
    seconds = list(first.records())[-1]["seconds"]
    assert first.manifest["outcome"] == "finished"
    assert [run.settings.max_time for _, run in others] == [seconds] * 3
    assert [run.manifest["outcome"] for _, run in others] == ["time"] * 3


# One run --------------------------------------------------------------------------------------------------------


def test_a_run_is_read_as_its_files_say(run):
    hamlet = run("hamlet")
    trial = read(hamlet)
    records = list(hamlet.records())
    assert trial.metrics["loss"] == min(record["valid_loss"] for record in records if "valid_loss" in record)
    assert (trial.steps, trial.held_out) == (30, True)
    assert trial.seen == 30 * 16 * 4  # steps of 16 symbols in 4 lanes
    assert trial.seconds == records[-1]["seconds"]
    assert trial.speed == np.median([record["units_per_second"] for record in records])
    assert trial.curve[0].tolist() == [10 * 64, 20 * 64, 30 * 64]
    assert trial.curve[1].tolist() == [r["seconds"] for r in records if "valid_loss" in r]
    assert trial.curve[2].tolist() == [r["valid_loss"] / math.log(2) for r in records if "valid_loss" in r]


def test_the_training_loss_is_that_of_the_records_as_the_compared_metric(run):
    hamlet = run("hamlet")
    training, records = read(hamlet).training, list(hamlet.records())
    assert [record["step"] for record in records] == [5, 10, 15, 20, 25, 30]
    assert training[0].tolist() == [64 * middle for middle in (2.5, 7.5, 12.5, 17.5, 22.5, 27.5)]
    assert training[2] == pytest.approx([record["train_loss"] / math.log(2) for record in records])
    seconds = [0.0, *(record["seconds"] for record in records)]
    assert training[1] == pytest.approx([(a + b) / 2 for a, b in itertools.pairwise(seconds)])
    assert read(run("hello")).training.size == 0  # nothing is held out, so it is the compared curve


def test_words_are_counted_in_characters(run):
    words = run("words")
    data, _ = words.data()
    decode = words.language.vocabulary.decode
    read_in_training, predicted = (len(decode(t[1:])) / len(t[1:]) for t in (data.train, data.valid))
    assert read_in_training != predicted > 2
    trial = read(words)
    assert trial.seen == pytest.approx(30 * 16 * 4 * read_in_training)
    assert trial.value == pytest.approx(trial.metrics["loss"] / math.log(2) / predicted)


def test_without_held_out_text_it_is_the_training_loss(run):
    hello = read(run("hello"))
    assert not hello.held_out
    assert hello.seen == 30 * 4
    assert hello.curve[2, -1] == pytest.approx(list(run("hello").records())[-1]["train_loss"] / math.log(2))


def test_the_lag_is_that_of_the_flow_report_for_the_state_that_reaches_farthest(run):
    subject = of_run(run("hamlet"))
    findings = registry.load("reports", "flow")().measure(
        subject, Look(lags=len(subject.examples) // 2 - 1, positions=20)
    )
    lags = [q.value for q in findings.quantities if q.key.startswith("one_percent_lag")]
    assert len(lags) == 2  # h and c
    expected = math.inf if None in lags else max(lags)
    assert inspected(read(run("hamlet"))).reach == pytest.approx(expected)


def test_a_run_that_ended_with_its_time_is_measured_there(folder, run, monkeypatch):
    monkeypatch.setattr("rnn_lab.trainer.Trainer._ending", lambda self, s: "time" if self.state.step == 14 else None)
    ended = train(folder, TEXT, "ended", valid_every=10)
    trial, subject = read(ended), of_run(ended)
    loss = ended.model.evaluate(ended.last()[0]["params"], subject.examples)
    assert (trial.steps, trial.curve.shape) == (14, (3, 2))
    assert trial.curve[:, 1].tolist() == [14 * 64, trial.seconds, pytest.approx(loss / math.log(2))]
    assert trial.metrics["loss"] == ended.manifest["best"]["metrics"]["loss"] == pytest.approx(loss)
    assert trial.curve[2, 0] > trial.curve[2, 1]
    page = compare({"ended": [ended], "hamlet": [run("hamlet")]})
    assert quantities(page, "ended")["loss"] == trial.metrics["loss"]
    assert [quantity.definition for quantity in page.quantities["ended"]][:2] == [
        "That of the best weights, on held-out data, of one run.",
        "That of the best weights, on held-out data, of one run.",
    ]
    assert page.notices == ()


def test_a_run_whose_text_is_gone_is_compared_by_its_records(folder, run):
    lost = train(folder, TEXT, "lost")
    folder.joinpath("lost.txt").unlink()
    trial = inspected(read(lost))
    assert trial.reach is trial.structure is None
    assert "lost.txt" in trial.lack
    (notice,) = compare({"lost": [lost]}).notices
    assert notice == f"lost: its weights were not inspected, because {trial.lack}"


def test_a_reason_that_several_runs_share_is_told_once(run, monkeypatch):
    def refuse(run):
        raise UserError("no reason at all" if run.name == "hello" else "it is Monday")

    monkeypatch.setattr(trials, "of_run", refuse)
    page = compare({"one": [run("hamlet"), run("pair-1")], "two": [run("hello")]})
    assert list(page.notices) == [
        "hamlet and pair-1: their weights were not inspected, because it is Monday",
        "hello: its weights were not inspected, because no reason at all",
    ]


def test_brackets_are_judged_where_text_and_writing_have_them(folder, run):
    brackets = train(folder, "(ab) [cd] " * 200, "brackets", steps=60, hidden_size=20, learning_rate=0.02)
    assert inspected(read(brackets)).structure > 0.9
    assert inspected(read(run("hamlet"))).structure is None


# Curves ---------------------------------------------------------------------------------------------------------


def test_curves_are_averaged_where_all_of_them_are():
    one = np.array([[0.0, 2.0, 4.0], [0.0, 1.0, 2.0], [8.0, 4.0, 2.0]])
    other = np.array([[1.0, 3.0], [3.0, 5.0], [4.0, 2.0]])
    seen, seconds, mean, low, high = over_seeds([one, other])
    assert seen.tolist() == [1, 2, 3]
    assert seconds.tolist() == [(0.5 + 3) / 2, (1 + 4) / 2, (1.5 + 5) / 2]
    assert mean.tolist() == [(6 + 4) / 2, (4 + 3) / 2, (3 + 2) / 2]
    assert (low.tolist(), high.tolist()) == ([4, 3, 2], [6, 4, 3])


def test_one_curve_stays_as_it_is_and_none_or_strangers_give_nothing():
    one = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert [part.tolist() for part in over_seeds([one])] == [[1, 2], [3, 4], [5, 6], [5, 6], [5, 6]]
    assert [len(part) for part in over_seeds([one, np.zeros((3, 0))])] == [0] * 5
    later = one + np.array([[9.0], [0.0], [0.0]])
    assert [len(part) for part in over_seeds([one, later])] == [0] * 5


# Several --------------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_nothing_but_the_seed_are_one(run):
    runs = [run(name) for name in ("pair-1", "hamlet", "pair-2")]
    assert {label: [r.name for r in each] for label, each in group(runs).items()} == {
        "gru": ["pair-1", "pair-2"],
        "hamlet": ["hamlet"],
    }


def test_a_run_named_twice_is_told(run):
    with pytest.raises(UserError) as raised:
        group([run("hamlet"), run("pair-1"), run("hamlet")])
    assert str(raised.value) == "the run 'hamlet' is named twice: leave one of them out"


def test_a_comparison_has_every_number_of_its_runs(run):
    page = compare(group([run(name) for name in ("pair-1", "pair-2", "hamlet")]))
    assert page.subjects == ("gru", "hamlet")
    pair, hamlet = (quantities(page, label) for label in page.subjects)
    bits = [read(run(name)).value for name in ("pair-1", "pair-2")]
    assert pair["bits_per_character"] == pytest.approx(np.mean(bits))
    assert pair["deviation"] == pytest.approx(np.std(bits, ddof=1))
    assert pair["range"] == f"{min(bits):.3f} to {max(bits):.3f}"
    labels = [(quantity.label, quantity.unit) for quantity in page.quantities["gru"][:4]]
    assert labels == [
        ("loss", "nats"), ("loss per character", "bits"), ("standard deviation", "bits"), ("range", "bits")
    ]  # fmt: skip
    assert (pair["seeds"], hamlet["seeds"], hamlet["deviation"], hamlet["range"]) == (2, 1, None, None)
    assert hamlet["parameters"] == run("hamlet").manifest["parameters"]
    assert hamlet["operations"] == operations(run("hamlet").model.work())
    assert (hamlet["hidden_size"], hamlet["learning_rate"]) == (12, run("hamlet").settings.learning_rate)
    assert "structure" not in hamlet  # the text has no brackets
    assert "num_layers" not in hamlet  # all have one
    by_characters, by_seconds, table = page.figures
    labels = ["gru, held-out", "gru, training", "hamlet, held-out", "hamlet, training"]
    assert [(curve.label, curve.style) for curve in by_characters.curves] == list(
        zip(labels, (0, 0, 1, 1), strict=True)
    )
    assert [curve.role for curve in by_characters.curves] == ["measured", "thin"] * 2
    assert by_characters.curves[0].x.tolist() == [640, 1280, 1920]
    assert by_characters.curves[2].low is None
    assert np.all(by_characters.curves[0].low <= by_characters.curves[0].y)
    assert by_seconds.curves[2].x.tolist() == read(run("hamlet")).curve[1].tolist()
    assert by_characters.y_label == "loss, bits per character"
    assert [row[0] for row in table.rows] == ["pair-1", "pair-2", "hamlet"]
    assert [table.heads[column] for column in table.names] == ["seed"]
    assert table.definition == "The metrics of the best weights: loss in nats and bits per character."
    assert page.notices == ()
    assert to_json([page])["compare"]["quantities"]["gru"][0]["value"] == pair["loss"]


@pytest.mark.parametrize(
    ("names", "notices", "fair"),
    [
        (("hamlet", "pair-1"), [], True),
        (("hamlet", "loud"), ["the runs were not trained on the same data ({0}/hamlet.txt; {0}/loud.txt)"], False),
        (
            ("hamlet", "words"),
            ["the runs read symbols of different kinds, which only bits per character make comparable"],
            True,
        ),
        (
            ("hamlet", "hello"),
            [
                "the runs were not trained on the same data ({0}/hamlet.txt; {0}/hello.txt)",
                "not all runs were measured on held-out data: hello",
            ],
            False,
        ),
    ],
)
def test_what_is_not_fair_is_told_and_gets_no_verdict(folder, run, names, notices, fair):
    page = compare(group([run(name) for name in names]))
    expected = [notice.format(folder) for notice in notices]
    said = page.verdict[""]
    if not fair:
        assert said == (f"No verdict, because the comparison is not fair: {'; '.join(expected)}.",)
        assert not set(expected) & set(page.notices)
    else:
        assert list(page.notices)[: len(expected)] == expected
        assert said[0].startswith("The lowest loss is that of ")


def test_different_shares_held_out_are_not_fair(folder, run):
    half = train(folder, TEXT, "half", valid_fraction=0.5)
    page = compare(group([run("pair-1"), half]))
    assert page.notices == ()
    assert page.verdict[""] == (
        "No verdict, because the comparison is not fair: the runs do not hold out the same share of the text (0.1, "
        "0.5).",
    )


def test_training_losses_are_called_so_and_get_no_verdict(folder, run):
    other = train(folder, "hello", "hello2", seq_length=4, batch_size=1, cell="rnn")
    page = compare(group([run("hello"), other]))
    assert page.notices == ()
    assert compare(group([run("hello")])).notices == ("nothing is held out: the losses are those of the training data",)
    assert page.verdict[""] == (
        "No verdict, because nothing was held out, and a low loss on the training data may be overfitting. Use "
        "more data, or a larger --valid-fraction.",
    )


def test_the_lag_is_called_as_in_the_flow_report(run):
    (lag,) = (q for q in compare(group([run("hamlet")])).quantities["hamlet"] if q.key == "one_percent_lag")
    assert lag.label == "1 %-lag"


def test_runs_that_say_nothing_are_told_and_the_others_compared(folder, run):
    diverged, young = train(folder, TEXT, "diverged"), train(folder, TEXT, "young", steps=0)
    diverged.update(outcome="diverged", step=7)
    for key in ("best", "step"):  # which a run has only when it ends
        del young.manifest[key]
    young.update(outcome=None)
    page = compare({"a": [Run(diverged.path)], "b": [Run(young.path)], "c": [run("hamlet")]})
    rate = diverged.settings.learning_rate
    assert page.failed == {
        "a": f"the run 'diverged' diverged at step 7, with the learning rate {rate:g}: rnn rerun diverged says why",
        "b": "the run 'young' was not validated yet: train it longer",
    }
    assert page.subjects == ("c", "a", "b")
    assert page.verdict[""] == ()
    page = compare({"a": [Run(diverged.path), run("pair-1")], "c": [run("hamlet")]})
    assert page.failed == {}
    assert page.notices == (
        f"the run 'diverged' diverged at step 7, with the learning rate {rate:g}: rnn rerun diverged says why",
    )
    with pytest.raises(UserError, match="was not validated yet"):
        compare({"b": [Run(young.path)]})


@pytest.mark.parametrize(("outcome", "words"), [("interrupted", "was interrupted"), (None, "has not ended")])
def test_a_run_that_has_not_come_to_its_end_is_told(folder, run, outcome, words):
    train(folder, TEXT, f"cut-{outcome}").update(outcome=outcome)
    page = compare(group([run(f"cut-{outcome}"), run("hamlet")]))
    assert page.notices == (f"the run 'cut-{outcome}' {words}: its numbers are those after step 30",)


# Verdicts -------------------------------------------------------------------------------------------------------


def test_the_best_is_named_with_what_it_is_ahead():
    assert verdict(scored(rnn=[3.0, 3.01, 2.99], gru=[2.0, 2.01, 1.99])) == (
        "gru is the best, with 2.000 bits per character.",
        "rnn is 1.000 behind gru (p < 0.0001).",
    )


def test_ties_are_called_ties():
    assert verdict(scored(rnn=[3.0, 3.01, 2.99], gru=[2.0, 2.02, 1.98], lstm=[2.01, 2.03, 1.99])) == (
        "gru and lstm are tied: 2.000 to 2.010 bits per character, which is within the spread.",
        "rnn is 1.000 behind gru (p < 0.0001).",
        "More seeds would show smaller differences.",
    )
    assert verdict(scored(a=[3.09, 3.1, 3.11], b=[3.1, 3.11, 3.12], c=[0.99, 1.0, 1.01])) == (
        "c is the best, with 1.000 bits per character.",
        "a and b are tied, 2.100 behind c (p < 0.0001): 3.100 to 3.110 bits per character, which is within the spread.",
        "More seeds would show smaller differences.",
    )


def test_ties_of_losses_that_do_not_overlap_are_for_want_of_seeds():
    losses = {"rnn": [4.17, 4.194], "gru": [4.0, 4.036]}
    chance = welch(losses["gru"], losses["rnn"])
    assert 0.01 < chance < 0.05  # so that it is a tie in three, and none in two
    assert verdict(scored(**losses))[0].startswith("gru is the best")
    assert verdict(scored(**losses, lstm=[9.0, 9.2]))[0] == (
        f"gru and rnn are tied: 4.018 to 4.182 bits per character, which 2 seeds cannot distinguish (p = {chance:.2g}, "
        "not below 0.017)."
    )
    first, last = verdict(scored(rnn=[4.1, 4.2], gru=[4.0, 4.02, 4.05]))
    tied = "gru and rnn are tied: 4.023 to 4.150 bits per character, which 2 and 3 seeds cannot distinguish (p = "
    assert first.startswith(tied)
    assert first.endswith("not below 0.05).")
    assert last == "More seeds would show smaller differences."


def test_one_run_wins_nothing():
    assert verdict(scored(rnn=[3.0], gru=[2.0])) == (
        "The lowest loss is that of gru, 2.000 bits per character.",
        "That is not a verdict: rnn and gru have only one run, so the difference may be chance. Train runs with other "
        "seeds.",
    )
    assert verdict(scored(rnn=[3.0], gru=[2.0, 2.1]))[1].startswith("That is not a verdict: rnn has only one run, so")


def test_one_contestant_gets_no_verdict():
    assert verdict(scored(rnn=[3.0, 3.1])) == ()


def test_where_more_is_better_the_highest_is_the_best():
    def said(**values):
        return verdict(scored("accuracy", Accurate, None, **values))

    assert said(rnn=[0.6, 0.61, 0.59], gru=[0.9, 0.91, 0.89]) == (
        "gru is the best, with 0.900 accuracy.",
        "rnn is 0.300 behind gru (p < 0.0001).",
    )
    assert said(rnn=[0.6, 0.61, 0.59], gru=[0.9, 0.92, 0.88], lstm=[0.89, 0.91, 0.87]) == (
        "gru and lstm are tied: 0.900 to 0.890 accuracy, which is within the spread.",
        "rnn is 0.300 behind gru (p = 0.0002).",
        "More seeds would show smaller differences.",
    )
    assert said(rnn=[0.6], gru=[0.9])[0] == "The highest accuracy is that of gru, 0.900."
    first = said(rnn=[0.806, 0.83], gru=[0.964, 1.0], lstm=[0.2, 0.21])[0]
    assert first.startswith("gru and rnn are tied: 0.982 to 0.818 accuracy, which 2 seeds cannot distinguish (p = ")


def test_where_more_is_better_guessing_is_what_is_below():
    def said(**values):
        return verdict(scored("share", Accurate, 50.0, **values))

    assert said(rnn=[49.0, 48.0], gru=[50.0, 49.9]) == (
        "No verdict, because none has learnt anything: guessing reaches 50.0 %. Train longer, or with a lower "
        "--learning-rate if the share is far below that.",
    )
    assert said(rnn=[49.0, 48.0], gru=[60.0, 60.1])[0] == "gru is the best, with 60.0 %."

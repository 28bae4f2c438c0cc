"""The task memory: generated problems against slow oracles, its metrics, baselines, answers and messages."""

import json
from collections import Counter

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import settle

from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM
from rnn_cli.main import rnn
from rnn_lab.problem import Problem
from rnn_lab.reporting import load, make_pages
from rnn_lab.settings import Settings
from rnn_lab.subject import of_problem
from rnn_plugins.data.sequences import (
    NOTHING,
    PROBLEMS,
    Drawn,
    Memoryless,
    Stream,
    chance,
    read_array,
    read_text,
    write_target,
    write_text,
)
from rnn_plugins.errors import UserError
from rnn_plugins.reports.report import Chart, Image, Look
from rnn_plugins.tasks.memory import Memory
from rnn_plugins.tasks.task import Network
from rnn_plugins.testing import check_task

LAGS = {"adding": 12, "copy": 5, "order": 12, "parity": 9, "brackets": 12, "sorting": 4, "sums": 2}
NAMES = tuple(PROBLEMS)


def drawn(name, count=200, lag=0):
    return PROBLEMS[name].draw(np.random.default_rng(3), count, lag or LAGS[name])


def texts(name, count=200, lag=0):
    """Sequences and their targets, as texts."""
    some = drawn(name, count, lag)
    for i, length in enumerate(some.lengths):
        inputs = some.inputs[:length, i]
        yield write_text(name, inputs), write_target(name, inputs, some.targets[..., i])


# --- the problems ----------------------------------------------------------------------------------------------------


def test_one_number_of_each_half_is_marked_and_their_sum_is_the_target():
    some = drawn("adding", lag=11)
    for i in range(200):
        numbers, marks = some.inputs[:, i].T
        first, second = np.flatnonzero(marks)
        assert first < 5 <= second
        assert some.targets[i] == pytest.approx(numbers[first] + numbers[second])
    assert (some.inputs[:, :, 0] >= 0).all()
    assert (some.inputs[:, :, 0] < 1).all()


@pytest.mark.parametrize("lag", [1, 7])
def test_symbols_are_copied_after_the_mark(lag):
    some = drawn("copy", lag=lag)
    assert some.inputs.shape == some.targets.shape == (lag + 20, 200)
    blank, mark = 8, 9
    assert (some.inputs[:10] < 8).all()
    assert (some.inputs[10 : lag + 9] == blank).all()
    assert (some.inputs[lag + 9] == mark).all()
    assert (some.inputs[lag + 10 :] == blank).all()
    assert (some.targets[: lag + 10] == blank).all()
    np.testing.assert_array_equal(some.targets[lag + 10 :], some.inputs[:10])


def test_the_class_is_the_order_of_two_symbols():
    for text, target in texts("order", lag=30):
        places = [i for i, symbol in enumerate(text) if symbol in "XY"]
        assert 3 <= places[0] < 6
        assert 12 <= places[1] < 15
        assert len(places) == 2
        assert target == text[places[0]] + text[places[1]]
    assert len({target for _, target in texts("order")}) == 4


def test_the_parity_is_that_of_the_ones():
    lengths = Counter()
    for text, target in texts("parity"):
        assert target == ("odd" if text.count("1") % 2 else "even")
        lengths[len(text)] += 1
    assert sorted(lengths) == list(range(1, 10))


@pytest.mark.parametrize("lag", [1, 2, 40])
def test_the_bracket_that_closes_next_is_that_of_a_stack(lag):
    closing, deepest = dict(zip("([{", ")]}", strict=True)), 0
    for text, target in texts("brackets", lag=lag):
        stack, expected = [], ""
        for symbol in text:
            if symbol in closing:
                stack.append(closing[symbol])
            else:
                assert stack.pop() == symbol
            deepest = max(deepest, len(stack))
            expected += stack[-1] if stack else "-"
        assert target == expected
    assert deepest == max(1, min(8, lag // 2))


def test_digits_are_sorted():
    for text, target in texts("sorting"):
        assert len(text) == 4
        assert target == "".join(sorted(text))


def test_sums_are_right():
    sizes = set()
    for text, target in texts("sums", count=500, lag=3):
        first, second = text.removesuffix("=").split("+")
        assert str(int(first)) == first
        assert target == str(int(first) + int(second))
        sizes.add((len(first), len(second)))
    assert sizes == {(i, j) for i in (1, 2, 3) for j in (1, 2, 3)}
    assert all(int(target) for _, target in texts("sums", lag=17))


@pytest.mark.parametrize("name", NAMES)
def test_a_sequence_read_from_its_text_is_the_same(name):
    some = drawn(name, 20)
    for i, length in enumerate(some.lengths):
        inputs = some.inputs[:length, i]
        again = read_text(name, write_text(name, inputs), LAGS[name])
        if name == "adding":
            np.testing.assert_allclose(again, inputs, atol=0.006)
        else:
            np.testing.assert_array_equal(again, inputs[: len(again)])
            assert (inputs[len(again) :] == inputs[-1]).all()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("adding", "0.5 1.5*", "'1.5*' is no number to add; write numbers from 0 to 1 with spaces between, and a * "
         "after those to add: 0.5* 0.1 0.25*"),
        ("adding", "nan", "'nan' is no number to add; write numbers from 0 to 1 with spaces between, and a * after "
         "those to add: 0.5* 0.1 0.25*"),
        ("adding", " ", "a sequence of numbers to add is empty; write numbers from 0 to 1 with spaces between, and a * "
         "after those to add: 0.5* 0.1 0.25*"),
        ("copy", "0123456", "'0123456' has 7 symbols to copy; expected 10 digits from 0 to 7"),
        ("copy", "0123456789", "'8' is no symbol of copy; expected some of 0 1 2 3 4 5 6 7 . >"),
        ("parity", "", "a sequence of parity is empty; expected some of 0 1"),
        ("sorting", ">", "'>' has nothing to sort; expected digits, such as 3142"),
        ("sums", "12", "'12' is no sum; expected two whole numbers with +, such as 12+57="),
        ("sums", "1+2+3=", "'1+2+3=' is no sum; expected two whole numbers with +, such as 12+57="),
    ],
)  # fmt: skip
def test_a_text_that_is_no_sequence_is_refused(name, text, message):
    with pytest.raises(UserError) as refused:
        read_text(name, text, 5)
    assert str(refused.value) == message


# --- the task --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_what_a_task_promises(name):
    check_task(Memory(problem=name, lag=LAGS[name])).raise_if_failed()


def test_streams_are_drawn_anew_for_each_step_and_never_those_held_out():
    data = Memory(problem="brackets", lag=12).read(["builtin:memory"])
    assert isinstance(data.train, Stream)
    steps = [(seed, step) for seed in range(2) for step in range(3)]
    seen = {data.train.draw(step, 50).inputs.tobytes() for step in steps}
    assert len(seen | {data.valid.draw(size=50).inputs.tobytes()}) == 7
    other = Memory(problem="brackets", lag=12).read(["builtin:memory:1"])
    assert other.digest != data.digest
    assert other.train.draw((0, 0), 50).inputs.tobytes() not in seen


def test_the_whole_batch_is_drawn_at_once():
    """A step draws as often from the generator whatever the size: no loop over sequences."""

    class Counted(np.random.Generator):
        calls = 0

        def integers(self, *given, **named):
            Counted.calls += 1
            return super().integers(*given, **named)

    for name in set(NAMES) - {"adding"}:
        calls = []
        for count in (3, 300):
            Counted.calls = 0
            PROBLEMS[name].draw(Counted(np.random.PCG64(0)), count, LAGS[name])
            calls.append(Counted.calls)
        assert calls[0] == calls[1] <= 4, name


def test_weights_may_come_from_a_run_with_another_lag():
    before = Memory(problem="copy", lag=5).read(["builtin:memory"]).facts
    data = Memory(problem="copy", lag=9).read(["builtin:memory"], before)
    assert data.facts == {"problem": "copy", "lag": 9}
    assert data.train.lag == data.valid.lag == 9


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a.txt"], "the task generates its data: expected builtin:memory or builtin:memory:SEED, such as "
         "builtin:memory:1; got a.txt"),
        ([], "the task generates its data: expected builtin:memory or builtin:memory:SEED, such as builtin:memory:1; "
         "got nothing"),
        (["builtin:memory:x"], "'builtin:memory:x' is not understood; expected builtin:memory, or builtin:memory:SEED "
         "with a number below 1e7"),
        (["builtin:memory:12345678"], "'builtin:memory:12345678' is not understood; expected builtin:memory, or "
         "builtin:memory:SEED with a number below 1e7"),
        (["builtin:memory1"], "'builtin:memory1' is not understood; expected builtin:memory, or builtin:memory:SEED "
         "with a number below 1e7"),
    ],
)  # fmt: skip
def test_other_files_are_refused(files, message):
    with pytest.raises(UserError) as refused:
        Memory().read(files)
    assert str(refused.value) == message


def test_a_lag_out_of_range_is_refused():
    with pytest.raises(ValueError, match="lag is 18; for sums it must be from 1 to 17, or 0 for 2"):
        Memory(problem="sums", lag=18)


def network(size=5, **more):
    return Network(lambda width: GRU(width, size), size, **more)


def test_an_embedding_of_numbers_is_refused():
    with pytest.raises(UserError) as refused:
        Memory().model({"problem": "adding", "lag": 5}, network(embedding_size=3))
    assert str(refused.value) == "--embedding-size is 3, but the problem adding reads numbers: leave it out"
    assert Memory(problem="order").model({}, network(embedding_size=3)).init_params(np.random.default_rng(0))[
        "symbols"
    ].shape == (6, 3)


# --- metrics ---------------------------------------------------------------------------------------------------------


class Perfect:
    """Answers that are right in all but a share of the sequences."""

    def __init__(self, wrong=0.0):
        self.wrong = wrong

    def answers(self, some):
        if some.targets.dtype.kind == "f":
            return (some.targets + self.wrong)[:, None]
        scores = np.eye(16)[np.where(some.targets == NOTHING, 15, some.targets)] * 50
        scores[..., : int(self.wrong * scores.shape[-2]), :] = 0
        return scores


@pytest.mark.parametrize("name", NAMES)
def test_what_is_always_right_solves_the_problem(name):
    task = Memory(problem=name, lag=LAGS[name])
    data = task.read(["builtin:memory"])
    found = task._evaluate(Perfect().answers, data.valid)
    assert found["loss"] < 1e-12
    assert (found["right"], found["solved"]) == (1, 1)


def test_a_problem_is_solved_where_99_percent_are_right():
    task = Memory(problem="sorting", lag=4)
    data = task.read(["builtin:memory"])
    found = task._evaluate(Perfect(0.05).answers, data.valid)
    assert 0.9 < found["right"] < 0.99
    assert found["solved"] == 0


@pytest.mark.parametrize(("error", "right", "solved"), [(0.03, 1, 1), (0.05, 0, 1), (0.11, 0, 0)])
def test_a_sum_is_right_within_four_hundredths_and_the_problem_solved_below_one_hundredth(error, right, solved):
    task = Memory(problem="adding", lag=12)
    found = task._evaluate(Perfect(error).answers, task.read(["builtin:memory"]).valid)
    assert found["loss"] == pytest.approx(error**2, rel=1e-4)
    assert (found["right"], found["solved"]) == (right, solved)


def test_without_memory_copying_costs_what_the_formula_says():
    task = Memory(problem="copy", lag=30)
    valid = task.read(["builtin:memory"]).valid
    found = task._evaluate(Memoryless(valid).answers, valid)
    assert chance("copy", 30) == pytest.approx(10 * np.log(8) / 50)
    assert found["loss"] == pytest.approx(chance("copy", 30), rel=2e-3)
    assert found["solved"] == 0


def test_without_memory_a_sum_costs_its_variance():
    task = Memory(problem="adding", lag=30)
    valid = task.read(["builtin:memory"]).valid
    found = task._evaluate(Memoryless(valid).answers, valid)
    assert found["loss"] == pytest.approx(chance("adding", 30), rel=0.1)
    assert chance("adding", 30) == 1 / 6


def test_without_memory_the_bracket_after_an_opening_one_is_known():
    valid = Memory(problem="brackets", lag=20).read(["builtin:memory"]).valid
    answers = np.argmax(Memoryless(valid).answers(valid.draw()), axis=-1)
    some = valid.draw()
    opens = some.inputs < 3
    np.testing.assert_array_equal(answers[opens], some.targets[opens])
    assert (answers != some.targets)[~opens].mean() > 0.3


# --- answers ---------------------------------------------------------------------------------------------------------


def predictor(name, **more):
    task = Memory(problem=name, lag=LAGS[name])
    model = task.model({}, task.resolve({}, network()))
    params, facts = model.init_params(np.random.default_rng(0)), {"problem": name, "lag": LAGS[name]}
    return task, model, params, lambda inputs, **more: list(task.predict(model, params, facts, inputs, **more))


@pytest.mark.parametrize("name", NAMES)
def test_answers_to_texts_are_those_of_the_evaluation(name):
    _, model, params, predict = predictor(name)
    some = Stream(name, LAGS[name], 0, 70).draw()
    answers = np.asarray(model.answers(params, some))
    inputs = [some.inputs[:length, i] for i, length in enumerate(some.lengths)]
    found = predict(iter(inputs))
    assert len(found) == 70
    for i, (prediction, sequence) in enumerate(zip(found, inputs, strict=True)):
        if name == "adding":
            assert prediction.record["output"] == pytest.approx(answers[i, 0], rel=1e-4)
            continue
        expected = write_target(name, sequence, np.argmax(answers[..., i, :], axis=-1))
        assert prediction.record["output"] == expected
        assert prediction.record["input"] == write_text(name, sequence)
        assert prediction.text.startswith(f"{prediction.record['input'][-60:]}\t{expected}")
    if name != "adding":
        assert predict([write_text(name, inputs[0])]) == predict([inputs[0]])


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("parity", [[0, 1], [1]], "of shape (0,) and dtype object; expected whole numbers (n,), the places of symbols"),
        ("parity", [0.5], "of shape (1,) and dtype float64; expected whole numbers (n,), the places of symbols"),
        ("adding", [0.5, 1.0], "of shape (2,) and dtype float64; expected numbers (n, 2), each with a mark, 0 or 1"),
        ("adding", {"a": 1}, "of shape () and dtype object; expected numbers (n, 2), each with a mark, 0 or 1"),
    ],
)
def test_an_array_that_is_no_sequence_is_refused(name, values, message):
    with pytest.raises(UserError) as refused:
        read_array(name, values, LAGS[name])
    assert str(refused.value) == f"a sequence of {name} is {message}"


def test_an_array_with_other_numbers_is_refused():
    with pytest.raises(UserError, match=r"^a sequence of parity has numbers from 0 to 2; expected 0 to 1$"):
        read_array("parity", [0, 2], 9)
    with pytest.raises(UserError, match=r"from 0 to 1, with marks of 0 or 1$"):
        read_array("adding", [[0.5, 0.5]], 9)
    with pytest.raises(UserError, match="is no sum"):
        predictor("sums")[3]([[1, 2]])


def test_arrays_may_have_another_lag_and_beginnings_are_completed():
    longer = read_text("copy", "0123456701", 9)
    assert read_array("copy", longer, 5).tolist() == longer.tolist()
    assert read_array("copy", longer[:10], 5).tolist() == read_text("copy", "0123456701", 5).tolist()


def test_a_file_has_a_sequence_on_each_line(tmp_path):
    task, file = Memory(problem="brackets", lag=12), tmp_path / "brackets.txt"
    file.write_text("{}[\n()\n(8\n")
    found = task.inputs(str(file), {"lag": 12})
    assert next(found).tolist() == [2, 5, 1]
    assert next(found).tolist() == [0, 3]
    with pytest.raises(UserError) as refused:
        next(found)
    assert str(refused.value) == f"{file}, line 3: '8' is no symbol of brackets; expected some of ( [ {{ ) ] }}"


def test_alternatives_come_in_order_with_their_probabilities():
    record = predictor("order")[3](["abXdYcab"], top=3)[0].record
    given = [each["probability"] for each in record["alternatives"]]
    assert given == sorted(given, reverse=True)
    assert len(given) == 3
    assert record["probability"] == given[0]
    assert record["output"] == record["alternatives"][0]["output"]


def test_an_explanation_shows_the_answer_after_each_step():
    (figure,) = predictor("sums")[3](["12+57="], explain=True)[0].figures
    assert isinstance(figure, Image)
    assert figure.x_ticks == tuple("12+57=...")
    assert figure.y_ticks == tuple("0123456789.")
    np.testing.assert_allclose(figure.values.sum(axis=0), 1, rtol=1e-6)
    (figure,) = predictor("adding")[3](["0.5* 0.1 0.25*"], explain=True)[0].figures
    assert isinstance(figure, Chart)
    np.testing.assert_allclose(figure.curves[1].y, [0.5, 0.5, 0.75])


def test_an_excerpt_shows_the_truth_where_the_network_is_wrong():
    task, model, params, _ = predictor("sums")
    data = task.read(["builtin:memory"])
    lines = task.excerpt(model, params, data, 100, np.random.default_rng(0)).splitlines()
    assert len(lines) == 6
    for line in lines:
        text = line.split("= ")[0]
        assert line.endswith(f" (true: {sum(map(int, text.split('+')))})")


# --- reports and commands --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adding", "parity", "copy"])
def test_reports_measure_it(name):
    task, model, params, _ = predictor(name)
    data = task.read(["builtin:memory"])
    problem = Problem(task, model, data, 5)
    subject = of_problem(name, "gru", problem, params, Settings(batch_size=5), 0.1)
    kinds = ("flow", "heatmap", "saturation", *(["memory"] if name == "copy" else []))
    pages = make_pages(load(kinds), [subject], Look(lags=6, positions=40))
    assert not [page.failed for page in pages if page.failed]
    assert (pages[0].figures[0].y_label == "|dL(t) / ds(t-k)|, nats") == (name != "adding")


def test_the_flow_is_told_beside_the_lag():
    task = Memory(problem="adding", lag=30)
    model = task.model({}, network())
    probe = task.probe(model, model.init_params(np.random.default_rng(0)), task.read(["builtin:memory"]).valid, {})
    assert probe.distance() == (22.5, "half of the first marks are further from the end than")
    assert probe.labels(0, 2).targets == (f"{Stream('adding', 30, 0, 1000).draw().targets[0]:.2f}",)


def test_it_is_trained_evaluated_and_learns(tmp_path, monkeypatch):
    settle(tmp_path, monkeypatch)
    given = ("--task", "memory:problem=parity,lag=3", "--cell", "lstm", "--hidden-size", "12", "--batch-size", "32")
    result = CliRunner().invoke(rnn, ["train", *given, "--steps", "150", "--seed", "1", "--learning-rate", "0.02"])
    assert result.exit_code == 0, result.output
    assert "builtin:memory: parity with up to 3 bits, 3 steps; sequences without end to train on, 1,000 held out" in (
        result.stderr
    )
    result = CliRunner().invoke(rnn, ["eval", "--json"])
    model, baseline = json.loads(result.stdout)["scores"]
    assert model["solved"] == 1
    assert baseline["name"] == "no memory"
    assert 0.5 < baseline["right"] < 0.8
    result = CliRunner().invoke(rnn, ["eval", "builtin:memory:4"])
    assert "The problem is solved: that takes 99 % of the sequences right." in " ".join(result.stdout.split())


def test_runs_with_other_lags_are_not_compared():
    task = Memory(problem="copy")
    runs = {"a": (task, {"problem": "copy", "lag": 5}), "b": (task, {"problem": "copy", "lag": 6})}
    assert task.comparable(runs) == (["the runs learn different problems (copy with lag 5, copy with lag 6)"], [])


def test_losses_do_not_depend_on_the_numbers_held_at_a_time(monkeypatch):
    task, model, params, _ = predictor("copy")
    valid = Stream("copy", 5, 0, 40)
    whole = task.evaluate(model, params, valid)
    sizes = []
    answers = type(model).answers

    def counted(self, params, some, rng=None):
        sizes.append(len(some.lengths))
        return answers(self, params, some, rng)

    monkeypatch.setattr("rnn_plugins.tasks.memory.NUMBERS", 7 * 25 * 5)
    monkeypatch.setattr(type(model), "answers", counted)
    assert task.evaluate(model, params, valid) == pytest.approx(whole, rel=1e-6)
    assert sizes == [7] * 5 + [5]


def test_a_stack_of_any_cells_with_dropout_can_learn_it():
    task = Memory(problem="sums", lag=1)
    model = task.model({}, Network(lambda width: LSTM(width, 4), 4, 0, 0.5, True))
    batch = task.batch(task.read(["builtin:memory"]), 0, 8)
    params = model.init_params(np.random.default_rng(0))
    losses = {float(model.loss(params, (), batch, rng)[0]) for rng in (None, np.random.default_rng(0))}
    assert len(losses) == 2
    assert isinstance(batch.inputs, Drawn)

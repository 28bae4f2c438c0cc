"""Runs as folders: names, manifests, damaged ones, and the list of runs."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from click.testing import CliRunner

from minigrad import checkpoint
from rnn_cli.main import rnn
from rnn_lab.keeping import rename
from rnn_lab.paths import BEST, EVENTS, LAST, LOCK, MANIFEST, METRICS, run_folders, runs_folder
from rnn_lab.runs import Run, create_run, environment, find_run, find_runs
from rnn_lab.settings import Settings
from rnn_lab.trainer import Tally
from rnn_plugins.errors import UserError
from rnn_plugins.tasks.language_model import LanguageModel
from rnn_plugins.tasks.task import Metric
from rnn_plugins.words import duration

MANIFEST_OF_A_RUN: dict[str, Any] = {
    "task": {"task": "language-model", "distribution": "rnn-lab", "version": "0.1.0"},
    "cell": {"cell": "gru", "distribution": "rnn-lab", "version": "0.1.0"},
    "settings": Settings(seed=1, learning_rate=0.1).to_json(),
    "parameters": 1234,
    "facts": {
        "vocabulary": {"level": "char", "symbols": ["a", "b"]},
        "opening": [],
        "characters_per_symbol": {"train": 3.0, "valid": 2.0},
        "unknown": 0.0,
        "text": {"digest": "00", "bytes": 8, "characters": 8},
        "lent": False,
    },
    "data": {"sources": ["a.txt"], "digest": "00", "train": 2, "valid": 2, "units_per_step": 1},
    "metrics": {name: metric._asdict() for name, metric in LanguageModel().metrics.items()},
    "environment": environment(),
    "outcome": "finished",
    "best": {"metrics": {"loss": 0.5}, "step": 7},
    "step": 10,
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RNN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "runs"


def make(name: str | None = None, fallback: str = "gru-text", **changes: Any) -> Run:
    return create_run(name, fallback, MANIFEST_OF_A_RUN | changes)


def record(step: Any, loss: Any = 1.0, **more: Any) -> dict[str, Any]:
    """A line of metrics."""
    keys = ("epoch", "train_loss", "gradient_norm", "learning_rate", "units_per_second", "seconds")
    return {"step": step, **dict.fromkeys(keys, loss), **more}


def mistake(*arguments: Any, function: Any = find_run) -> str:
    with pytest.raises(UserError) as caught:
        function(*arguments)
    return str(caught.value)


def kill(run: Run) -> None:
    """Let the process end that trains a run: its lock is free, and all else stays."""
    run._file_lock.release()


def age(run: Run, seconds: float) -> None:
    """Let a run be written some time ago."""
    os.utime(run.path / MANIFEST, (time.time() - seconds,) * 2)


def test_a_name_is_made_where_none_is_given(folder: Path) -> None:
    assert [make().name for _ in range(3)] == ["gru-text", "gru-text-2", "gru-text-3"]
    assert make(fallback="My Cell-Éclair (1)!").name == "My-Cell-Éclair-1"
    assert make(fallback="../..").name == "run"
    assert sorted(path.name for path in folder.iterdir()) == [
        "My-Cell-Éclair-1",
        "gru-text",
        "gru-text-2",
        "gru-text-3",
        "run",
    ]


def test_a_name_that_is_taken() -> None:
    run = make("mine")
    taken = (
        "there is a run called 'mine' already: choose another --name, remove it with rnn runs rm mine, "
        "or resume it: rnn train --resume mine"
    )
    assert mistake("mine", "", MANIFEST_OF_A_RUN, function=create_run) == taken  # it is about to be trained
    (run.path / LAST).write_bytes(b"")
    kill(run)
    assert mistake("mine", "", MANIFEST_OF_A_RUN, function=create_run) == taken


def test_advice_quotes_a_name_with_a_blank() -> None:
    (make("my run").path / LAST).write_bytes(b"")
    taken = mistake("my run", "", MANIFEST_OF_A_RUN, function=create_run)
    assert taken.endswith("remove it with rnn runs rm 'my run', or resume it: rnn train --resume 'my run'")
    assert mistake(make("other"), "my run", function=rename).endswith("remove that first: rnn runs rm 'my run'")


def test_a_name_that_only_a_failed_start_has_is_free(folder: Path) -> None:
    kill(make("mine"))
    make("mine").release()
    assert list(folder.iterdir()) == []
    (folder / "notes").mkdir()
    (folder / "notes" / "todo.txt").write_text("")
    assert mistake("notes", "", MANIFEST_OF_A_RUN, function=create_run) == (
        f"{str(folder / 'notes')!r} exists and is not a run: choose another --name"
    )


def test_a_start_on_a_full_disk_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        make("mine")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "-x", "a\n", "a\0b", " a"])
def test_a_name_that_is_none(name: str) -> None:
    assert mistake(name, "", MANIFEST_OF_A_RUN, function=create_run) == (
        f"--name is {name!r}; it must begin with a letter or digit and contain only letters, digits, spaces and the "
        "characters . _ + -"
    )


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RNN_RUNS", str(tmp_path / "file"))
    assert mistake("x", "", MANIFEST_OF_A_RUN, function=create_run) == (
        f"the run's folder {tmp_path / 'file' / 'x'} cannot be made: File exists; set RNN_RUNS to another"
    )


def test_where_runs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNN_RUNS", "")
    assert runs_folder() == Path("runs")
    monkeypatch.setenv("RNN_RUNS", "/elsewhere")
    assert runs_folder() == Path("/elsewhere")


def test_runs_are_found_by_name_by_folder_or_as_the_newest(tmp_path: Path) -> None:
    old, new = make("old"), make("new")
    age(old, 100)
    assert find_run().name == "new"
    age(new, 200)
    assert find_run().name == "old"  # the one that was written last
    assert [run.name for run in find_runs()] == ["old", "new"]
    assert find_run("old").path == old.path
    assert find_run(str(new.path)).path == new.path


def test_a_run_that_there_is_not(folder: Path) -> None:
    assert mistake() == f"there are no runs in {folder}: train one first, with rnn train"
    assert mistake("x") == f"there is no run called 'x' in {folder}."
    make("lstm-hello")
    assert mistake("lstm-helo") == (
        f"there is no run called 'lstm-helo' in {folder}. Did you mean 'lstm-hello'? There is lstm-hello"
    )
    for i in range(8):
        make(f"r{i}")
    assert mistake("zzz").endswith(" There are r7, r6, r5, r4, r3, r2, r1, r0 and 1 more")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "its run.json is not valid JSON"),
        (b"[]", "its run.json is not a table"),
        (b"[" * 100_000, "its run.json is not valid JSON"),
        (b'{"task": {}, "cell": {}}', "its run.json has no 'settings'"),
        (b'{"task": "", "cell": {}}', "its run.json has '' for 'task', which must be a table"),
        (b"\xff\xfe", "its run.json is not valid JSON"),
        (None, "it has no run.json"),
    ],
)
def test_a_manifest_that_cannot_be_read(content: bytes | None, reason: str) -> None:
    run = make("broken")
    (run.path / BEST).write_bytes(b"")
    if content is None:
        (run.path / MANIFEST).unlink()
    else:
        (run.path / MANIFEST).write_bytes(content)
    sentence = f"the run 'broken' cannot be read: {reason}"
    assert mistake(function=lambda: Run(run.path).manifest) == sentence
    assert [(s.name, s.error, s.outcome) for s in (r.summary() for r in find_runs())] == [
        ("broken", sentence, "unreadable")
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"settings": {"hiden_size": 3}},
            "its settings in run.json: there is no setting called 'hiden_size'. Did you mean 'hidden_size'?",
        ),
        ({"settings": {"hidden_size": 0}}, "its settings in run.json: --hidden-size is 0; it must be at least 1"),
        ({"settings": 5}, "its run.json has 5 for 'settings', which must be a table"),
        ({"settings": {}}, "its settings in run.json have no learning rate or no seed"),
    ],
)
def test_settings_that_cannot_be_read(changes: dict[str, Any], reason: str) -> None:
    run = Run(make("odd", **changes).path)
    assert mistake(function=lambda: run.settings) == f"the run 'odd' cannot be read: {reason}"
    assert run.summary().error == f"the run 'odd' cannot be read: {reason}"


def test_a_vocabulary_that_cannot_be_read() -> None:
    run = Run(make("odd", facts={"vocabulary": {"symbols": []}}).path)
    assert mistake(function=lambda: run.language) == (
        "the run 'odd' cannot be read: its facts in run.json: this is not a vocabulary; expected its level and "
        "its symbols, as to_json writes them"
    )


def test_damage_elsewhere_in_a_manifest_stands_in_the_runs_own_row() -> None:
    make("whole")
    run = Run(make("odd", data={}).path)
    assert run.summary().error == "the run 'odd' cannot be read: its run.json has no 'data.sources'"
    assert {s.name: s.error is None for s in (r.summary() for r in find_runs())} == {"whole": True, "odd": False}


def test_weights_that_are_missing_or_damaged() -> None:
    run = make("bare")
    assert mistake(function=run.params) == (
        "the run 'bare' has no model.safetensors: it ended before anything was saved; train it again"
    )
    (run.path / LAST).write_bytes(b"no such thing")
    assert mistake(function=run.last).startswith("the run 'bare' cannot be read: ")


def test_a_manifest_comes_back_whatever_the_text_is_called() -> None:
    name = os.fsdecode(b"caf\xe9 \xd0\xb6.txt")  # a file's name need not be UTF-8
    settings = Settings(files=(name, "Текст.txt"), seed=1, learning_rate=0.1)
    run = Run(make("odd", settings=settings.to_json()).path)
    assert run.settings.files == (name, "Текст.txt")
    assert "Текст.txt".encode() in (run.path / MANIFEST).read_bytes()


def test_records_leave_out_what_a_crash_left() -> None:
    run = make("crashed")
    assert list(run.records()) == []
    whole = [record(1), record(2, valid_loss=2.0)]
    damaged = [record(-1), record("3"), record(4) | {"seconds": None}, {"step": 5}, 7, [], record(6, loss=10**400)]
    text = "".join(json.dumps(line) + "\n" for line in [*whole, *damaged])
    (run.path / METRICS).write_bytes(text.encode() + b"[" * 100_000 + b'\n\xff\n{"st')
    assert list(run.records()) == whole


def test_bits_per_character() -> None:
    # Two symbols of the held-out part stand for four characters, and two of the training part for six.
    bits = 2.0 / 0.6931471805599453
    run = make("x")
    assert run.metrics({"loss": 2.0}) == pytest.approx(
        {"loss": 2, "nats_per_character": 1, "bits_per_character": bits / 2}
    )
    assert run.metrics({"loss": 2.0}, "train")["bits_per_character"] == pytest.approx(bits / 3)
    assert run.metrics()["bits_per_character"] == pytest.approx(bits / 8)
    unheld = make("y", data=MANIFEST_OF_A_RUN["data"] | {"valid": 0})
    assert unheld.metrics()["bits_per_character"] == pytest.approx(bits / 12)
    assert make("z", best={"metrics": None, "step": 0}).metrics() == {}


def test_what_a_run_is_in_a_line() -> None:
    summary = make("x").summary()
    assert summary.age is not None
    assert 0 <= summary.age < 3600
    shown = vars(summary) | {"age": 0}
    assert shown == {
        "name": "x", "task": "language-model", "cell": "gru", "size": "1x256", "parameters": 1234,
        "metrics": {"loss": 0.5, "nats_per_character": 0.25, "bits_per_character": pytest.approx(0.36067376)},
        "declared": LanguageModel().metrics,
        "held_out": True, "step": 10, "outcome": "finished", "age": 0, "error": None,
    }  # fmt: skip


def test_a_column_that_repeats_another_in_every_run_is_left_out() -> None:
    characters = make("x", facts={**MANIFEST_OF_A_RUN["facts"], "characters_per_symbol": {"train": 1.0, "valid": 1.0}})
    assert "NATS  BITS/CHAR  STEPS" in rnn_runs()
    assert "metrics 0.500 nats, 0.721 bits per character on" in " ".join(rnn_runs("show", "x").split())
    words = {**MANIFEST_OF_A_RUN["settings"], "task_option": {"level": "word"}}
    make("y", settings=words, best={"metrics": {"loss": 1.0}, "step": 7})
    heads, *rows = (line.split() for line in rnn_runs().splitlines())
    assert heads[3:6] == ["NATS", "NATS/CHAR", "BITS/CHAR"]
    assert {row[0]: row[3:6] for row in rows} == {"x": ["0.500", "0.500", "0.721"], "y": ["1.000", "0.500", "0.721"]}
    first, second = (
        row.split()[0] for row in rnn_runs("--sort", "nats/char", "--filter", "nats/char<0.6").splitlines()[1:]
    )
    assert {first, second} == {"x", "y"}
    assert characters.summary().metrics["nats_per_character"] == 0.5


def test_a_run_under_way_shows_its_last_record_and_one_that_was_killed_what_is_saved() -> None:
    run = make("x", outcome=None)
    kill(run)
    program = (
        "import sys; from pathlib import Path; from rnn_lab.runs import Run; "
        "run = Run(Path(sys.argv[1])); run.lock(); print(flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        assert (run.summary().outcome, run.summary().step, run.summary().metrics) == ("running", 0, {})
        (run.path / METRICS).write_text(
            "".join(json.dumps(line) + "\n" for line in (record(5, valid_loss=2.0), record(8)))
        )
        checkpoint.save(run.path / BEST, {}, {"step": 5, "metrics": {"loss": 2.0}})
        rng = np.random.default_rng(0).bit_generator.state
        checkpoint.save(run.path / LAST, {}, {"step": 6, "rng": rng, "tally": vars(Tally())})
        assert (run.summary().step, run.summary().metrics["loss"]) == (8, 2.0)
        assert mistake(function=run.lock) == ("the run 'x' is being trained by another process: stop that one first")
        other.kill()
    assert (run.summary().outcome, run.summary().step, run.summary().metrics["loss"]) == ("killed", 6, 2.0)
    run.lock()


def test_a_run_is_held_from_its_first_moment() -> None:
    run = make("x", outcome=None)
    other = Run(run.path)
    assert other.summary().outcome == "running"
    assert mistake(function=other.lock) == "the run 'x' is being trained by another process: stop that one first"
    kill(run)
    kill(run)
    assert other.summary().outcome == "killed"
    other.lock()
    assert run.summary().outcome == "running"


def test_a_run_that_was_never_held_leaves_no_lock_when_it_is_listed() -> None:
    run = make("x", outcome=None)
    kill(run)
    (run.path / LOCK).unlink(missing_ok=True)
    assert run.summary().outcome == "killed"
    assert not (run.path / LOCK).exists()


@pytest.mark.parametrize("error", [OSError(37, "No locks available"), NotImplementedError()])
def test_a_file_system_without_locks(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    run = make("x", outcome=None)
    (run.path / LOCK).touch()
    assert run.summary().outcome == "killed"
    kill(run)


@pytest.mark.parametrize("name", [MANIFEST, BEST, LAST, METRICS, EVENTS, LOCK])
def test_links_out_of_a_run_are_not_followed(name: str, tmp_path: Path) -> None:
    make("whole")
    run = make("linked", outcome=None)
    kill(run)
    target = tmp_path / "mine"
    target.write_text((run.path / MANIFEST).read_text())
    content = target.read_text()
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(target)
    sentence = (
        f"the run 'linked' cannot be read: its {name} is a symbolic link; a run has regular files: replace it "
        "with a copy"
    )
    assert mistake(function=Run(run.path).lock) == sentence
    listed = {row.name: row.error for row in (found.summary() for found in find_runs())}
    assert listed["whole"] is None
    assert listed["linked"] == (sentence if name in (MANIFEST, BEST, LAST, LOCK) else None)  # what a listing reads
    assert target.read_text() == content


def test_a_run_whose_task_fails_is_listed_with_what_was_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    make("whole")
    failing = make("failing", task=MANIFEST_OF_A_RUN["task"] | {"task": "other"})
    metrics = {"loss": Metric("hours")._asdict()}
    failing.update(metrics=metrics)
    source = "class Task:\n def derived(self, *given):\n  raise ValueError\n metrics = property(derived)"
    namespace: dict[str, Any] = {"__name__": "somewhere"}
    exec(compile(source, "their_task.py", "exec"), namespace)
    failing.__dict__.update(task=namespace["Task"](), facts={})
    row = failing.summary()
    assert (row.error, row.metrics, row.declared) == (None, {"loss": 0.5}, {"loss": Metric("hours")})


def test_a_run_that_lies_elsewhere_may_be_linked(folder: Path, tmp_path: Path) -> None:
    run = make("here")
    kill(run)
    run.path.rename(tmp_path / "there")
    run.path.symlink_to(tmp_path / "there")
    run = find_run("here")
    run.lock()
    run.update(step=11)
    assert json.loads((tmp_path / "there" / MANIFEST).read_text())["step"] == 11
    assert [(row.name, row.error) for row in (found.summary() for found in find_runs())] == [("here", None)]


def test_a_pipe_in_place_of_a_file_is_not_waited_for() -> None:
    run = make("piped")
    for name in (MANIFEST, BEST, METRICS):
        (run.path / name).unlink(missing_ok=True)
        os.mkfifo(run.path / name)
    sentence = (
        "the run 'piped' cannot be read: its {} is not a regular file; a run has regular files: replace it with a copy"
    )
    assert run.summary().error is None
    assert Run(run.path).summary().error == sentence.format(MANIFEST)
    assert mistake(function=run.params) == sentence.format(BEST)
    assert mistake(function=lambda: list(run.records())) == sentence.format(METRICS)


def test_folders_that_are_no_runs_are_not_listed(folder: Path) -> None:
    make("x")
    (folder / "notes").mkdir()
    (folder / "file").write_text("")
    assert [path.name for path in run_folders()] == ["x"]


def rnn_runs(*arguments: str) -> str:
    result = CliRunner().invoke(rnn, ["runs", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_no_runs(folder: Path) -> None:
    assert rnn_runs() == f"There are no runs in {folder}: train one with rnn train\n"
    assert json.loads(rnn_runs("--json")) == []


def test_the_table() -> None:
    runs = [
        make("good"),
        make("unheld", data=MANIFEST_OF_A_RUN["data"] | {"valid": 0}, outcome="time"),
        make("wild", best={"metrics": {"loss": 123456.0}, "step": 1}, outcome="interrupted"),
        make("young", best={"metrics": None, "step": 0}, outcome="diverged"),
        make("broken"),
    ]
    (runs[-1].path / MANIFEST).write_text("{")
    for i, run in enumerate(runs):
        age(run, 60 * i)
    lines = [re.split(r"  +", line.strip()) for line in rnn_runs().splitlines()]
    assert lines[0] == ["NAME", "CELL", "SIZE", "NATS", "BITS/CHAR", "STEPS", "AGE", "OUTCOME"]
    without_age = [[*line[:-2], line[-1]] for line in lines[1:5]]
    assert without_age == [
        ["good", "gru", "1x256", "0.500", "0.361", "10", "finished"],
        ["unheld", "gru", "1x256", "0.500*", "0.240*", "10", "time"],
        ["wild", "gru", "1x256", "1.23e+05", "89,055", "10", "interrupted"],
        ["young", "gru", "1x256", "10", "diverged"],
    ]
    assert lines[5] == ["broken", "the run 'broken' cannot be read: its run.json is not valid JSON"]


def test_the_table_as_json() -> None:
    make("x")
    assert [(row["name"], row["metrics"], row["error"]) for row in json.loads(rnn_runs("--json"))] == [
        ("x", {"loss": 0.5, "nats_per_character": 0.25, "bits_per_character": pytest.approx(0.36067376)}, None)
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.0123, "0.012 s"), (3, "3 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"),
        (3600, "1 h 00 min"), (86399, "23 h 59 min"), (90000, "1 d 1 h"),
    ],
)  # fmt: skip
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("name", ["a" * 241, "Ж" * 121])
def test_a_name_that_is_too_long_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNN_RUNS", str(tmp_path))
    with pytest.raises(UserError) as error:
        create_run(name, "fallback", {})
    size = len(name.encode())
    assert str(error.value) == f"--name is {size} bytes long; it must have at most 240: choose a shorter one"
    with pytest.raises(UserError, match="there is no run called"):
        find_run("a" * 300)


@pytest.mark.parametrize("letter", ["a", "Ж"])
def test_names_made_of_long_names_of_texts_have_room_for_a_number(
    letter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RNN_RUNS", str(tmp_path))
    first, second = (create_run(None, f"gru-{letter * 250}", {}) for _ in range(2))
    assert second.name == f"{first.name}-2"
    for run in (first, second):
        run.release()
        assert len(run.name.encode()) <= 240
    assert create_run("Ж" * 120, "fallback", {}).name == "Ж" * 120

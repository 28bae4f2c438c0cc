"""Training that is stopped, killed or cannot write: what it saves, and that it resumes exactly."""

import errno
import fcntl
import os
import pty
import resource
import select
import signal
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from command_line import LONG, PROGRAM, SIGNALLED, SMALL, TEXT, refused, settle, start, timeless, train, trained

from rnn_cli import display, training
from rnn_cli.main import rnn
from rnn_lab import sessions
from rnn_lab.paths import BEST, LAST, MANIFEST
from rnn_lab.runs import Run, find_run
from rnn_lab.session import Cost, Session


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "fox.txt").write_text(TEXT)
    environment = os.environ | {"RNN_RUNS": "runs"}
    with start("fox.txt", *LONG, "--quiet", cwd=folder, env=environment) as process:
        assert process.communicate() == (b"", b"")
    return folder / "runs" / "gru-fox"


def assert_goes_on(uninterrupted: Path, step: int | None = None) -> Run:
    """What manifest and list say of the run is on the disk, and it goes on to the bytes of one that never stopped."""
    run = Run(Path("runs/gru-fox"))
    saved, best = run.notes(LAST)["step"], run.notes(BEST)
    assert step in (None, saved)
    assert (run.summary().step, run.reached()) == (saved, (saved, best["metrics"]))
    assert run.summary().metrics == run.metrics(best["metrics"] or {})
    if run.manifest["outcome"]:
        assert (run.manifest["step"], run.manifest["best"]) == (saved, best)
    assert not list(run.path.glob("*.tmp"))
    with start("--resume", "gru-fox", "--quiet") as process:
        assert process.communicate() == (b"", b"")
        assert process.returncode == 0
    for name in (LAST, BEST):
        assert (run.path / name).read_bytes() == (uninterrupted / name).read_bytes()
    assert [timeless(r) for r in run.lines()] == [timeless(r) for r in Run(uninterrupted).lines()]
    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_that_then_goes_on_bit_for_bit(number: signal.Signals, uninterrupted: Path) -> None:
    with start("fox.txt", *LONG, program=SIGNALLED.format(step=73, number=int(number), times=1)) as process:
        out, err = process.communicate()
    assert process.returncode == 128 + number
    run = Run(Path("runs/gru-fox"))
    assert run.manifest["outcome"] == "interrupted"
    assert "Interrupted after step 74 and saved; resume with: rnn train --resume gru-fox\n" in err.decode()
    measured = {record["step"]: record["valid_loss"] for record in run.records() if "valid_loss" in record}
    assert list(measured) == [50, 74]
    assert measured[74] < measured[50]
    assert f"runs/gru-fox: {measured[74]:.3f} nats " in out.decode()
    assert out.decode().endswith(" held out, at step 74\n")
    assert_goes_on(uninterrupted, step=74)  # the step under way


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (2, "Interrupted after step 74 and saved; resume with: rnn train --resume gru-fox\n"),
        (3, "Interrupted at once, saved after step 73; resume with: rnn train --resume gru-fox\n"),
    ],
)
def test_signals_that_come_again(times: int, said: str, uninterrupted: Path) -> None:
    with start("fox.txt", *LONG, program=SIGNALLED.format(step=73, number=int(signal.SIGINT), times=times)) as process:
        out, err = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert said in err.decode()
    assert out.decode().endswith(" held out, at step 50\n")
    assert_goes_on(uninterrupted, step=76 - times if times > 2 else 74)


LISTENED = """
import sys
from rnn_cli import display

def show(self, progress, show=display.{shown}.show):
    if progress.step.step == 73:
        print("here", file=sys.stderr if "{shown}" == "Records" else sys.stdout, flush=True)
        sys.stdin.readline()
    show(self, progress)

display.{shown}.show = show
from rnn_cli.main import rnn
rnn()
"""
"""The program that waits after a certain step, until whoever reads it has gone away."""


def test_nobody_reads_its_records_any_more(uninterrupted: Path) -> None:
    options = {"program": LISTENED.format(shown="Records"), "stdin": subprocess.PIPE}
    with start("fox.txt", *LONG, "--json", **options) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdin
        while process.stderr.readline() != b"here\n":
            pass
        process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stderr.read().decode().splitlines()[0] == (
            "Note: standard output cannot be written to (broken pipe), and nothing more is shown there."
        )
        assert process.wait() == 0
    assert Run(Path("runs/gru-fox")).manifest["outcome"] == "finished"
    assert_goes_on(uninterrupted, step=400)


def test_nobody_reads_its_log_any_more(uninterrupted: Path) -> None:
    options = {"program": LISTENED.format(shown="Lines"), "stdin": subprocess.PIPE}
    with start("fox.txt", *LONG, **options) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdin
        assert process.stdout.readline() == b"here\n"
        process.stderr.close()
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert b" held out, at step " in process.stdout.read()
        assert process.wait() == 0
    assert_goes_on(uninterrupted, step=400)


def test_nobody_reads_anything_from_the_beginning() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = ("fox.txt", *SMALL)
    for arguments in (command, (*command, "--json")):
        with start(*arguments, stdout=writer, stderr=writer) as process:
            assert process.wait() == 0
    os.close(writer)
    assert [Run(Path("runs", name)).manifest["outcome"] for name in ("gru-fox", "gru-fox-2")] == ["finished"] * 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_its_log_is_on_a_full_disk() -> None:
    with open("/dev/full", "wb") as full:
        with start("fox.txt", *SMALL, stdout=full) as process:
            assert process.stderr
            assert b"Note: standard output cannot be written to (no space left on device)," in process.stderr.read()
        with start("fox.txt", *SMALL, stdout=full, stderr=full) as other:
            assert (process.wait(), other.wait()) == (0, 0)
    assert [Run(Path("runs", name)).manifest["outcome"] for name in ("gru-fox", "gru-fox-2")] == ["finished"] * 2


def hung_up(when: bytes, *arguments: str, ignored: bool = False) -> int:
    """Train on a terminal that is closed once some bytes were written to it; the exit code."""
    main, other = pty.openpty()

    def lead() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if ignored:  # as nohup does
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    streams = {"stdin": other, "stdout": other, "stderr": other}
    environment = os.environ | {"TERM": "xterm-256color"}
    with start(*arguments, **streams, preexec_fn=lead, env=environment) as process:
        os.close(other)
        seen = b""
        while when not in seen and select.select([main], [], [], 60)[0]:
            seen += os.read(main, 65536)
        assert when in seen
        os.close(main)
        return process.wait()


def test_a_terminal_that_is_hung_up_ends_it(uninterrupted: Path) -> None:
    assert hung_up(b" of 400", "fox.txt", *LONG, "--flow", "--flow-every", "1") == 128 + signal.SIGHUP
    run = Run(Path("runs/gru-fox"))
    assert run.manifest["outcome"] == "interrupted"
    assert run.manifest["step"] == run.notes(LAST)["step"] > 0
    assert run.manifest["best"] == run.notes(BEST)


def test_it_goes_on_without_its_terminal_where_it_is_told_not_to_mind(uninterrupted: Path) -> None:
    assert hung_up(b" of 400", "fox.txt", *LONG, ignored=True) == 0
    assert_goes_on(uninterrupted, step=400)


def limited(size: int) -> Callable[[], None]:
    """As a full disk: no file of the process can become larger than so many bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_ends_it_and_the_message_says_how_to_go_on(uninterrupted: Path) -> None:
    size = 2 * max((uninterrupted / name).stat().st_size for name in (LAST, BEST))
    assert size < (uninterrupted / "metrics.jsonl").stat().st_size
    with start("fox.txt", *LONG, preexec_fn=limited(size)) as process:
        out, err = process.communicate()
    assert process.returncode == 1
    run = Run(Path("runs/gru-fox"))
    saved, (*_, said) = run.notes(LAST)["step"], err.decode().splitlines()
    stopped = int(said.split("training stopped after step ")[1].split(".")[0])
    assert saved <= stopped < 400
    assert said == (
        f"Error: 'runs/gru-fox/metrics.jsonl' cannot be written ({os.strerror(errno.EFBIG).lower()}), so training "
        f"stopped after step {stopped}. Step {saved} is saved; when there is room again, resume with: "
        "rnn train --resume gru-fox"
    )
    assert out.decode().endswith(f" held out, at step {run.notes(BEST)['step']}\n")
    assert_goes_on(uninterrupted)


def test_event_files_on_a_full_disk_are_given_up(uninterrupted: Path) -> None:
    pytest.importorskip("tensorboardX")
    arguments = [*LONG, "--track", "tensorboard", "--log-every", "50"]
    with start("fox.txt", *arguments, preexec_fn=limited(60_000)) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0
    note = (
        "Note: no more event files are written, because 'runs/gru-fox/tensorboard' cannot be written to "
        f"({os.strerror(errno.EFBIG).lower()}).\n"
    )
    assert err.decode().count(note) == 1
    run = Run(Path("runs/gru-fox"))
    assert (run.manifest["outcome"], run.manifest["step"]) == ("finished", 400)
    assert (run.path / BEST).read_bytes() == (uninterrupted / BEST).read_bytes()


def test_signals_are_handled_while_training_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    session = sessions.start({"files": ("fox.txt",), "steps": 3, "hidden_size": 2})
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    shown = display.Live(session)
    with training.stopping(session.trainer, shown.note) as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals == [signal.SIGTERM]
        assert shown.word == "Stopping after this step and a validation. Ctrl-C again leaves the validation out."
        assert [progress.step.step for progress in session.trainer.events()] == [1]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_that_is_ignored_stays_so() -> None:
    session = sessions.start({"files": ("fox.txt",), "steps": 3, "hidden_size": 2})
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with training.stopping(session.trainer, display.Display(session).note) as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert signals == []
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_second_signal_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(self: Session) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Session, "cost", cost)
    result = train("fox.txt", *SMALL)
    assert (result.exit_code, result.stdout) == (143, "")
    assert result.stderr == "Interrupted before the first step: nothing is saved.\n"
    assert not os.path.exists("runs/gru-fox")


def test_of_a_start_that_fails_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    trained("fox.txt", *SMALL, "--name", "first")

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Session, "cost", fail)
        assert train("fox.txt", *SMALL, "--name", "second").exit_code == 1
        patch.setattr(sessions.Trainer, "begin", fail)
        assert train("fox.txt", *SMALL, "--name", "second", "--quiet").exit_code == 1
    assert os.listdir("runs") == ["first"]
    assert CliRunner().invoke(rnn, ["sample", "--length", "3"]).exit_code == 0
    trained("fox.txt", *SMALL, "--name", "second")


def test_a_name_is_free_where_a_start_was_killed_before_anything_was_saved() -> None:
    first, _ = trained("fox.txt", *SMALL, "--name", "first")
    program = "import os; from rnn_lab import session; session.Session.cost = lambda self: os._exit(9)\n" + PROGRAM
    with start("fox.txt", *SMALL, "--name", "second", program=program) as process:
        process.communicate()
    assert sorted(os.listdir("runs/second")) == [".lock", MANIFEST]
    assert find_run().name == "first"  # the newest that can be used
    assert CliRunner().invoke(rnn, ["sample", "--length", "3"]).exit_code == 0
    second, _ = trained("fox.txt", *SMALL, "--name", "second")
    assert sessions.same_weights(first, Run(second.path))
    assert refused("fox.txt", *SMALL, "--name", "second") == (
        "there is a run called 'second' already: choose another --name, remove it with rnn runs rm second, "
        "or resume it: rnn train --resume second"
    )


def test_a_signal_before_the_first_step_is_kept_until_then(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = Session.cost

    def interrupted(self: Session) -> Cost:
        os.kill(os.getpid(), signal.SIGINT)
        return cost(self)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "cost", interrupted)
        result = train("fox.txt", *SMALL)
    assert result.exit_code == 130
    assert "Interrupted after step 1 and saved; resume with: rnn train --resume gru-fox\n" in result.stderr
    trained("--resume", "gru-fox", "--name", "gru-fox")

"""``rnn sample``, through Click's runner and as a process."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import termios
import time
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_runs import TEXT, train

from minigrad import checkpoint
from rnn_cli.main import rnn
from rnn_cli.sample import _stream
from rnn_lab.paths import BEST, MANIFEST


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    train(folder, TEXT, "bytes", level="byte")
    train(folder, TEXT, "words", level="word")
    train(folder, "naïve 🙂 " * 100, "emoji", level="byte", steps=60)
    train(folder, r"\noindent " + TEXT, "latex1", steps=1)
    train(
        folder,
        "caf\xe9 au lait, d\xe9j\xe0 vu\n".encode("latin-1") * 40,
        "latin",
        level="byte",
        steps=200,
        learning_rate=0.02,
    )
    train(folder, "naïve " * 100, "naive", steps=1)
    train(folder, TEXT, "hamlet", newest=True, steps=100, learning_rate=0.02)
    return folder


@pytest.fixture
def call(folder, monkeypatch):
    """Runs ``rnn sample`` and gives exit code, standard output and standard error."""
    monkeypatch.setenv("RNN_RUNS", str(folder / "runs"))
    monkeypatch.chdir(folder)

    def call(*args, stdin=None):
        result = CliRunner().invoke(rnn, ["sample", *args], input=stdin)
        return result.exit_code, result.stdout, result.stderr

    return call


def test_the_newest_run_writes_as_many_characters_as_asked(call):
    code, text, said = call("--length", "60", "--seed", "4")
    assert code == 0
    assert len(text.removesuffix("\n")) in (59, 60)  # the last of the 60 may be a line feed
    assert set(text) <= set(TEXT)
    assert said == "From the run hamlet, with --seed 4.\n"


def test_a_drawn_seed_is_said_and_repeats_the_text(call):
    _, text, said = call("--length", "80")
    seed = re.fullmatch(r"From the run hamlet, with --seed (\d+)\.\n", said)[1]
    assert call("hamlet", "--length", "80", "--seed", seed)[1] == text
    assert call("hamlet", "--length", "80", "--seed", seed + "1")[1] != text


def test_the_length_counts_new_characters_after_the_prime(call):
    _, text, _ = call("--length", "10", "--prime", "to be", "--greedy")
    assert text.startswith("to be")
    assert len(text.removesuffix("\n")) in (14, 15)


def test_the_prime_is_read(call):
    one, other = (call("--length", "20", "--prime", prime, "--greedy")[1] for prime in ("whether 't", "be, or not"))
    assert one[10:] != other[10:]


def test_the_prime_from_a_file_or_from_standard_input(call, folder):
    expected = call("--length", "20", "--prime", "that is\n", "--greedy")[1]
    folder.joinpath("prime.txt").write_text("that is\n")
    assert call("--length", "20", "--prime-file", "prime.txt", "--greedy")[1] == expected
    assert call("--length", "20", "--prime-file", "-", "--greedy", stdin="that is\n")[1] == expected


@pytest.mark.parametrize(
    "args",
    [
        ["-primetext", "to be", "-length", "30", "-temperature", "0.5", "-seed", "7", "-sample", "1", "hamlet"],
        ["-checkpoint", "hamlet", "-start_text", "to be", "-length", "30", "-temperature", "0.5", "-seed", "7"],
        ["--checkpoint=hamlet", "--words", "30", "--start-text=to be", "--temperature=0.5", "--seed", "7"],
    ],
)
def test_the_options_of_char_rnn_torch_rnn_and_pytorch(call, args):
    expected = call("hamlet", "--prime", "to be", "--length", "30", "--temperature", "0.5", "--seed", "7")
    assert expected[0] == 0
    assert call(*args) == expected


def test_sample_0_is_greedy_and_has_no_seed(call):
    code, text, said = call("-sample", "0", "-length", "25")
    assert (code, text) == call("--greedy", "--length", "25")[:2] == call("--temperature", "0", "--length", "25")[:2]
    assert said == "From the run hamlet.\n"


def test_a_prime_that_begins_with_a_dash(call):
    code, _, said = call("--prime", "-x-", "--unknown", "skip", "--length", "5", "--greedy")
    assert (code, said) == (0, "From the run hamlet.\n")


def test_unknown_characters_of_the_prime(call):
    code, text, said = call("--prime", "to Ω be", "--length", "5")
    assert (code, text) == (2, "")
    assert said == (
        "Error: the prime has 1 character that the model has never seen: 'Ω' (U+03A9); --unknown skip leaves them "
        "out, --unknown replace puts ' ' in their place\n"
    )
    assert call("--prime", "toΩ", "--length", "5", "--unknown", "skip")[1].startswith("to")
    assert call("--prime", "toΩ", "--length", "5", "--unknown", "replace")[1].startswith("to ")


def test_several_texts_under_rules(call):
    _, text, _ = call("--count", "3", "--length", "12", "--seed", "2", "--prime", "that")
    rules = re.findall(r"^--- \d of 3 ---$", text, re.MULTILINE)
    assert rules == ["--- 1 of 3 ---", "--- 2 of 3 ---", "--- 3 of 3 ---"]
    texts = re.split(r"--- \d of 3 ---\n", text)[1:]
    assert all(t.startswith("that") for t in texts)
    assert len(set(texts)) == 3
    assert texts[0] == call("--length", "12", "--seed", "2", "--prime", "that")[1]


def test_a_text_ends_with_stop(call):
    _, text, _ = call("--length", "0", "--stop", "e", "--stop", "t", "--seed", "5", "--prime", "to be")
    new = text.removeprefix("to be").rstrip("\n")
    assert new[-1] in "et"
    assert not set("et") & set(new[:-1])


def test_a_beam_says_how_likely_its_text_is(call):
    code, text, said = call("--beam", "4", "--length", "15", "--prime", "to ")
    assert code == 0
    assert re.fullmatch(r"From the run hamlet\.\nIt has a log probability of -\d+\.\d{3} nats\.\n", said)
    _, texts, _ = call("--beam", "4", "--length", "15", "--prime", "to ", "--count", "2")
    found = re.findall(r"--- (\d) of 2, a log probability of (-\d+\.\d{3}) nats ---\n(to [^-]*)", texts)
    assert [number for number, _, _ in found] == ["1", "2"]
    assert float(found[0][1]) >= float(found[1][1])
    assert found[0][2] == text
    assert f"of {found[0][1]} nats" in said


def test_bytes_come_as_whole_characters(call):
    code, text, _ = call("emoji", "--length", "40", "--seed", "1", "--prime", "naïve 🙂")
    assert code == 0
    assert text.startswith("naïve 🙂")
    assert len(text.removesuffix("\n")) in (46, 47)
    assert call("emoji", "--length", "3", "--prime-file", "-", stdin=b"\xff\xfe")[1].startswith("��")


def test_bytes_that_are_no_utf8_are_written_as_they_are(folder):
    written = sample_process(folder, "latin", "--length", "60", "--temperature", "0.3", "--seed", "1")
    text = written.decode("latin-1")
    assert len(text.removesuffix("\n")) in (59, 60)
    assert "\xe9" in text
    assert set(text) <= set("caf\xe9 au lait, d\xe9j\xe0 vu\n")


def test_raw_is_the_text_and_nothing_else(folder, call):
    given = ["latin", "--length", "9", "--seed", "1", "--raw", "--prime-file", "-"]
    raw = sample_process(folder, *given, stdin=b"caf\xe9 ")
    assert len(raw) == 5 + 9
    assert raw.startswith(b"caf\xe9 ")
    assert call("--raw", "--length", "7", "--prime", "to be", "--greedy")[1] == (
        call("--length", "7", "--prime", "to be", "--greedy")[1].removesuffix("\n")
    )


def test_a_text_without_end_takes_no_memory(monkeypatch):
    class Nowhere:
        def write(self, text):
            pass

        flush = isatty = lambda self: None

    monkeypatch.setattr(sys, "stdout", Nowhere())
    tracemalloc.start()
    try:
        assert _stream((str(number) for number in range(100_000)), as_bytes=False, end="", keep=False) == ""
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50_000


def test_words_are_written_and_no_sign_for_unknown_ones_unless_asked(call, folder):
    run = train(folder, TEXT, "unknowing", level="word", steps=1)
    params, notes = checkpoint.load(run.path / BEST)
    params["head"]["b"][0] += 50  # so that it takes every word for unknown
    checkpoint.save(run.path / BEST, params, notes)
    for choosing in (["--seed", "1"], ["--greedy"], ["--top-k", "1"], ["--beam", "3"], ["--temperature", "0.1"]):
        given = ["unknowing", "--length", "1500", *choosing] if choosing[0] != "--beam" else ["unknowing", *choosing]
        given += ["--length", "30"] if choosing[0] == "--beam" else []
        code, text, _ = call(*given)
        assert (code, "<unk>" in text) == (0, False)
    assert call("unknowing", "--length", "30", "--seed", "1", "--save-state", "state")[0] == 0
    assert "<unk>" not in call("unknowing", "--length", "30", "--load-state", "state")[1]
    assert call("unknowing", "--allow-unknown", "--length", "15", "--seed", "1")[1].strip() == "<unk><unk><unk>"


@pytest.mark.parametrize(
    ("run", "prime", "begins", "note"),
    [
        ("hamlet", r"to be,\n", "to be,\n", "Note: \\n and \\t in --prime are read as a line feed and a tab."),
        ("latex1", r"\noindent", r"\noindent", None),
        ("latex1", r"to be,\n", r"to be,\n",
         "Note: \\n and \\t in --prime are read literally; in bash and zsh, $'\\n' is a line feed."),
        ("bytes", "to be,\n", "to be,\n", None),
    ],
)  # fmt: skip
def test_a_line_feed_that_was_typed_as_a_backslash_and_an_n(call, run, prime, begins, note):
    _, text, said = call(run, "--prime", prime, "--length", "3", "--greedy")
    assert text.startswith(begins)
    assert said.splitlines() == [*([note] if note else []), f"From the run {run}."]


def test_a_prime_is_decoded_as_a_text_is(call, folder):
    note = "Note: In --prime-file 'dos.txt', a byte order mark was left out and the line ends CR LF were read as LF.\n"
    folder.joinpath("dos.txt").write_bytes("\ufeffto\r\nbe\r\n".encode())
    code, text, said = call("--prime-file", "dos.txt", "--length", "3", "--greedy")
    assert (code, text[:6]) == (0, "to\nbe\n")
    assert said == f"{note}From the run hamlet.\n"
    assert call("--prime", "\ufeffto\r\nbe\n", "--length", "3", "--greedy")[1] == text
    folder.joinpath("dos.txt").write_bytes("to be".encode("utf-16-le"))
    assert call("--prime-file", "dos.txt")[2] == (
        "Error: --prime-file 'dos.txt' is UTF-16LE and not UTF-8 (it has NUL bytes); convert it: "
        "iconv -f UTF-16LE -t UTF-8 dos.txt > dos.utf-8.txt\n"
    )


def test_the_same_in_stop(call):
    _, text, said = call("--stop", r"\n", "--length", "500", "--seed", "1")
    assert text.count("\n") == 1
    assert said.startswith("Note: \\n and \\t in --stop are read as a line feed and a tab.\n")


def test_words(call):
    code, text, _ = call("words", "--length", "20", "--seed", "1", "--prime", "to be")
    assert code == 0
    assert len(text) >= 25
    assert call("words", "--prime", "to bee")[2].startswith("Error: the prime has 1 word that the model has never seen")


def test_check_latex_counts_on_standard_error(call, folder):
    train(folder, r"\begin{lemma} $a$ \end{lemma} (a) " * 40, "latex", steps=5)
    _, text, said = call(
        "latex", "--prime", r"\begin{lemma} (a) $b \end{proof}", "--unknown", "skip", "--stop", "a", "--check", "latex",
        "--seed", "0",
    )  # fmt: skip
    assert "KIND" not in text
    rows = [line.split() for line in said.splitlines() if line]
    assert rows[1] == ["KIND", "OPENED", "CLOSED", "RIGHTLY", "WRONGLY", "NEVER", "CLOSED", "UNOPENED"]
    assert rows[2][0] == "lemma"
    assert [row[0] for row in rows[2:]][-2:] == ["all", "References:"]
    assert said.splitlines()[-1] == "References: 0 to labels defined earlier, 0 to others."
    assert all(int(row[1]) == sum(map(int, row[2:5])) for row in rows[2:-1])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--prime", "a", "--prime-file", "x"],
         "--prime and --prime-file both set the beginning of the text: leave one of them out"),
        (["--prime-file", "gone.txt"], "--prime-file 'gone.txt' cannot be read: no such file or directory"),
        (["--prime-file", "latin.txt"],
         "--prime-file 'latin.txt' is not UTF-8 (0xE9 at byte offset 2); convert it from its encoding, for "
         "example: iconv -f CP1252 -t UTF-8 latin.txt > latin.utf-8.txt"),
        (["--prime-file", "/dev/zero"],
         "--prime-file '/dev/zero' is a device; give a file, or pipe its output into rnn and read it with -"),
        (["--length", "-1"], "--length is -1; it must be at least 0"),
        (["--seed", "-5"], "--seed is -5; it must be at least 0"),
        (["--count", "0"], "--count is 0; it must be at least 1"),
        (["--beam", "0"], "--beam is 0; it must be at least 1"),
        (["--stop", ""], "--stop is empty; give the text after which a sample ends"),
        (["--beam", "2", "--temperature", "1"],
         "--beam searches for the likeliest text and draws nothing: leave out --temperature"),
        (["--beam", "2", "--top-k", "3"],
         "--beam searches for the likeliest text and draws nothing: leave out --top-k"),
        (["--beam", "2", "--length", "0"], "--beam needs an end: give a --length above 0"),
        (["--beam", "2", "--count", "3"], "--beam 2 finds that many texts at most, and --count is 3"),
        (["--length", "0", "--check", "latex"], "--check needs texts with an end: give a --length above 0, or --stop"),
        (["--length", "0", "--count", "2"], "--count needs texts with an end: give a --length above 0, or --stop"),
        (["--temperature", "-1"], "--temperature is -1; it must be a finite number, at least 0"),
        (["--top-p", "2"], "--top-p is 2; it must be above 0 and at most 1"),
        (["-gpuid", "0"], "there is no --gpuid here: everything is computed on the CPU: leave it out"),
        (["hamlett"], "there is no run called 'hamlett' in {runs}. Did you mean 'hamlet'? There are "),
    ],
)  # fmt: skip
def test_mistakes_are_sentences(call, folder, args, message):
    folder.joinpath("latin.txt").write_bytes("caf\xe9".encode("latin-1")[1:])
    code, text, said = call(*args)
    assert (code, text) == (2, "")
    expected = "Error: " + message.format(runs=folder / "runs")
    assert said.startswith(expected) if message.endswith("There are ") else said == expected + "\n"


def test_no_runs_at_all(call, monkeypatch, tmp_path):
    monkeypatch.setenv("RNN_RUNS", str(tmp_path))
    assert call() == (2, "", f"Error: there are no runs in {tmp_path}: train one first, with rnn train\n")


def test_weights_that_are_no_numbers(call, folder):
    run = train(folder, TEXT, "broken", steps=1)
    params, notes = checkpoint.load(run.path / BEST)
    params["head"]["b"] = np.full_like(params["head"]["b"], np.nan)
    checkpoint.save(run.path / BEST, params, notes)
    code, _, said = call("broken", "--seed", "1")
    assert code == 2
    assert said.endswith("Error: the model's scores are NaN, so its training failed; sample another run\n")


def test_a_cell_that_has_changed_is_noted(call, folder):
    run = train(folder, TEXT, "older", steps=1)
    manifest = json.loads((run.path / MANIFEST).read_text())
    manifest["cell"]["version"] = "0.0.1"
    (run.path / MANIFEST).write_text(json.dumps(manifest))
    assert "Note: Run 'older' used the cell 'gru' of rnn-lab 0.0.1" in call("older", "--length", "3")[2]


OPTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["--temperature", "--top-p"]), st.sampled_from(["0", "0.3", "1", "1e-99", "7", "nan"])
        ),
        st.tuples(st.sampled_from(["--top-k", "--beam", "--count"]), st.sampled_from(["0", "1", "3", "200"])),
        st.tuples(st.sampled_from(["--prime", "--stop", "-primetext"]), st.text("to be\nx🙂", max_size=6)),
        st.tuples(st.just("--unknown"), st.sampled_from(["error", "skip", "replace"])),
        st.tuples(st.sampled_from(["hamlet", "bytes", "words", "emoji", "--greedy", "-sample=0"])),
        st.tuples(st.just("--check"), st.just("latex")),
    ),
    max_size=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OPTIONS)
def test_no_options_bring_a_traceback(call, options):
    code, _, said = call("--length", "3", "--seed", "1", *(word for option in options for word in option))
    assert code in (0, 2), said
    assert "bug in rnn-lab" not in said


# --- as a process ----------------------------------------------------------------------------------------------------


@contextmanager
def started(folder, *args):
    command = [sys.executable, "-c", "from rnn_cli.main import rnn; rnn()", "sample", *args]
    environment = os.environ | {"RNN_RUNS": str(folder / "runs"), "PYTHONWARNINGS": "error"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def sample_process(folder, *args, stdin=b""):
    """What ``rnn sample`` writes into a pipe."""
    command = [sys.executable, "-c", "from rnn_cli.main import rnn; rnn()", "sample", *args]
    environment = os.environ | {"RNN_RUNS": str(folder / "runs")}
    return subprocess.run(command, env=environment, input=stdin, capture_output=True, check=True).stdout


def test_a_reader_that_has_enough_ends_it_quietly(folder):
    with started(folder, "--length", "0", "--seed", "1") as process:
        assert len(process.stdout.read(100)) == 100  # of a text without end: so it streams
        process.stdout.close()
        assert process.stderr.read() == b"From the run hamlet, with --seed 1.\n"
        assert process.wait() == 1


def test_ctrl_c_ends_it_quietly(folder):
    with started(folder, "--length", "0", "--seed", "1") as process:
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        text, said = process.communicate()
        assert process.returncode == 130
        assert said == b"From the run hamlet, with --seed 1.\n"
        assert text.endswith(b"\n")


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="pipes of a known size are Linux's")
@pytest.mark.parametrize("more", [[], ["--raw"], ["--save-state"]])
def test_one_ctrl_c_ends_it_though_nobody_reads_on(folder, tmp_path, more):
    state = str(tmp_path / "state")
    words = [*more, state] if more == ["--save-state"] else more
    with started(folder, "--length", "0", "--seed", "1", *words) as process:
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        held, quiet = 0, time.monotonic()
        while held < 4096 or time.monotonic() - quiet < 0.5:  # until it is full, and the next write waits
            waiting = int.from_bytes(fcntl.ioctl(process.stdout, termios.FIONREAD, bytes(4)), sys.byteorder)
            held, quiet = waiting, quiet if waiting == held else time.monotonic()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        said = process.stderr.read().decode()
    kept = f"Interrupted at once: no state is saved in {state}.\n" if words != more else ""
    assert said == f"From the run hamlet, with --seed 1.\n{kept}"
    assert not os.path.exists(state)


def test_a_terminal_that_knows_no_utf8_gets_question_marks(folder):
    environment = {"PYTHONIOENCODING": "ascii"}
    process = subprocess.run(
        [
            sys.executable,
            "-c",
            "from rnn_cli.main import rnn; rnn()",
            "sample",
            "naive",
            "--prime",
            "ï",
            "--length",
            "5",
        ],
        env=os.environ | {"RNN_RUNS": str(folder / "runs")} | environment,
        capture_output=True,
        check=True,
    )
    assert process.stdout.startswith(b"?")


def test_help_needs_no_numpy_and_completion_finds_runs(folder):
    code = """
import sys
import termios
import time
from rnn_cli import completion
print([item.value for item in completion.runs(None, None, "h")])
print([item.type for item in completion.runs_or_files(None, None, "x")])
print([item.value for item in completion.cells(None, None, "lstm-")])
print([item.type for item in completion.cells(None, None, "./")])
import rnn_cli.sample, rnn_cli.eval, rnn_cli.cells, rnn_cli.explain
print([name for name in ("numpy", "rich", "minigrad") if name in sys.modules])
"""
    environment = os.environ | {"RNN_RUNS": str(folder / "runs")}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["['hamlet']", "['file']", "['lstm-coupled', 'lstm-peephole']", "['file']", "[]"]


def test_the_shell_is_given_the_names(folder):
    environment = {"_RNN_COMPLETE": "bash_complete", "COMP_WORDS": "rnn sample h", "COMP_CWORD": "2"}
    run = subprocess.run(
        [Path(sys.executable).with_name("rnn")],
        env=os.environ | {"RNN_RUNS": str(folder / "runs")} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "plain,hamlet\n"

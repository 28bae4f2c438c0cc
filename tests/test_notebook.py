"""What a notebook shows: training in progress, runs, reports and checks; and the notebooks of the documentation."""

import re
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from command_line import TEXT, settle
from fox_runs import SHORT
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

import rnn_lab
from rnn_lab import following
from rnn_plugins.errors import UserError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)


class Shell:
    """Stands in for the shell of a kernel, and keeps what is shown."""

    kernel, execution_count = object(), 1

    def __init__(self) -> None:
        self.shown: list[tuple[dict[str, str], str, bool]] = []
        self.display_pub = SimpleNamespace(publish=self._publish)

    def _publish(self, data: dict[str, str], *, transient: dict[str, str], update: bool) -> None:
        self.shown.append((data, transient["display_id"], update))


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    shell = Shell()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    return shell


def points(page: str) -> list[int]:
    """The number of points of each curve."""
    return [len(curve.split()) for curve in re.findall(r'class="curve" points="([^"]*)"', page)]


def recorded(run: rnn_lab.Run) -> list[int]:
    """The number of training losses of a run, and that of its held-out losses."""
    return [sum(key in record for record in run.metrics) for key in ("train_loss", "valid_loss")]


def test_training_shows_one_block_that_grows(shell, monkeypatch):
    monkeypatch.setattr(following, "BLOCK_SECONDS", 0.0)
    run = rnn_lab.train("fox.txt", name="fox", **SHORT | {"steps": 400})
    assert len({identifier for _, identifier, _ in shell.shown}) == 1
    assert [update for _, _, update in shell.shown] == [False, *[True] * (len(shell.shown) - 1)]
    pages = [data["text/html"] for data, _, _ in shell.shown]
    assert len(pages) > 3
    sizes = [sum(points(page)) for page in pages]
    assert sizes == sorted(sizes)
    assert sizes[0] == 0
    assert points(pages[-1]) == recorded(run)
    shares = [float(re.search(r'style="width:([\d.]+)%;height', page)[1]) for page in pages]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 100)
    assert all(page.count("progressbar") == 1 for page in pages)
    assert "finished" in pages[-1]
    assert "step 400 of 400" in pages[-1]
    assert shell.shown[-1][0]["text/plain"].startswith("fox: step 400 of 400, epoch ")


def test_updates_are_seldom(shell):
    started = time.monotonic()
    rnn_lab.train("fox.txt", **SHORT | {"steps": 300})
    assert len(shell.shown) <= 2 + (time.monotonic() - started) / following.BLOCK_SECONDS


def test_an_interrupt_at_any_moment_leaves_a_saved_run_and_says_so(shell, monkeypatch):
    said = (
        r"^interrupted after step 1?\d; the run '(drawing|between)' is saved: rnn_lab.train\(resume='\1'\) resumes it$"
    )
    shows = following.Block.tick
    with monkeypatch.context() as patch:

        def tick(block):
            patch.setattr(following.Block, "tick", shows)
            raise KeyboardInterrupt

        patch.setattr(following.Block, "tick", tick)
        with pytest.raises(KeyboardInterrupt, match=said):
            rnn_lab.train("fox.txt", name="drawing", **SHORT | {"steps": 100_000})

    @contextmanager
    def between(records):
        def first():
            yield next(records)
            raise KeyboardInterrupt

        with closing(records):
            yield first()

    with monkeypatch.context() as patch:
        patch.setattr(rnn_lab.api, "closing", between)
        with pytest.raises(KeyboardInterrupt, match=said):
            rnn_lab.train("fox.txt", name="between", **SHORT | {"steps": 100_000})
    for name in ("drawing", "between"):
        run = rnn_lab.load(name)
        assert run.outcome == "interrupted"
        assert not run.folder.is_locked()
        assert run.resume(steps=run.folder.notes("last.safetensors")["step"] + 2).outcome == "finished"


def test_a_resumed_run_keeps_its_losses(shell):
    run = rnn_lab.train("fox.txt", **SHORT, progress="none")
    assert shell.shown == []
    run.resume(steps=16)
    first, last = shell.shown[0][0]["text/html"], shell.shown[-1][0]["text/html"]
    assert points(first) == [4, 2]
    assert points(last) == recorded(run) > [4, 2]
    assert "Note: it resumes after step 12" in last


def test_a_run_that_diverges_is_shown_as_such(shell):
    with pytest.raises(UserError, match="Diverged"):
        rnn_lab.train("fox.txt", cell="irnn", learning_rate=1e20, grad_clip="0", schedule="constant", **SHORT)
    assert "diverged" in shell.shown[-1][0]["text/html"]


COMPARED: dict[str, Any] = {"cells": ["rnn", "gru"], "files": "fox.txt", "seeds": 2, **SHORT | {"steps": 100}}


def shares_of(pages: list[str]) -> list[float]:
    """How far each page's only bar is, in percent."""
    assert all(page.count("progressbar") == 1 for page in pages)
    return [float(re.search(r'style="width:([\d.]+)%;height', page)[1]) for page in pages]


def test_a_comparison_shows_one_bar_of_all_its_runs(shell, monkeypatch):
    monkeypatch.setattr(following, "BLOCK_SECONDS", 0.0)
    report = rnn_lab.compare(**COMPARED)
    assert len({identifier for _, identifier, _ in shell.shown}) == 1
    assert [update for _, _, update in shell.shown] == [False, *[True] * (len(shell.shown) - 1)]
    pages = [data["text/html"] for data, _, _ in shell.shown]
    shares = shares_of(pages)
    assert shares == sorted(shares)
    assert len(set(shares)) > 20
    assert (shares[0], shares[-1]) == (0, 100)
    names = ["1 of 4, rnn-fox-s1", "2 of 4, gru-fox-s1", "3 of 4, rnn-fox-s2", "4 of 4, gru-fox-s2"]
    assert list(dict.fromkeys(re.search(r"<b>(.*?)</b>", page)[1] for page in pages)) == names
    last = pages[-1]
    for name in names:
        run = rnn_lab.load(name.split()[-1])
        best = min(run.metrics, key=lambda record: record.get("valid_loss", 9))
        told = f"best held-out loss {best['valid_loss']:.3f} nats at step {best['step']}"
        assert f"{name}: finished, {told}" in last
    assert any("step 60 of 100, epoch " in page for page in pages)
    assert sum(bool(re.search(r"<span>\d+%, \d.* left</span>", page)) for page in pages) > 20
    assert "<span>finished</span>" in last
    assert shell.shown[-1][0]["text/plain"] == "4 of 4, gru-fox-s2: finished"
    assert report.pages[0].subjects == ("rnn", "gru")


def test_updates_of_a_comparison_are_seldom(shell):
    started = time.monotonic()
    rnn_lab.compare(**COMPARED)
    assert len(shell.shown) <= 5 + (time.monotonic() - started) / following.BLOCK_SECONDS


def test_an_interrupted_comparison_is_shown_as_such(shell, monkeypatch):
    show = following.WatchingBlock.show

    def interrupting(self, progress):
        show(self, progress)
        if self.number == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(following.WatchingBlock, "show", interrupting)
    with pytest.raises(KeyboardInterrupt, match=r"^interrupted; these runs were finished: rnn-fox-s1, gru-fox-s1$"):
        rnn_lab.compare(**COMPARED)
    last = shell.shown[-1][0]["text/html"]
    assert "<span>interrupted</span>" in last
    assert 50 <= shares_of([last])[0] < 60
    shell.shown.clear()
    with pytest.raises(UserError, match="there is only one cell to compare"):
        rnn_lab.compare(cells=["rnn"], files="fox.txt")
    assert shell.shown == []


class Broken(RuntimeError):
    pass


def test_an_end_by_an_error_is_no_interruption(shell, monkeypatch, capsys):
    def breaking(self, progress):
        raise Broken

    for of in (following.Block, following.WatchingBlock, following.Lines):
        monkeypatch.setattr(of, "show", breaking)
    for call in (lambda: rnn_lab.train("fox.txt", **SHORT), lambda: rnn_lab.compare(**COMPARED)):
        shell.shown.clear()
        with pytest.raises(Broken):
            call()
        last = shell.shown[-1][0]["text/html"]
        assert "<span>stopped by an error</span>" in last
        assert "interrupted" not in last
    with pytest.raises(Broken):
        rnn_lab.train("fox.txt", name="lines", progress="plain", **SHORT)
    assert capsys.readouterr().err == "lines: stopped by an error after step 1\n"


def test_a_comparison_says_what_it_made_equal(shell):
    report = rnn_lab.compare(**COMPARED)
    sizes = [rnn_lab.load(f"{cell}-fox-s1").folder for cell in ("rnn", "gru")]
    told = [
        f"{run.settings.cell}: 1 x {run.settings.hidden_size}, {run.manifest['parameters']:,} parameters"
        for run in sizes
    ]
    assert report.about == (*told, "On fox.txt, seeds 1 to 2, with as many parameters as the first")
    for data, _, _ in shell.shown:
        assert all(line in data["text/html"] for line in report.about)


def test_a_run_of_a_comparison_that_diverges_is_shown_as_such(shell):
    report = rnn_lab.compare(
        cells=["rnn", "irnn", "gru"], files="fox.txt", seeds=1, hidden_size=6, seq_length=30, batch_size=4, steps=12,
        seed=3, learning_rate=1e3, embedding_size=0,
    )  # fmt: skip
    last = shell.shown[-1][0]["text/html"]
    assert re.search(r"2 of 3, irnn-fox-s3: diverged at step \d+<br>The .*<br>3 of 3", last)
    *_, diagnosis = report.about
    assert re.fullmatch(r"irnn-fox-s3: Diverged: after step \d+ the held-out loss is nan\. The .*", diagnosis)
    assert re.search(r"The norms of the gradients before it: [^<]*", last)[0] in diagnosis


def test_a_comparison_is_told_in_lines(capfd, monkeypatch):
    rnn_lab.compare(**COMPARED)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(following, "LINE_SECONDS", 0.0)
    rnn_lab.compare(**COMPARED | {"seeds": 1, "seed": 5}, progress="plain")
    out, err = capfd.readouterr()
    assert out == ""
    ended = [line for line in err.splitlines() if "finished" in line]
    assert [line.split(":")[0] for line in ended] == ["1 of 2, rnn-fox-s5", "2 of 2, gru-fox-s5"]
    assert re.search(
        r"^1 of 2, rnn-fox-s5: step 4 of 100, epoch \d\.\d, training loss 3\.\d+ nats, .* left for all runs$", err, re.M
    )
    with pytest.raises(UserError, match="progress is 'fast'; it must be one of auto, plain, none"):
        rnn_lab.compare(**COMPARED, progress="fast")


def test_the_cell_that_trained_a_run_shows_its_losses_once(shell):
    run = rnn_lab.train("fox.txt", **SHORT)
    facts = run._repr_html_()
    assert points(facts) == []
    assert "12" in facts
    shell.execution_count += 1
    assert points(run._repr_html_()) == [4, 2]
    assert points(rnn_lab.load()._repr_html_()) == [4, 2]


def test_outside_of_a_notebook_nothing_is_shown(monkeypatch, capfd):
    for python in (None, SimpleNamespace(get_ipython=lambda: None), SimpleNamespace(get_ipython=lambda: object())):
        monkeypatch.setitem(sys.modules, "IPython", python)
        run = rnn_lab.train("fox.txt", **SHORT)
    assert capfd.readouterr() == ("", "")
    run.resume(steps=16, progress="plain")
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert all(line.startswith(f"{run.name}: ") for line in lines)
    assert lines[0] == f"{run.name}: it resumes after step 12"
    assert re.search(
        r"step 1\d of 16, epoch \d+\.\d, training loss 3\.\d+ nats, best held-out loss 3\.\d+ nats at", err
    )
    assert lines[-1] == f"{run.name}: finished after step 16"


def test_a_run_is_shown_with_its_facts_and_losses():
    run = rnn_lab.train("fox.txt", **SHORT)
    page = run._repr_html_()
    assert points(page) == [4, 2]
    loss = run.metrics[-1]["valid_loss"]
    for words in ("gru", "1x5", "finished", "loss, held out", f"{loss:.3f} nats", " bits per character"):
        assert words in page
    assert len(page) < 5000


def test_a_report_of_charts_is_shown_inline_and_another_as_its_page():
    run = rnn_lab.train("fox.txt", **SHORT)
    report = run.report("flow", lags=5, positions=20)
    page = report._repr_html_()
    assert page.count("<svg") == len(report.pages[0].figures)
    assert "<iframe" not in page
    assert report.pages[0].title in page
    assert report.pages[0].verdict[run.name][0][:20] in page
    identifiers = re.findall(r'id="([^"]*)"', page + report._repr_html_())
    assert len(identifiers) == len(set(identifiers)), "two outputs of a notebook share one document"
    Path("long.txt").write_text(TEXT * 3)
    text = run.report("neurons", text="long.txt", lags=5, positions=20)._repr_html_()
    assert text.startswith('<iframe srcdoc="&lt;!DOCTYPE html&gt;')


def test_without_matplotlib_the_numbers_are_shown(monkeypatch):
    run = rnn_lab.train("fox.txt", **SHORT)
    report = run.report("flow", lags=5, positions=20)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = report._repr_html_()
    assert "<svg" not in page
    assert "half-life" in page
    assert "pip install &#x27;rnn-lab[plot]&#x27;" in page
    assert points(run._repr_html_()) == [4, 2], "the losses need no library"
    with pytest.raises(UserError, match=r"needs the library matplotlib"):
        report.html()


def test_a_check_is_shown_as_a_table():
    check = rnn_lab.check_cell("gru")
    assert re.fullmatch(r"<GRU\(.*\) passes all \d+ checks; the largest relative error is .*>", repr(check))
    assert check._repr_html_().count("passed") == len(check.checks)

    class Broken(rnn_lab.api.Cell):
        def init_params(self, rng):
            return {"a": self.dense(rng)}

        def __call__(self, params, h, x):
            return h[:1], h

    check = rnn_lab.check_cell(Broken)
    assert (
        repr(check).splitlines()[1] == "  carry structure: the carry after a step is of shape (1, 4); expected (3, 4)>"
    )
    assert check._repr_html_().count("<b>failed</b>") == 1


# --- in a kernel ------------------------------------------------------------------------------------------------------


def outputs(client: Any, code: str, on_update: Any = None) -> list[dict[str, Any]]:
    """The messages that a notebook would show for a cell, updates included."""
    found = []

    def show(message: dict[str, Any]) -> None:
        kind = message["msg_type"]
        if kind in ("stream", "display_data", "update_display_data", "execute_result", "error"):
            found.append({"kind": kind, **message["content"]})
        if kind == "update_display_data" and on_update:
            on_update(message["content"])

    client.execute_interactive(code, output_hook=show, timeout=120, store_history=True)
    return found


def test_a_kernel_is_interrupted_and_its_run_can_be_used():
    manager, client = start_new_kernel(kernel_name="python3", cwd=".")
    try:
        asked = []

        def interrupt(content: dict[str, Any]) -> None:
            if not asked and sum(points(content["data"]["text/html"])) > 1:
                asked.append(True)
                manager.interrupt_kernel()

        assert outputs(client, "import rnn_lab") == []
        options = "hidden_size=5, seq_length=7, batch_size=3, seed=1, steps=10**9"
        shown = outputs(client, f"rnn_lab.train('fox.txt', name='fox', {options})", interrupt)
        assert [each["kind"] for each in shown].count("display_data") == 1
        assert {each["transient"]["display_id"] for each in shown if each.get("transient")} == {
            shown[0]["transient"]["display_id"]
        }
        assert shown[-1]["ename"] == "KeyboardInterrupt"
        assert "the run 'fox' is saved: rnn_lab.train(resume='fox') resumes it" in shown[-1]["evalue"]
        last = [each for each in shown if each["kind"] == "update_display_data"][-1]
        assert "interrupted" in last["data"]["text/html"]
        (used,) = outputs(client, "run = rnn_lab.load('fox'); print(run.outcome, len(run.sample(10, seed=1)))")
        assert used["text"] == "interrupted 10\n"
        (resumed, *_, result) = outputs(client, "run.resume(steps=run.metrics[-1]['step'] + 5)")
        assert resumed["kind"] == "display_data"
        assert result["kind"] == "execute_result"
        assert "svg" not in result["data"]["text/html"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_class_of_a_notebook_is_found_again_after_a_restart():
    define = (
        "from rnn_cells import Cell\nfrom minigrad import affine, concat, tanh\n"
        "class Plain(Cell):\n"
        "    def init_params(self, rng): return {'step': self.dense(rng)}\n"
        "    def __call__(self, p, h, x):\n        h = tanh(affine(p['step'], concat(h, x)))\n        return h, h\n"
    )
    train = "import rnn_lab\nrun = rnn_lab.train('fox.txt', cell=Plain, name='own', steps=3, hidden_size=5, seed=1)\n"
    use = "import rnn_lab\nprint(len(rnn_lab.load('own').sample(7, seed=1)))"
    manager, client = start_new_kernel(kernel_name="python3", cwd=".")
    try:
        assert not [each for each in outputs(client, define + train) if each["kind"] == "error"]
        manager.restart_kernel(now=True)
        client.wait_for_ready(timeout=60)
        (error,) = outputs(client, use)
        assert error["ename"] == "UserError"
        assert error["evalue"] == (
            "run 'own' uses the cell Plain, a class that was defined in Python and is not defined here: "
            "run the lines that define it, then rnn_lab.load('own') in the same session"
        )
        outputs(client, define)
        (used,) = outputs(client, use)
        assert used["text"] == "7\n"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# --- the notebooks of the documentation -------------------------------------------------------------------------------

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def kinds(output: Any) -> Any:
    """What an output is, without its content."""
    return output.get("name") or (output["output_type"], sorted(output["data"]))


def words(output: Any) -> list[str]:
    """The text of an output without its numbers, which another processor may round differently."""
    text = output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
    return re.sub(r"[\d.e+,-]+|0x[0-9a-f]+", "#", text).split()


def test_there_are_two_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["a-cell-of-ones-own", "why-gradients-vanish"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_of_the_documentation_shows_what_it_computes(path, tmp_path):
    assert path.stat().st_size < 300_000
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    for cell in stored.cells:
        for link in re.findall(r"\]\(([^)#:]+)\)", cell.source if cell.cell_type == "markdown" else ""):
            assert (FOLDER / link).exists(), link
    executed = nbformat.read(path, as_version=4)
    for cell in executed.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    NotebookClient(
        executed, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = 0
    for before, now in zip(stored.cells, executed.cells, strict=True):
        if before.cell_type != "code":
            continue
        assert before.execution_count == now.execution_count
        pairs = list(zip(joined(before.outputs), joined(now.outputs), strict=True))
        for one, other in pairs:
            assert kinds(one) == kinds(other), before.source
            assert one.get("name") != "stderr", one
            if ".sample(" not in before.source:
                assert words(one) == words(other)
            for content in one.get("data", {}).values():
                assert len(content) > 10
        shown += bool(pairs)
    assert shown >= 7


def joined(outputs: list[Any]) -> list[Any]:
    """Outputs with what is printed at once or in parts joined."""
    found: list[Any] = []
    for output in outputs:
        if found and output["output_type"] == "stream" and found[-1].get("name") == output["name"]:
            found[-1] = nbformat.from_dict({**found[-1], "text": found[-1]["text"] + output["text"]})
        else:
            found.append(output)
    return found

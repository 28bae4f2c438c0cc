"""``rnn watch``: what is told of a run, to whom, and what a browser shows of it."""

import http.client
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from browser import DESKTOP, PHONE, browser
from click.testing import CliRunner
from tiny_runs import TEXT, train

from rnn_cli.main import rnn
from rnn_lab import watching
from rnn_lab.drawing import watching as drawing
from rnn_lab.paths import BEST, METRICS
from rnn_lab.runs import Run
from rnn_lab.serving import Server
from rnn_lab.watching import Watched
from rnn_plugins.errors import UserError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RNN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("RNN_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path


def record(step: int, **more: Any) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": step / 100,
        "train_loss": 3.0 - step / 1000,
        "gradient_norm": 0.5,
        "learning_rate": 0.01,
        "units_per_second": 1000.0,
        "seconds": step / 10,
        **more,
    }


def append(run: Run, *records: dict[str, Any]) -> None:
    with open(run.path / METRICS, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def replace(run: Run, *records: dict[str, Any]) -> None:
    """Other records, as resuming a run writes them."""
    other = run.path / "other"
    other.write_text("".join(json.dumps(record) + "\n" for record in records))
    os.replace(other, run.path / METRICS)


def steps(told: dict[str, Any]) -> list[int]:
    return [record["step"] for record in told["records"]]


# What is told.


def test_a_run_is_told_of_before_it_begins_and_after_it_has_ended(folder: Path) -> None:
    watched = Watched("late")
    told = watched.told({})
    assert (told["state"], told["records"], told["samples"]) == ("absent", [], [])
    assert told["sentence"] == "There is no run called 'late' yet: what it records will be shown here."
    run = train(folder, TEXT, "late", log_every=10)
    watched.refresh()
    told = watched.told({})
    assert (told["state"], told["sentence"]) == ("finished", "It has ended: all its steps were taken.")
    assert told["about"] == f"gru, 1 x 12, {run.manifest['parameters']:,} parameters, on late.txt"
    whole = list(run.records())
    assert steps(told) == [each["step"] for each in whole]
    for mine, its in zip(told["records"], whole, strict=True):
        assert {name: its[name] for name in mine} == mine
        assert ("valid_loss" in mine) == ("valid_loss" in its)
    assert told["metrics"]["loss"] == "nats"
    assert told["unit"] == "characters"


def test_only_new_records_are_told_again(folder: Path) -> None:
    run = train(folder, TEXT, "a")
    replace(run, record(10), record(20))
    watched = Watched("a")
    told = watched.told({})
    assert steps(told) == [10, 20]
    append(run, record(30, valid_loss=2.5))
    watched.refresh()
    after = watched.told({"version": told["version"], "next": str(told["next"])})
    assert steps(after) == [30]
    assert after["records"][0]["valid_loss"] == 2.5
    assert after["version"] == told["version"]
    for question in ({}, {"version": "other", "next": "2"}, {"version": told["version"], "next": "-1"}):
        assert steps(watched.told(question)) == [10, 20, 30]


def test_records_of_a_resumed_run_are_told_from_the_beginning(folder: Path) -> None:
    run = train(folder, TEXT, "a")
    replace(run, record(10), record(20), record(30))
    watched = Watched("a")
    told = watched.told({})
    replace(run, record(10), record(15), record(16), record(17))
    watched.refresh()
    after = watched.told({"version": told["version"], "next": str(told["next"])})
    assert steps(after) == [10, 15, 16, 17]
    assert after["version"] != told["version"]


def test_damaged_and_unfinished_lines_are_not_told(folder: Path) -> None:
    run = train(folder, TEXT, "a")
    whole = json.dumps(record(20))
    (run.path / METRICS).write_text(json.dumps(record(10)) + "\n" + '{"step": "x"}\nnothing\n' + whole[:25])
    watched = Watched("a")
    assert steps(watched.told({})) == [10]
    with open(run.path / METRICS, "a") as file:
        file.write(whole[25:] + "\n")
    watched.refresh()
    assert steps(watched.told({})) == [10, 20]


def test_numbers_that_json_lacks_are_null(folder: Path) -> None:
    run = train(folder, TEXT, "a")
    flow = {"lags": [0, 1], "norms": {"h": [math.inf, 1.0]}, "half_life": 2.5, "one_percent_lag": None}
    replace(run, record(10, valid_accuracy=math.nan, flow=flow))
    told = Watched("a").told({})
    json.dumps(told, allow_nan=False)
    assert told["records"][0]["valid_accuracy"] is None
    assert told["records"][0]["half_life"] == 2.5
    assert told["flow"]["norms"] == {"h": [None, 1.0]}
    assert told["flow"]["step"] == 10


def test_of_many_records_every_validation_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MOST", 50)
    run = train(folder, TEXT, "a")
    replace(run, *(record(step, **({"valid_loss": 1.0} if step % 20 == 0 else {})) for step in range(1, 301)))
    watched = Watched("a")
    told = watched.told({})
    assert len(told["records"]) <= 50
    assert set(range(20, 301, 20)) <= set(steps(told))
    assert steps(told)[-1] == 300
    append(run, *(record(step) for step in range(301, 340)))
    watched.refresh()
    after = watched.told({"version": told["version"], "next": str(told["next"])})
    assert steps(after) == sorted(steps(after))
    assert steps(after)[-1] == 339
    assert (after["version"] == told["version"]) == (steps(after)[0] > 300)
    # Records that all have a validation are all kept.
    replace(run, *(record(step, valid_loss=1.0) for step in range(80)))
    watched.refresh()
    assert steps(watched.told({})) == list(range(80))


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        ("time", "It has ended, because its time (--max-time) was over."),
        ("interrupted", "It was interrupted; rnn train --resume a resumes it."),
        (None, "It was killed; rnn train --resume a resumes it."),
        ("by a later version", "It has ended."),
    ],
)
def test_the_state_is_said_in_a_sentence(folder: Path, outcome: str | None, sentence: str) -> None:
    run = train(folder, TEXT, "a")
    watched = Watched("a")
    run.update(outcome=outcome)
    watched.refresh()
    assert watched.told({})["sentence"] == sentence


def test_a_run_that_is_locked_is_training(folder: Path) -> None:
    run = train(folder, TEXT, "a")
    run.update(outcome=None)
    run.lock()
    watched = Watched("a")
    try:
        assert watched.told({})["sentence"] == "It is training."
    finally:
        run.release()
    watched.refresh()
    assert watched.told({})["state"] == "killed"


def test_a_run_that_cannot_be_read_says_so_and_one_that_is_gone_is_absent(folder: Path) -> None:
    run = train(folder, TEXT, "a")
    watched = Watched("a")
    (run.path / "run.json").write_text("{")
    watched.refresh()
    told = watched.told({})
    assert told["sentence"] == "The run 'a' cannot be read: its run.json is not valid JSON."
    run.path.rename(folder / "elsewhere")
    watched.refresh()
    told = watched.told({})
    assert (told["state"], told["records"]) == ("absent", [])


def test_samples_are_by_the_best_weights_and_only_while_somebody_asks(folder: Path) -> None:
    run = train(folder, TEXT, "a")
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    watched = Watched("a")
    watched.sample()
    assert watched.told({})["samples"] == []
    watched.sample()
    (sample,) = watched.told({})["samples"]
    assert sample["step"] == run.notes(BEST)["step"]
    assert 300 < len(sample["text"]) <= 400
    assert set(sample["text"]) <= set(TEXT)
    watched.sample()  # the same weights give no other
    assert watched.told({})["samples"] == [sample]
    assert before == {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}


def test_why_there_is_no_sample_is_said(folder: Path) -> None:
    run = train(folder, TEXT, "a")
    (folder / "a.txt").write_text("something else")
    watched = Watched("a")
    watched.told({})
    watched.sample()
    assert watched.told({})["no_sample"].startswith("the data of the run 'a' are not what they were: ")
    assert watched.told({})["samples"] == []
    assert run.path.is_dir()


def test_a_run_whose_task_is_not_installed_is_told_of_without_samples(folder: Path) -> None:
    run = train(folder, TEXT, "a")
    run.update(task={"task": "elsewhere", "distribution": "rnn-elsewhere", "version": "1"})
    watched = Watched("a")
    watched.told({})
    watched.sample()
    told = watched.told({})
    assert steps(told) == [record["step"] for record in run.records()]
    assert told["unit"] == "units"
    assert told["samples"] == []
    assert "rnn-elsewhere" in told["no_sample"]


# To whom.


@contextmanager
def serving(tell: Any, page: str = "<p>page</p>") -> Iterator[Server]:
    with Server(page, tell) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_only_who_knows_the_address_is_answered() -> None:
    asked = []
    with serving(lambda question: asked.append(question) or {"a": 1}) as server:
        secret = urlsplit(server.address).path
        assert len(secret) > 30
        assert server.server_address[0] == "127.0.0.1"
        status, headers, body = ask(server, secret)
        assert (status, body) == (200, b"<p>page</p>")
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Access-Control-Allow-Origin" not in headers
        assert ask(server, f"{secret}told?version=7&next=3")[2] == b'{"a": 1}'
        assert asked == [{"version": "7", "next": "3"}]
        short = [f"{secret[:-2]}/", secret[:-1], "/", "/told", "//", "/x/told", "/../../etc/passwd"]
        for path in (*short, *(secret + rest for rest in ("x", "../told", "told/", "%2e%2e/"))):
            assert ask(server, path)[0] == 404, path
        port = server.server_port
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port}.x"):
            assert ask(server, secret, Host=host)[0] == 403, host
        assert ask(server, secret, Host=f"localhost:{server.server_port}")[0] == 200
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            assert ask(server, secret, method)[0] == 501
        status, headers, body = ask(server, secret, "HEAD")
        assert (status, headers["Content-Length"], body) == (200, "11", b"")
    assert len(asked) == 1
    with Server("", dict) as one, Server("", dict) as other:
        assert urlsplit(one.address).path != urlsplit(other.address).path


def test_a_port_that_is_taken_is_refused_in_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as error:
            Server("", dict, port)
    assert str(error.value) == (
        f"--port is {port}, which cannot be used (address already in use): name another, or leave it out"
    )


# The command.


def test_the_command_serves_until_it_is_interrupted(folder: Path) -> None:
    run = train(folder, TEXT, "a")
    command = [sys.executable, "-c", "from rnn_cli.main import rnn; rnn()", "watch", "a", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        parts = urlsplit(address)
        assert parts.hostname == "127.0.0.1"
        connection = http.client.HTTPConnection("127.0.0.1", parts.port or 0, timeout=30)
        connection.request("GET", f"{parts.path}told")
        told = json.loads(connection.getresponse().read())
        assert steps(told) == [record["step"] for record in run.records()]
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == ""
    assert err.split("\n") == [
        "a: It has ended: all its steps were taken. Ctrl-C ends the page.",
        "",
        "The page is no longer served.",
        "",
    ]


def test_without_runs_and_with_a_bad_port_it_says_so(folder: Path) -> None:
    result = CliRunner().invoke(rnn, ["watch", "--no-browser"])
    assert result.exit_code == 2
    assert f"there are no runs in {folder / 'runs'}: train one first, with rnn train" in result.output
    result = CliRunner().invoke(rnn, ["watch", "--port", "70000"])
    assert result.exit_code == 2
    assert "--port is 70000; it must be from 0 (any free one) to 65535" in result.output


def test_a_browser_is_opened_only_where_it_has_a_screen(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import webbrowser

    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(time, "sleep", interrupt)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    train(folder, TEXT, "a")
    for display, more, count in (("", [], 0), (":0", ["--no-browser"], 0), (":0", [], 1)):
        monkeypatch.setenv("DISPLAY", display)
        result = CliRunner().invoke(rnn, ["watch", *more])
        assert result.exit_code == 0, result.output
        assert len(opened) == count
    assert opened == [result.stdout.strip()]


def interrupt(seconds: float) -> None:
    raise KeyboardInterrupt


# The page.


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def until(driver: Any, script: str, expected: Any) -> None:
    """Wait until a script gives what is expected."""
    end = time.monotonic() + 20
    while (found := driver.execute_script(script)) != expected:
        assert time.monotonic() < end, (script, found)
        time.sleep(0.1)


TITLES = "return [...document.querySelectorAll('h3')].map(h => h.textContent)"


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_follows_a_run(driver: Any, folder: Path, size: tuple[int, int], dark: bool) -> None:
    device = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    watched = Watched("a <b>")
    with serving(watched.told, drawing.html("a <b>")) as server:
        driver.get("about:blank")
        driver.get_log("browser")  # of the page before
        driver.get(server.address)
        state = "return document.querySelector('.state').textContent"
        until(driver, state, "There is no run called 'a <b>' yet: what it records will be shown here.")
        assert driver.execute_script("return document.querySelector('h1').textContent") == "a <b>"
        run = train(folder, TEXT, "a")
        flow = {"lags": [0, 1, 2], "norms": {"h": [1.0, 0.5, 0.2]}, "half_life": 1.0, "one_percent_lag": None}
        replace(run, record(10), record(20, valid_loss=2.75, flow=flow))
        watched.name = "a"
        watched.refresh()
        watched.sample()
        until(driver, state, "It has ended: all its steps were taken.")
        charts = ["Loss, nats", "Learning rate", "Gradient norm before clipping", "Gradient by time lag, at step 20"]
        until(driver, TITLES, [*charts, f"Step {run.notes(BEST)['step']}"])
        numbers = "return [...document.querySelectorAll('.now div')].map(d => d.innerText.replace('\\n', ': '))"
        assert driver.execute_script(numbers)[:5] == [
            "step: 20", "epoch: 0.20", "time: 2 s", "training loss: 2.98 nats", "held-out loss at step 20: 2.75 nats",
        ]  # fmt: skip
        watched.sample()  # without a change it adds nothing
        append(run, record(30, valid_loss=2.5))
        watched.refresh()
        until(driver, numbers + "[0]", "step: 30")
        curve = "return document.querySelector('.curve').getAttribute('d').split('L').length"
        assert driver.execute_script(curve) == 3
        assert driver.execute_script("return document.documentElement.scrollWidth") <= size[0]
        errors = [entry for entry in driver.get_log("browser") if "favicon" not in entry["message"]]
        assert errors == []
        # With the keys, as with the pointer, a chart shows its values.
        driver.execute_script("document.querySelector('figure svg').focus()")
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.keys import Keys

        ActionChains(driver).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT).perform()
        tip = driver.execute_script("return document.querySelector('.tip').innerText")
        assert tip.split("\n") == ["step 30", "training: 2.97", "held-out: 2.5"]
        # They stay when the chart is drawn anew.
        append(run, record(40, learning_rate=1e-7))
        watched.refresh()
        until(driver, numbers + "[0]", "step: 40")
        assert driver.execute_script("return document.querySelector('.tip').innerText.split('\\n')[0]") == "step 30"
        ActionChains(driver).send_keys(Keys.ARROW_RIGHT).perform()
        tip = driver.execute_script("return document.querySelector('.tip').innerText")
        assert tip.split("\n")[:2] == ["step 40", "training: 2.96"]
        # A learning rate that falls to nothing looks as its schedule is drawn: on a linear scale.
        assert (
            driver.execute_script("return document.querySelector('[data-key=rate]').innerText").count("logarithmic")
            == 0
        )
    until(driver, state, "rnn watch has ended, or does not answer: what is below is the last that it told.")


def test_without_scripts_the_page_names_another_command(driver: Any) -> None:
    text = drawing.html("gru-book")
    assert "rnn runs show gru-book says where the run stands" in text
    assert "connect-src 'self'; script-src 'sha256-" in text
    assert "http:" not in text.replace('"http://www.w3.org/2000/svg"', "")

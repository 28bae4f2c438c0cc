"""The page of ``rnn report``, made by the command, as a browser shows it; and what the lecture promises of cells."""

import json

import pytest
from browser import DESKTOP, PHONE, browser, check_page
from click.testing import CliRunner

from rnn_cli.main import rnn
from rnn_lab.reporting import kinds

FOUR = ["--cell", "rnn", "--cell", "irnn", "--cell", "lstm", "--cell", "gru"]


def report(*arguments, **environment):
    result = CliRunner().invoke(rnn, ["report", *arguments], env=environment)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A page of the default report on four cells, and one of all reports on two, with the data of both."""
    folder = tmp_path_factory.mktemp("page")
    small = ["--hidden-size", "12", "--lags", "20", "--positions", "60"]
    for name, what in (("four", FOUR), ("all", [*FOUR[-4:], "--all", "--characters", "3000"])):
        files = ["--html", str(folder / f"{name}.html"), "--json", str(folder / f"{name}.json")]
        report(*what, *small, *files, RNN_LAB_CACHE=str(folder / "cache"))
    return folder


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", ["four", "all"])
def test_every_plot_has_its_marks(driver, folder, name, size):
    pages = json.loads((folder / f"{name}.json").read_text())["reports"]
    figures = [figure for page in pages.values() for figure in page["figures"]]
    keys, picture = [figure["key"] for figure in figures], folder / f"{name}.png"
    shown = check_page(driver, folder / f"{name}.html", keys, size, dark=size == PHONE, screenshot=picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    for figure, seen in zip(figures, shown, strict=True):
        if figure["type"] == "chart":
            assert len(seen["curves"]) == len(figure["curves"])
    assert list(pages) == (["flow"] if name == "four" else list(kinds(True)))


def test_small_weights_vanish_large_ones_explode_and_an_open_forget_gate_holds(tmp_path):
    cells = ["rnn:recurrent_scale=0.5", "rnn:recurrent_scale=1.6", "lstm:forget_bias=6"]
    arguments = [word for cell in cells for word in ("--cell", cell)]
    sizes = ["--hidden-size", "64", "--embedding-size", "0", "--positions", "200"]
    out = report(*arguments, *sizes, "--json", "-", RNN_LAB_CACHE=str(tmp_path))
    verdict = json.loads(out)["reports"]["flow"]["verdict"]
    assert [verdict[cell][0].split(":")[0] for cell in cells] == ["Vanishes", "Explodes", "Holds"]


def test_the_heat_map_shows_that_a_basic_network_forgets_and_an_lstm_does_not(tmp_path):
    """Far from the diagonal the one has the darkest character throughout, and the other none of the dark ones."""
    cells = ["rnn:recurrent_scale=0.7", "lstm:forget_bias=3"]
    arguments = [word for cell in cells for word in ("--cell", cell)]
    sizes = ["--hidden-size", "64", "--embedding-size", "0"]
    out = report(*arguments, *sizes, "--kind", "heatmap", RNN_LAB_CACHE=str(tmp_path))
    forgets, holds = (part.splitlines() for part in out.split("loss: at predicting, step t\n")[1:])
    far = [
        {line.partition("│")[2][column] for line in part[14:24] for column in range(12)} for part in (forgets, holds)
    ]
    assert far[0] == {"."}
    assert not far[1] & set(".:-=")
    scales = [next(line.split() for line in part if "norm, nats" in line) for part in (forgets, holds)]
    assert scales[0] == scales[1]

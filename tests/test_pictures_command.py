"""``rnn sample`` and ``rnn predict`` of a task with pictures: files, terminal, Python, and every message."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import spots_task
from click.testing import CliRunner
from PIL import Image
from tiny_runs import TEXT, train

import rnn_lab
from rnn_cli import outputs
from rnn_cli.main import rnn
from rnn_lab import predicting
from rnn_plugins.errors import UserError
from rnn_plugins.testing import check_task

SMALL = {"hidden_size": 4, "steps": 40, "learning_rate": 0.05, "seed": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "spots.py").write_text(Path(spots_task.__file__).read_text())
    train(folder, TEXT, "hamlet", steps=2)
    (folder / "Italian.txt").write_text("Rossi\nRusso\nFerrari\nEsposito\nBianchi\nRomano\nColombo\nRicci\nMarino\n")
    (folder / "Russian.txt").write_text("Ivanov\nSmirnov\nPopov\nPetrov\nSokolov\nLebedev\nKozlov\nNovikov\nMorozov\n")
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(folder / "in.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RNN_RUNS", "runs")
        rnn_lab.train(["Italian.txt", "Russian.txt"], task="classify", name="names", **SMALL)
        rnn_lab.train(task="./spots.py:Still", name="still", **SMALL)
        rnn_lab.train(task="./spots.py:Spots", name="coloured", task_option={"colour": "true"}, **SMALL)
        rnn_lab.train(task="./spots.py:Spots", name="spots", **SMALL)
    return folder


@pytest.fixture(autouse=True)
def home(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RNN_RUNS", "runs")
    for file in (*Path().glob("*.gif"), *Path().glob("out*.png"), *Path().glob("*.html")):
        file.unlink()


def call(*args):
    result = CliRunner().invoke(rnn, args)
    return result.exit_code, result.stdout, result.stderr


def refused(*args):
    code, out, said = call(*args)
    assert (code, out) == (2, "")
    return said.removeprefix("Error: ").strip()


def test_the_task_of_these_tests_is_a_right_one():
    check_task(spots_task.Spots(), ["builtin:spots"]).raise_if_failed()


# Sampling


def test_a_few_pictures_are_printed_with_their_steps():
    code, out, said = call("sample", "spots", "--seed", "1", "--count", "2")
    assert (code, said) == (0, "From the run spots, with --seed 1.\n")
    lines = out.splitlines()
    assert lines.count("Picture 1") == lines.count("Picture 2") == 1
    assert (
        sum(line.split("step") == ["", " 1            ", " 2            ", " 3            ", " 4"] for line in lines)
        == 2
    )
    assert out == call("sample", "spots", "--seed", "1", "--count", "2")[1]
    assert out != call("sample", "spots", "--seed", "2", "--count", "2")[1]


def test_training_says_how_to_paint():
    code, _, said = call("train", "--task", "./spots.py:Spots", "--steps", "2", "--hidden-size", "4", "--name", "new")
    assert code == 0
    assert "Sample from it: rnn sample new --png new.png\n" in said


def test_many_pictures_are_printed_on_a_sheet():
    code, out, _ = call("sample", "spots", "--seed", "1", "--count", str(outputs.IN_TERMINAL + 1))
    assert code == 0
    assert "Picture" not in out
    assert "step" not in out
    assert max(map(len, out.splitlines())) > 2 * 16


def test_pictures_are_written_to_files():
    code, _, said = call("sample", "spots", "--seed", "1", "--count", "5", "--png", "out.png", "--gif", "out.gif")
    assert (code, said) == (0, "From the run spots, with --seed 1.\nWritten: out.png\nWritten: out.gif\n")
    sheet = np.array(Image.open("out.png").convert("L")).astype(int)
    records = list(rnn_lab.load("spots").generate(count=5, seed=1))
    assert sheet.shape == (2 * 160 + 4, 3 * 160 + 2 * 4)
    for i, record in enumerate(records):
        top, left = 164 * (i // 3), 164 * (i % 3)
        assert np.array_equal(sheet[top + 10 : top + 160 : 20, left + 10 : left + 160 : 20], record["pixels"])
    with Image.open("out.gif") as moving:
        assert moving.n_frames == 4
        moving.seek(1)
        canvas = np.array(moving.convert("L")).astype(int)[8:128:16, 8:128:16]
    assert abs(canvas - records[0]["canvases"][1])[5:].max() <= 4  # below the frame


def test_coloured_pictures():
    code, _, _ = call("sample", "coloured", "--seed", "1", "--png", "out.png", "--gif", "out.gif")
    assert code == 0
    (record,) = rnn_lab.load("coloured").generate(seed=1)
    assert record["pixels"].shape == (8, 8, 3)
    with Image.open("out.png") as image:
        pixels = np.array(image)[-225::30, 15:240:30]
    assert np.array_equal(pixels, record["pixels"])


def test_a_sheet_has_a_largest_size(monkeypatch):
    monkeypatch.setattr(predicting, "ON_SHEET", 4)
    code, _, said = call("sample", "spots", "--seed", "1", "--count", "6", "--png", "out.png")
    assert code == 0
    assert said.endswith("Written: out.png\nNote: The files show the first 4 of 6 pictures.\n")
    with Image.open("out.png") as image:
        assert image.size == (484, 484)


def test_pictures_without_steps_have_no_animation():
    code, _, said = call("sample", "still", "--seed", "1", "--png", "out.png", "--gif", "out.gif")
    assert code == 0
    assert said.endswith("Written: out.png\nNote: The pictures are painted in one step: out.gif is not written.\n")
    assert not Path("out.gif").exists()


def test_what_sample_refuses():
    assert refused("sample", "spots", "in.png") == (
        "spots is a run of the task ./spots.py:Spots, which takes no INPUT: leave out in.png"
    )
    for option in ("png", "gif"):
        assert refused("sample", "hamlet", f"--{option}", f"out.{option}") == (
            f"--{option} is for runs that draw pictures, and hamlet is a run of the task language-model, which draws "
            "none: leave it out"
        )
        assert refused("sample", "spots", f"--{option}", "out.jpg") == (
            f"--{option} is 'out.jpg'; its name must end in .{option}"
        )
        assert refused("sample", "spots", f"--{option}", "-") == f"--{option} is '-'; name a file"
        assert refused("sample", "spots", f"--{option}", f"nowhere/out.{option}") == (
            f"--{option} is 'nowhere/out.{option}', and there is no folder 'nowhere': make it first"
        )
    assert refused("sample", "spots", "--prime", "a") == (
        "--prime is for runs that continue a text, and spots is a run of the task ./spots.py:Spots: leave it out"
    )


def test_without_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    for command, option in (("sample", "png"), ("sample", "gif"), ("predict", "png")):
        assert refused(command, "spots", f"--{option}", f"out.{option}") == (
            f"--{option} needs the library Pillow: pip install 'rnn-lab[images]'"
        )
    assert call("sample", "spots", "--seed", "1")[0] == 0  # the terminal needs none


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    assert refused("sample", "spots", "--png", "out.png") == (
        "--png is 'out.png', which cannot be written: no space left on device; name another file"
    )


# Predicting


def test_a_prediction_is_drawn():
    code, out, said = call("predict", "spots", "in.png", "--png", "out.png")
    assert (code, said) == (0, "Written: out.png\n")
    assert out.startswith("in.png\t")
    assert out.count("\n") == 1  # no figure
    (record,) = rnn_lab.load("spots").predict("in.png")
    with Image.open("out.png") as image:
        pixels = np.array(image.convert("RGB"))
    assert pixels.shape[1] == 2 * 240 + 4
    assert (pixels[24 + 15 : 24 + 240 : 30, 15:240:30] == 200).all()
    again = pixels[24 + 15 : 24 + 240 : 30, 244 + 15 : 244 + 240 : 30, 0]
    assert np.array_equal(again[6:], record["pixels"][6:])


def test_a_page_has_the_pictures_and_the_records_only_if_asked():
    code, out, _ = call("predict", "spots", "in.png", "--html", "out.html", "--json")
    assert code == 0
    record = json.loads(out)
    assert set(record) == {"input", "pixels"}
    assert np.shape(record["pixels"]) == (8, 8)
    page = Path("out.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "1. Painted again: in.png" in page
    code, out, _ = call("predict", "spots", "in.png", "--json", "--explain")
    assert [figure["type"] for figure in json.loads(out)["figures"]] == ["picture"]


def test_explain_prints_the_pictures():
    code, out, _ = call("predict", "spots", "in.png", "--explain")
    assert code == 0
    lines = out.splitlines()
    assert "Painted again: in.png" in lines
    assert lines[-2].split() == ["given", "again"]


def test_the_first_pictures_are_made_and_drawn(monkeypatch):
    monkeypatch.setattr(predicting, "EXPLAINED", 2)
    inputs = ["in.png"] * 3
    code, out, said = call("predict", "spots", *inputs, "--png", "out.png", "--html", "out.html")
    assert code == 0
    assert out.count("\n") == 3
    assert said == "Written: out.png\nNote: It shows the first 2 of 3 inputs.\nWritten: out.html\n"
    page = Path("out.html").read_text()
    assert "The first 2 are shown." in page
    assert "2. Painted again: in.png" in page
    assert "3. Painted again: in.png" not in page
    answer = predicting.predictor(rnn_lab.load("spots").folder, pictured=True)
    given = predicting.inputs_of(rnn_lab.load("spots").folder, map(Path, inputs))
    assert [len(found.figures) for found in predicting.Answers(given, answer, 1)] == [1, 1, 0]


def test_a_page_of_pictures_needs_no_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert call("predict", "spots", "in.png", "--html", "out.html")[0] == 0
    assert call("predict", "names", "Rossi", "--html", "out.html")[0] == 0
    assert refused("predict", "names", "Rossi", "--html", "out.html", "--explain") == (
        "--html needs the library matplotlib: pip install 'rnn-lab[plot]'"
    )


def test_what_predict_refuses():
    assert refused("predict", "names", "Italian.txt", "--png", "out.png") == (
        "--png is for runs that draw pictures, and names is a run of the task classify, which draws none: leave it out"
    )
    assert refused("predict", "spots", "in.png", "--png", "out.gif") == "--png is 'out.gif'; its name must end in .png"
    Image.fromarray(np.zeros((5, 8), np.uint8)).save("other.png")
    assert refused("predict", "spots", "other.png", "--png", "out.png") == (
        "'other.png' has images of 5x8; expected 8x8 (height x width), as the network was trained on: scale them, "
        "or set --task-option image_size=8"
    )
    assert not Path("out.png").exists()


# Python


def test_records_have_arrays():
    run = rnn_lab.load("spots")
    first, second = run.generate(count=2, seed=3)
    assert set(first) == {"pixels", "canvases"}
    assert first["canvases"].shape == (4, 8, 8)
    assert first["canvases"].dtype == np.uint8
    assert np.array_equal(first["canvases"][-1], first["pixels"])
    assert not np.array_equal(first["pixels"], second["pixels"])
    (record,) = run.predict("in.png", explain=True)
    assert isinstance(record["pixels"], np.ndarray)
    assert record["figures"][0]["title"] == "Painted again: in.png"
    json.dumps(record["figures"])


def test_inputs_where_none_are_taken():
    with pytest.raises(UserError) as caught:
        rnn_lab.load("spots").generate("in.png")
    assert str(caught.value) == (
        "spots is a run of the task ./spots.py:Spots, which draws its outputs without inputs: leave them out"
    )
    with pytest.raises(UserError) as caught:
        rnn_lab.load("names").generate()
    assert "names is a run of the task classify, which draws no output" in str(caught.value)


def test_a_picture_is_a_png_file_for_anyone():
    (record,) = rnn_lab.load("spots").generate(seed=3)
    buffer = io.BytesIO()
    Image.fromarray(record["pixels"]).save(buffer, "PNG")
    assert np.array_equal(np.array(Image.open(buffer)), record["pixels"])

"""Captions of images: files, the network, what it writes, and its scores."""

import json
import os
import re
from functools import cache
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import rnn_lab
from minigrad import value_and_grad
from minigrad.optimizers import adam
from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM
from rnn_cli.main import rnn
from rnn_plugins.data.images import Named, unit
from rnn_plugins.data.scenes import COLOURS, held_out, scenes
from rnn_plugins.errors import UserError
from rnn_plugins.language.sampling import Choice
from rnn_plugins.tasks.caption.scores import groups_of, nearest_images
from rnn_plugins.tasks.caption.task import Caption
from rnn_plugins.tasks.caption.vision import Convolutions, patches
from rnn_plugins.tasks.decoding import END, UNKNOWN
from rnn_plugins.tasks.task import Network
from rnn_plugins.testing import check_task

ATTENTIONS = ("none", "bahdanau", "luong")

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
WORDS = ["a red dog", "a dog", "two red cats", "a cat", "a red cat", "two dogs"]


def network(cell=GRU, hidden_size=8):
    return Network(lambda width: cell(width, hidden_size), hidden_size)


def write_table(path, rows):
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Six images and their captions, in order, in three groups and two parts."""
    np.savez(tmp_path / "images.npz", images=PIXELS)
    rows = [(part, caption, group) for part, caption, group in zip("tttvtv", WORDS, "xxyxyz", strict=True)]
    parts = {"t": "train", "v": "val"}
    header = ("split", "caption", "group")
    table = write_table(tmp_path / "captions.tsv", [header, *((parts[p], c, g) for p, c, g in rows)])
    return [str(tmp_path / "images.npz"), table]


def refused(task, files, **options):
    with pytest.raises(UserError) as caught:
        task.read(files, **options)
    return str(caught.value)


# The protocol


@pytest.mark.parametrize(("cell", "attention"), [*((GRU, attention) for attention in ATTENTIONS), (LSTM, "luong")])
def test_the_task_passes_its_check(cell, attention):
    task = Caption(attention=attention, convolutions=2, filters=2)
    check_task(task, ["builtin:scenes:100"], cell=lambda width: cell(width, 6)).raise_if_failed()


def test_the_task_passes_its_check_on_files_with_unknown_words(files):
    check_task(Caption(max_words=3, filters=2, convolutions=2, valid_fraction=0.3), files).raise_if_failed()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"filters": 0}, "filters is 0; it must be at least 1"),
        ({"convolutions": 0}, "convolutions is 0; it must be at least 1"),
        ({"beam": 0}, "beam is 0; it must be at least 1"),
        ({"image_size": -1}, "image_size is -1; it must be at least 0"),
        ({"valid_fraction": 1.0}, "valid_fraction is 1; it must be at least 0 and below 1"),
    ],
)
def test_options_out_of_range(option, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Caption(**option)


# Files


def test_row_n_is_the_caption_of_image_n(files):
    data = Caption(valid_fraction=0).read(files)
    assert [example.caption for example in data.train] == WORDS
    assert all(np.array_equal(example.pixels, pixels) for example, pixels in zip(data.train, PIXELS, strict=True))
    assert data.facts["shape"] == [8, 8, 3]
    assert data.facts["longest"] == 4
    assert data.about == "6 images of 8x8, 6 captions; a vocabulary of 9 words"
    assert Caption(valid_fraction=0).read(files[::-1]).digest != ""


def test_a_column_says_which_part_is_held_out(files):
    data = Caption(split_column="split").read(files)
    assert [example.caption for example in data.valid] == ["a cat", "two dogs"]
    assert [example.image for example in data.train] == [
        "images.npz[0]",
        "images.npz[1]",
        "images.npz[2]",
        "images.npz[4]",
    ]
    evaluated = Caption(split_column="split").read(files, data.facts, purpose="evaluate")
    assert [example.caption for example in evaluated.valid] == ["a cat", "two dogs"]
    assert evaluated.notices[0] == "of 6 captions, the 2 of the part 'valid' are evaluated"
    assert evaluated.digest != data.digest  # or rnn eval would say that they are what the run was trained on
    assert Caption().read(files, data.facts, purpose="evaluate").digest == Caption().read(files).digest
    assert len(Caption(split_column="split", valid_fraction=0).read(files).valid) == 0
    assert refused(Caption(split_column="parts"), files) == (
        "a table of captions has no column 'parts'; leave out split_column"
    )


def test_what_is_said_of_a_test_part(files, tmp_path):
    rows = [("part", "caption"), *zip(["train", "dev", "test", "test", "train", "train"], WORDS, strict=True)]
    files[1] = write_table(tmp_path / "parts.tsv", rows)
    task = Caption(split_column="part")
    data = task.read(files)
    assert data.notices[0] == "the 2 captions of the part 'test' are left out"
    assert [e.caption for e in task.read(files, data.facts, purpose="evaluate").valid] == ["two red cats", "a cat"]
    rows[2] = ("other", "a dog")
    write_table(tmp_path / "parts.tsv", rows)
    assert refused(task, files) == (f"{files[1]}, line 3: the column 'part' is 'other'; expected train, valid or test")


def test_images_of_two_files_with_the_same_names_are_different_images(tmp_path):
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "images.npz", images=PIXELS)
        files += [str(tmp_path / folder / "images.npz"), write_table(tmp_path / folder / "captions.tsv", [["x"]] * 6)]
    examples = Caption(valid_fraction=0).read(files).train
    assert len({example.image for example in examples}) == 12
    assert examples[6].image == f"{files[2]}: images.npz[0]"
    twice = Caption(valid_fraction=0).read([*files[:2], *files[:2]]).train
    assert len({example.image for example in twice}) == 6


def test_images_of_files_with_other_ranges_of_pixels(tmp_path):
    files = []
    for name, pixels in (("a", PIXELS), ("b", PIXELS / 255), ("c", PIXELS.astype(np.int32) // 16)):
        np.savez(tmp_path / f"{name}.npz", images=pixels)
        files += [str(tmp_path / f"{name}.npz"), write_table(tmp_path / f"{name}.tsv", [["x"]] * 6)]
    for some in (files[:4], files[2:4] + files[:2]):
        data = Caption(valid_fraction=0).read(some)
        assert data.facts["white"] == 255
        first, second = (np.stack([unit(e.pixels) for e in part]) for part in (data.train[:6], data.train[6:]))
        assert np.allclose(first, second, atol=1e-6)
        assert Caption(valid_fraction=0).read(some, data.facts, purpose="again").digest == data.digest
    assert refused(Caption(), [*files[:2], *files[4:]]) == (
        f"{files[4]!r} has pixels from 0 to 16, and {files[0]!r} from 0 to 255: give files with one range"
    )


def test_a_folder_of_pictures_is_captioned_picture_by_picture(tmp_path):
    folder = pictures(tmp_path / "pictures")
    table = write_table(tmp_path / "captions.tsv", [("image", "caption"), ("0.png", "one"), ("1.png", "two")])
    facts = Caption(valid_fraction=0).read([str(folder), table]).facts
    (folder / "1.png").write_bytes(b"none")
    given = Caption().inputs(str(folder), facts)
    first = next(given)
    assert first.name == "0.png"
    assert np.array_equal(first.pixels, PIXELS[0])
    with pytest.raises(UserError, match="cannot be read as a picture"):
        next(given)


def test_images_are_found_by_their_names(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS[:3], names=["x", "y", "z"])
    table = write_table(tmp_path / "a.tsv", [("image", "caption"), ("z", "last"), ("x", "first"), ("z", "again")])
    data = Caption(valid_fraction=0).read([str(tmp_path / "a.npz"), table])
    assert [(e.image, e.caption) for e in data.train] == [("z", "last"), ("x", "first"), ("z", "again")]
    assert np.array_equal(data.train[1].pixels, PIXELS[0])
    write_table(tmp_path / "a.tsv", [("image", "caption"), ("z", "last"), ("w", "first")])
    assert refused(Caption(), [str(tmp_path / "a.npz"), table]).startswith(
        f"{table}, line 3: {str(tmp_path / 'a.npz')!r} has no image 'w'."
    )
    write_table(tmp_path / "a.tsv", [("image", "caption"), ("", "first"), ("z", "last"), ("x", "more")])
    assert refused(Caption(), [str(tmp_path / "a.npz"), table]).startswith(
        f"{table}, line 2: {str(tmp_path / 'a.npz')!r} has no image ''."
    )


def pictures(folder, count=3):
    folder.mkdir(exist_ok=True)
    for i in range(count):
        Image.fromarray(PIXELS[i]).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("how", ["both", "folder", "table", "outside"])
def test_a_folder_of_pictures_and_a_table(tmp_path, how):
    folder = pictures(tmp_path / "pictures")
    rows = [("image", "caption"), ("2.png", "two"), ("0.png", "none"), ("2.png", "a pair")]
    table = write_table((tmp_path if how == "outside" else folder) / "captions.tsv", rows)
    for hidden in ("._1.png", "._captions.tsv"):
        (folder / hidden).write_bytes(b"\0\1")
    given = {"both": [str(folder), table], "folder": [str(folder)], "table": [table], "outside": [table, str(folder)]}
    data = Caption(valid_fraction=0).read(given[how])
    assert [(e.image, e.caption) for e in data.train] == [("2.png", "two"), ("0.png", "none"), ("2.png", "a pair")]
    assert np.array_equal(data.train[0].pixels, PIXELS[2])
    assert f"1 picture in the folder {str(folder)!r} has no caption" in data.notices


def test_a_table_without_a_header_numbers_the_captions_of_a_picture(tmp_path):
    """The form of Flickr8k's file of captions."""
    folder = pictures(tmp_path / "pictures", 2)
    rows = [("0.png#0", "one"), ("0.png#1", "another"), ("1.png#0", "third")]
    data = Caption(valid_fraction=0).read([str(folder), write_table(tmp_path / "token.tsv", rows)])
    assert [(e.image, e.caption) for e in data.train] == [("0.png", "one"), ("0.png", "another"), ("1.png", "third")]


def test_captions_of_one_image_are_in_one_part(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS, names=list("abcdef"))
    rows = [("image", "caption"), *((name, f"{name} {i}") for i in range(3) for name in "abcdef")]
    data = Caption(valid_fraction=0.5).read([str(tmp_path / "a.npz"), write_table(tmp_path / "a.tsv", rows)])
    train, valid = ({e.image for e in part} for part in (data.train, data.valid))
    assert len(train) == len(valid) == 3
    assert not train & valid
    assert len(data.train) == 9


def test_pictures_of_other_sizes_and_grey_ones(tmp_path):
    folder = pictures(tmp_path / "pictures", 2)
    Image.fromarray(PIXELS[2][:, :, 0]).save(folder / "grey.png")
    rows = [("image", "caption"), ("0.png", "one"), ("grey.png", "grey"), ("1.png", "two")]
    table = write_table(folder / "captions.tsv", rows)
    data = Caption(valid_fraction=0).read([table])
    assert np.array_equal(data.train[1].pixels, np.dstack([PIXELS[2][:, :, 0]] * 3))
    Image.fromarray(PIXELS[1][:6]).save(folder / "1.png")
    assert refused(Caption(), [table]) == (
        "'1.png' is 6x8 and '0.png' 8x8 (height x width); expected one size: scale them, or set --task-option "
        "image_size=64"
    )
    assert Caption(image_size=4, valid_fraction=0).read([table]).facts["shape"] == [4, 4, 3]
    facts = data.facts | {"shape": [16, 16, 3]}
    assert refused(Caption(), [table], facts=facts, purpose="evaluate") == (
        "'0.png' has images of 8x8; expected 16x16 (height x width), as the network was trained on: scale them, or set "
        "--task-option image_size=16"
    )


def test_mistakes_in_files(files, tmp_path):
    images, table = files
    assert refused(Caption(), []) == "there are no images: name FILES of images and of captions, or builtin:scenes"
    assert refused(Caption(), [images]) == (
        f"{images!r} has no captions; name the table of captions too, such as captions.tsv"
    )
    write_table(Path(table), [("caption",), *((c,) for c in WORDS[:5])])
    assert refused(Caption(), files) == (
        f"{table!r} has 5 rows and {images!r} 6 images; without a column 'image', row n is the caption of image n, so "
        "expected 6 rows"
    )
    write_table(Path(table), [("caption",), *((c,) for c in WORDS[:5]), (" \t",)])
    assert "line 7" in refused(Caption(), files)
    write_table(Path(table), [("n", "caption"), *((0, c) for c in WORDS[:5]), (0, "")])
    assert refused(Caption(), files) == f"{table}, line 7: the caption is empty; expected one for each image"
    write_table(Path(table), [("image", "caption"), ("x.png", "a dog")])
    assert refused(Caption(), [table]) == (
        f"{table}, line 2: there is no picture 'x.png' in the folder {str(tmp_path)!r}"
    )
    write_table(Path(table), [("image", "text"), ("x.png", "a dog")])
    assert refused(Caption(), [table]) == (
        f"{table}, line 1: there is no picture 'image' in the folder {str(tmp_path)!r}; if this is the header, name "
        "its columns with --task-option caption_column=NAME"
    )
    write_table(Path(table), [("file", "text"), ("x.png", "a dog")])
    assert refused(Caption(), [table]).endswith(
        "name its columns with --task-option image_column=NAME and --task-option caption_column=NAME"
    )
    write_table(Path(table), [("image", "caption"), ("x.png", "a dog")])
    assert refused(Caption(caption_column="captoin"), [table]).startswith(
        f"{table}, line 1: there is no column 'captoin'. Did you mean 'caption'?"
    )
    (tmp_path / "empty").mkdir()
    assert refused(Caption(), [str(tmp_path / "empty")]) == (
        f"name the table of captions of the folder {str(tmp_path / 'empty')!r}; in it, there is none"
    )
    assert refused(Caption(), ["builtin:latex"]) == "there are no captions in 'builtin:latex'; there is builtin:scenes"


def test_unknown_words_are_said_and_have_no_loss(files):
    task = Caption(split_column="split")
    data = task.read(files)
    assert data.notices == ("25.0 % of the words in held-out captions are not in the vocabulary",)  # "dogs"
    assert data.valid[1].ids.tolist().count(UNKNOWN) == 1
    assert task.count(data.valid) == 3 + 2
    batch = task.pack(data.valid)
    assert batch.weight == 5
    model = task.model(data.facts, network())
    params = model.init_params(np.random.default_rng(0))
    metrics = task.evaluate(model, params, data.valid)
    first, context = model.begin(params, batch.inputs[0])
    losses, _ = model.decoder.scored(params["decoder"], first, context, batch.targets)
    known = [
        losses[t, b] for t in range(3) for b in range(2) if t < batch.inputs[1][b] and batch.targets[t, b] != UNKNOWN
    ]
    assert len(known) == 5
    assert metrics["loss"] == pytest.approx(np.mean(known), rel=1e-6)


# Generated scenes


def test_held_out_pairs_are_in_no_training_scene():
    never = held_out(3)
    assert len(never) == 118  # a tenth of 48 * 49 / 2
    for unseen in (False, True):
        for scene in scenes(300, 3, unseen=unseen):
            kinds = re.findall(r"(\w+) (circle|square|triangle|diamond|cross|ring)", scene.caption)
            assert (frozenset(kinds) in never and len(kinds) == 2) == unseen
    assert not {s.caption for s in scenes(300, 3)} & {s.caption for s in scenes(300, 3, unseen=True)}


def test_a_caption_says_what_the_pixels_show():
    """Relation and size of two shapes, found again from the pixels nearest to each colour."""
    checked = 0
    for scene in scenes(200, 1):
        words = re.fullmatch(
            r"an? (?:(small) )?(\w+) \w+ (left of|right of|above|below) an? (?:(large) )?(\w+) \w+", scene.caption
        )
        if not words or words[2] == words[5]:
            continue
        found = []
        for colour in (words[2], words[5]):
            far = np.abs(scene.pixels.astype(int) - COLOURS[colour]).max(axis=2)
            rows, columns = np.nonzero(far < 45)
            found.append((columns.mean(), rows.mean(), len(rows)))
        (x, y, area), (other_x, other_y, _) = found
        ahead = {"left of": other_x - x, "right of": x - other_x, "above": other_y - y, "below": y - other_y}
        assert max(ahead, key=ahead.get) == words[3], scene.caption
        if words[1]:
            assert area < 45
        checked += 1
    assert checked > 80


def test_scenes_are_a_function_of_the_seed():
    a, b, c = (list(scenes(3, seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(x.pixels, y.pixels) and x.caption == y.caption for x, y in zip(a, b, strict=True))
    assert [x.caption for x in a] != [x.caption for x in c]
    data = Caption().read(["builtin:scenes:50:1"])
    assert [(e.image, e.caption) for e in data.train[:2]] == [("train[0]", a[0].caption), ("train[1]", a[1].caption)]
    assert [len(data.train), len(data.valid)] == [50, 5]


@pytest.mark.parametrize(
    "name", ["builtin:scenes:x", "builtin:scenes:1:2:3", "builtin:scenes:-1", "builtin:scenes:12345678"]
)
def test_scenes_that_are_not_understood(name):
    assert refused(Caption(), [name]) == (
        f"{name!r} is not understood; it takes builtin:scenes, builtin:scenes:COUNT or builtin:scenes:COUNT:SEED, such "
        "as builtin:scenes:20000"
    )


def test_too_many_scenes():
    assert refused(Caption(), ["builtin:scenes:0"]) == "'builtin:scenes:0' asks for 0 pictures; expected 1 to 200,000"


# The network


@pytest.mark.parametrize("shape", [(1, 1, 2), (4, 4, 1), (5, 6, 3), (7, 3, 2)])
def test_convolutions_are_those_of_a_loop(shape):
    rng = np.random.default_rng(0)
    vision = Convolutions(shape, (3, 2), "float64")
    params = vision.init_params(rng)
    images = rng.normal(size=(2, *shape))
    x = images
    for layer in ("0", "1"):
        W = params[layer]["W"].reshape(3, 3, x.shape[3], -1)
        height, width = x.shape[1:3]
        y = np.zeros((2, -(-height // 2), -(-width // 2), W.shape[3]))
        for i in range(0, height, 2):
            for j in range(0, width, 2):
                for di in range(3):
                    for dj in range(3):
                        if 0 <= i + di - 1 < height and 0 <= j + dj - 1 < width:
                            y[:, i // 2, j // 2] += x[:, i + di - 1, j + dj - 1] @ W[di, dj]
        x = np.maximum(y + params[layer]["b"], 0)
    np.testing.assert_allclose(vision(params, images), x, atol=1e-12)
    assert x.shape == (2, *vision.grid, vision.width)


def test_convolutions_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    x, W = np.random.default_rng(0).normal(size=(2, 9, 10, 3)), np.random.default_rng(1).normal(size=(3, 3, 3, 4))
    wanted = torch.nn.functional.conv2d(
        torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(W).permute(3, 2, 0, 1), stride=2, padding=1
    )
    np.testing.assert_allclose(patches(x) @ W.reshape(27, 4), wanted.permute(0, 2, 3, 1).numpy(), atol=1e-12)


def test_images_are_shifted_in_training_and_nowhere_else():
    task = Caption(shift=2)
    data = task.read(["builtin:scenes:8"])
    plain, batch, again = Caption().batch(data, 3, 8), task.batch(data, 3, 8), task.batch(data, 3, 8)
    assert np.array_equal(batch.inputs[0], again.inputs[0])
    assert np.array_equal(batch.targets, plain.targets)
    found = []
    for before, after in zip(plain.inputs[0], batch.inputs[0], strict=True):
        wide = np.pad(before, ((2, 2), (2, 2), (0, 0)), mode="edge")
        offsets = [(i, j) for i in range(5) for j in range(5) if np.array_equal(wide[i : i + 32, j : j + 32], after)]
        assert len(offsets) == 1
        found += offsets
    assert len(set(found)) > 4
    assert np.array_equal(task.pack(data.train).inputs[0], Caption().pack(data.train).inputs[0])


@cache
def trained(attention):
    """A network that knows four scenes by heart."""
    task = Caption(attention=attention, filters=16)
    data = task.read(["builtin:scenes:4"])
    model = task.model(data.facts, network(GRU, 32))
    params, rule, batch = model.init_params(np.random.default_rng(0)), adam(), task.pack(data.train)
    state, gradient = rule.init(params), value_and_grad(lambda params: model.loss(params, (), batch, None)[0])
    for _ in range(150):
        params, state = rule.update(gradient(params)[1], state, params, 0.01)
    return task, data, model, params


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_network_learns_captions(attention):
    task, data, model, params = trained(attention)
    pixels = [example.pixels for example in data.train]
    said = list(task.predict(model, params, data.facts, pixels))
    assert [prediction.text for prediction in said] == [f"image {i}\t{one.caption}" for i, one in enumerate(data.train)]
    assert said[3].record["input"] == "image 3"
    assert task.evaluate(model, params, data.train)["token_accuracy"] == 1
    drawn = task.generate(model, params, data.facts, pixels[:2], Choice(temperature=0.01), np.random.default_rng(0))
    assert [prediction.text for prediction in drawn] == [example.caption for example in data.train[:2]]
    assert list(task.predict(model, params, data.facts, [])) == []


@pytest.fixture
def known():
    return trained("luong")


def test_alternatives_are_in_order_of_their_probability(known):
    task, data, model, params = known
    picture = Named("x.png", data.train[0].pixels)
    (said,) = task.predict(model, params, data.facts, [picture], top=3)
    likely = [other["log_probability"] for other in said.record["alternatives"]]
    assert len(likely) == 3
    assert likely == sorted(likely, reverse=True)
    assert said.record["input"] == "x.png"
    assert said.record["caption"] == said.record["alternatives"][0]["caption"]
    batch = task.pack([data.train[0]])
    loss, _ = model.loss(params, (), batch, None)  # of the caption and its end; <unk> is possible there
    assert likely[0] == pytest.approx(-float(loss) * batch.weight, rel=0.05)


def test_attention_is_shown_for_each_symbol(known):
    task, data, model, params = known
    (said,) = task.predict(model, params, data.facts, [data.train[0].pixels], explain=True)
    (image,) = said.figures
    words = [*data.train[0].caption.split(), "<end>"]
    assert [tick for tick in image.x_ticks if tick] == words
    assert image.values.shape == (4, 5 * len(words) - 1)
    np.testing.assert_allclose(np.nansum(image.values, axis=0).reshape(-1)[:4].sum(), 1, rtol=1e-5)
    assert np.isnan(image.values[:, 4]).all()


def test_without_attention_patches_are_covered():
    task, data, model, params = trained("none")
    (said,) = task.predict(model, params, data.facts, [data.train[0].pixels], explain=True)
    (image,) = said.figures
    ids = np.append(task_ids(data, str(said.record["caption"])), END)
    pixels = data.train[0].pixels.astype(np.float32) / 255
    before = log_probabilities(model, params, pixels, ids)
    pixels[8:16, 24:32] = 0.5
    fallen = before - log_probabilities(model, params, pixels, ids)
    np.testing.assert_allclose(image.values[1, 3::5], fallen, atol=1e-4)


def task_ids(data, text):
    symbols = data.facts["tokens"]["symbols"]
    return np.array([symbols.index(" " + word) for word in text.split()])


def log_probabilities(model, params, pixels, ids):
    first, context = model.begin(params, pixels[None])
    losses, _ = model.decoder.scored(params["decoder"], first, context, ids[:, None])
    return -losses[:, 0]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_probe_has_the_losses_of_the_model(attention):
    task = Caption(attention=attention, convolutions=3, filters=4)
    data = task.read(["builtin:scenes:40"])
    model = task.model(data.facts, network())
    params = model.init_params(np.random.default_rng(0))
    examples = [example for example in data.train if len(example.ids) == 9][:5]
    probe = task.probe(model, params, examples, data.facts)
    ends = [end for end in probe.ends(9) if end in {8, 17, 26, 35, 44}]
    assert len(ends) == 5
    carry, xs = probe.window(np.array(ends), 9)
    _, outputs = probe.cell.unroll(probe.params, carry, xs)
    losses = probe.loss(outputs, probe.targets(np.array(ends), 9))
    loss, _ = model.loss(params, (), task.pack(examples), None)
    assert float(np.mean(np.asarray(losses))) == pytest.approx(float(loss), rel=1e-5)
    assert probe.labels(ends[0], 9).targets == (*examples[0].caption.split(), "<end>")
    assert bool(probe.notices) == (attention != "none")


# Scores


def test_scores_beside_baselines_and_groups(files):
    task = Caption(split_column="split", convolutions=2, filters=2)
    data = task.read(files)
    model = task.model(data.facts, network())
    params = model.init_params(np.random.default_rng(0))
    assessment = task.assess(model, params, data, name="run", training=data.train)
    assert [score.name for score in assessment.scores] == ["run", "the commonest caption", "the nearest image"]
    nearest = nearest_images([example.pixels for example in data.valid], data.train)
    distances = [[np.square(a.pixels / 255.0 - b.pixels / 255.0).sum() for b in data.train] for a in data.valid]
    assert nearest == np.argmin(distances, axis=1).tolist()
    wanted = np.mean([data.train[i].group == e.group for i, e in zip(nearest, data.valid, strict=True)])
    assert assessment.scores[2].metrics["group_accuracy"] == wanted
    assert assessment.scores[1].metrics["exact"] == 0
    assert {figure.key for figure in assessment.figures} == {"classes", "confusion"}
    assert task.assess(model, params, data, name="run").scores[1:] == ()
    assert task.contains(data.train, data.train[:1])
    assert not task.contains(data.train, [data.train[0], data.valid[0]])
    without = [example._replace(group="") for example in data.train]
    assessment = task.assess(model, params, data, name="run", training=without)
    assert "group_accuracy" not in assessment.metrics
    assert assessment.figures == ()


def test_the_group_of_a_written_caption_is_that_of_the_most_similar_training_caption():
    known = [("red dog", "x"), ("red cat", "y"), ("red cat", "y"), ("blue car", "z")]
    training = [SimpleNamespace(caption=caption, group=group) for caption, group in known]
    assert groups_of(["a blue car", "red", "dog", ""], training, str) == ["z", "y", "x", "y"]


@given(
    st.lists(st.tuples(st.text("abc ", max_size=8), st.sampled_from("xyz")), min_size=1, max_size=12),
    st.lists(st.text("abcd ", max_size=8), max_size=6),
)
def test_groups_are_those_of_comparing_all_captions(known, texts):
    def plain(text):
        words = set(text.split())
        sets = [set(caption.split()) for caption, _ in known]
        alike = [2 * len(words & others) / max(len(words) + len(others), 1) for others in sets]
        nearest = [group for (_, group), one in zip(known, alike, strict=True) if one == max(alike)]
        return max(dict.fromkeys(nearest), key=nearest.count)  # of equally common ones the first

    training = [SimpleNamespace(caption=caption, group=group) for caption, group in known]
    assert groups_of(texts, training, str) == list(map(plain, texts))


def test_a_caption_is_compared_with_those_alone_that_have_a_word_of_it(monkeypatch):
    captions = [f"word{i}" for i in range(300)]
    training = [SimpleNamespace(caption=caption, group=f"group of {caption}") for caption in captions]
    concatenate, compared = np.concatenate, []
    monkeypatch.setattr(np, "concatenate", lambda parts: compared.extend(parts) or concatenate(parts))
    assert groups_of(captions, training, str) == [f"group of {caption}" for caption in captions]
    assert sum(map(len, compared)) == 300


data_folder = os.environ.get("RNN_LAB_DATA")


@pytest.mark.skipif(not data_folder, reason="RNN_LAB_DATA names no folder with real data")
def test_emoji():
    folder = Path(str(data_folder)) / "emoji"
    files = [str(folder / "images_32x32_rgb.npz"), str(folder / "captions.tsv")]
    for column, caption in (("caption_en", "grinning face"), ("caption_ru", "широко улыбается")):
        data = Caption(caption_column=column, split_column="split").read(files)
        assert (len(data.train), len(data.valid)) == (1083, 134)
        assert data.train[0].caption == caption
        assert {e.group for e in chain(data.train, data.valid)} > {"flags", "objects"}


# The commands


def test_from_training_to_prediction(files, tmp_path, monkeypatch):
    monkeypatch.setenv("RNN_RUNS", str(tmp_path / "runs"))
    arguments = ["--cell", "lstm", "--hidden-size", "8", "--steps", "3", "--seed", "0", "--name", "few"]
    options = ["--task-option", "filters=2", "--task-option", "attention=luong", "--task-option", "split_column=split"]

    def run(*words):
        result = CliRunner().invoke(rnn, words)
        assert result.exit_code == 0, result.output
        return result.stdout

    run("train", "--task", "caption", *files, *arguments, *options)
    Image.fromarray(PIXELS[1]).save(tmp_path / "one.png")
    (line,) = run("predict", "few", str(tmp_path / "one.png"), "--json").splitlines()
    record = json.loads(line)
    assert record["input"] == "one.png"
    every = [json.loads(line) for line in run("predict", "few", files[0], "--json").splitlines()]
    assert every[1]["caption"] == record["caption"]
    (from_python,) = rnn_lab.load("few").predict([PIXELS[1]])
    assert from_python["caption"] == record["caption"]
    assert from_python["log_probability"] == pytest.approx(record["log_probability"])
    with pytest.raises(UserError, match="image 0 has images of 4x4; expected 8x8"):
        list(rnn_lab.load("few").predict([PIXELS[1][:4, :4]]))
    assert "columns of patches" in run("predict", "few", str(tmp_path / "one.png"), "--explain")
    assert len(run("sample", "few", str(tmp_path / "one.png"), "--count", "3", "--seed", "0").splitlines()) == 3
    scores = run("eval", "few")
    assert "the nearest image" in scores
    assert "GROUP" in scores
    assert "the commonest caption" in run("eval", "few", *files)
    assert "nats" in run("report", "few", "--kind", "flow", "--lags", "2", "--positions", "2")

"""The task tag: files, networks against outside oracles, masks, baselines, predictions, messages."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import settle, train, trained

from minigrad import trees, value_and_grad
from rnn_cells import GRU, LSTM, RNN, Stacked
from rnn_cells.ablated import Ablated
from rnn_cli.main import rnn
from rnn_lab import load
from rnn_plugins.data import tagged
from rnn_plugins.data.tagged import Encoder
from rnn_plugins.errors import UserError
from rnn_plugins.tasks.tag.model import UNKNOWN, pack
from rnn_plugins.tasks.tag.task import Tag
from rnn_plugins.tasks.task import Network
from rnn_plugins.testing import check_task

WORDS = {"a": "D", "the": "D", "cat": "N", "dogs": "N", "see": "V", "sleeps": "V", "red": "A", "small": "A", "!": "P"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    settle(tmp_path, monkeypatch)
    rng = np.random.default_rng(0)
    write("words.tsv", [[(w, WORDS[w]) for w in rng.choice([*WORDS], rng.integers(2, 8))] for _ in range(60)])
    for name, length in (("one", 30), ("two", 41), ("three", 25)):
        recording(name, rng.normal(3, 2, length).cumsum(), rng)
    return tmp_path


def write(name, sentences):
    text = "\n\n".join("\n".join("\t".join(row) for row in sentence) for sentence in sentences)
    Path(name).write_text(text + "\n", encoding="utf-8")
    return name


def recording(name, x, rng):
    """Frames with a column of noise; a label says whether the other column rises by more than 3."""
    labels = ["up" if step > 3 else "down" for step in np.diff(x, prepend=x[0])]
    columns = zip(x, rng.normal(size=len(x)), labels, strict=True)
    rows = [f"{t * 33},{a},{b},{label}" for t, (a, b, label) in enumerate(columns)]
    Path(f"{name}.csv").write_text("timestamp,x,noise,label\n" + "\n".join(rows) + "\n")


FRAMES = ("one.csv", "two.csv", "three.csv")


def network(cell=GRU, hidden=6, **options):
    return Network(lambda width: cell(width, hidden), hidden, **options)


def built(task, files=("words.tsv",), cell=GRU, **options):
    data = task.read(files)
    model = task.model(data.facts, task.resolve(data.facts, network(cell, **options)))
    return data, model, model.init_params(np.random.default_rng(1))


def message(call, *arguments, **options):
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    return str(caught.value)


# --- the contract of tasks --------------------------------------------------------------------------------------------

KINDS = {
    "words": (Tag(), ("words.tsv",)),
    "one direction": (Tag(directions=1), ("words.tsv",)),
    "characters": (Tag(characters=3), ("words.tsv",)),
    "attention": (Tag(attention="luong", weighted=True), ("words.tsv",)),
    "few words": (Tag(max_words=4, lower=True, seq_length=3), ("words.tsv",)),
    "frames": (Tag(seq_length=7), FRAMES),
    "features": (Tag(differences=True, scale="recording", valid_fraction=0.4), FRAMES),
    "whole frames": (Tag(valid_fraction=0.4, weighted=True), FRAMES),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_task_keeps_the_contract(kind):
    task, files = KINDS[kind]
    check_task(task, files).raise_if_failed()


def test_pretrained_vectors_keep_the_contract():
    vectors()
    check_task(Tag(embedding="vectors.txt"), ["words.tsv"]).raise_if_failed()
    check_task(Tag(embedding="vectors.txt", freeze=True), ["words.tsv"]).raise_if_failed()


# --- reading ----------------------------------------------------------------------------------------------------------


def test_the_vocabulary_and_the_labels_are_of_the_training_part():
    write("few.tsv", [[(f"w{i}", "X" if i else "Y"), ("and", "Z")] for i in range(10)])
    data = Tag(valid_fraction=0.3).read(["few.tsv"])
    encoder = Encoder(data.facts)
    assert encoder.labels == ["X", "Y", "Z"]
    assert encoder.words.symbols[:2] == ("<unk>", "and")
    assert len(encoder.words) == 2 + 7
    assert data.facts["seen_once"] == 2
    assert data.facts["counts"] == [sum(e.tags.tolist().count(i) for e in data.train) for i in range(3)]
    assert all(example.xs[0] == UNKNOWN for example in data.valid)
    assert data.about == "10 sentences with 20 tokens and 3 labels"


def test_words_after_the_limit_and_other_case_are_read_as_told():
    data = Tag(max_words=3, lower=True, valid_fraction=0, characters=2).read(
        [write("a.tsv", [[("The", "D"), ("the", "D"), ("cat", "N"), ("Cat", "N"), ("one", "X"), ("uno", "X")]])]
    )
    encoder = Encoder(data.facts)
    assert encoder.words.symbols == ("<unk>", "cat", "the", "one")
    assert data.facts["seen_once"] == 3
    assert encoder.sentence(["THE", "uno"]).xs.tolist() == [2, UNKNOWN]
    assert encoder.letters.symbols[0] == "<unk>"
    big, small = encoder.sentence(["The", "the"]).spelling
    assert big.tolist() != small.tolist()


def test_frames_are_standardised_by_the_training_part():
    data = Tag(valid_fraction=0.3).read(FRAMES)
    assert (len(data.train), len(data.valid)) == (2, 1)
    frames = np.concatenate([example.xs for example in data.train])
    np.testing.assert_allclose(frames.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(frames.std(0), 1)
    assert data.facts["columns"] == ["x", "noise"]
    assert data.notices == ("the column of times is left out",)
    raw = np.genfromtxt("two.csv", delimiter=",", skip_header=1)[:, 1:3]
    other = Tag().read(["two.csv"], data.facts, purpose="evaluate").valid[0].xs
    np.testing.assert_allclose(other * data.facts["deviation"] + data.facts["mean"], raw)


def test_frames_are_read_with_differences_and_by_recording():
    task = Tag(differences=True, scale="recording", valid_fraction=0)
    data = task.read(FRAMES)
    raw = np.genfromtxt("two.csv", delimiter=",", skip_header=1)[:, 1:3]
    both = np.hstack([raw, np.vstack([[0, 0], raw[1:] - raw[:-1]])])
    expected = (both - both.mean(0)) / both.std(0)
    np.testing.assert_allclose(data.train[1].xs, expected, atol=1e-9)  # the training part's mean is then 0 too
    assert Encoder(data.facts).features == ["x", "noise", "change of x", "change of noise"]
    _, model, params = built(task, FRAMES)
    (found,) = task.predict(model, params, data.facts, [raw * 100 + 7], explain=True)
    (same,) = task.predict(model, params, data.facts, [raw])
    np.testing.assert_allclose(found.record["probabilities"], same.record["probabilities"], rtol=1e-4)
    assert found.figures[0].y_ticks == ("x", "noise", "change of x", "change of noise")
    data = Tag(differences=True, valid_fraction=0).read(FRAMES)
    assert data.facts["mean"][2] == pytest.approx(
        np.concatenate([np.diff(x, prepend=x[0]) for x in (column(name) for name in FRAMES)]).mean()
    )


def column(name):
    return np.genfromtxt(name, delimiter=",", skip_header=1)[:, 1]


def test_a_column_that_never_changes_is_0():
    Path("still.csv").write_text("x,y,label\n1,5,a\n2,5,b\n3,5,a\n")
    example = Tag(valid_fraction=0).read(["still.csv"]).train[0]
    assert example.xs[:, 1].tolist() == [0, 0, 0]


def test_long_training_sequences_are_cut_and_held_out_ones_are_not():
    data = Tag(seq_length=7, valid_fraction=0.3).read(FRAMES)
    whole = Tag(valid_fraction=0.3).read(FRAMES)
    assert max(len(example.tags) for example in data.train) == 7
    np.testing.assert_array_equal(
        np.concatenate([e.xs for e in data.train]), np.concatenate([e.xs for e in whole.train])
    )
    assert [len(e.tags) for e in data.valid] == [len(e.tags) for e in whole.valid]


def test_weights_are_inverse_to_frequencies_with_a_mean_of_1():
    write("a.tsv", [[("x", "often")] * 6 + [("y", "seldom")] * 2])
    example = Tag(weighted=True, valid_fraction=0).read(["a.tsv"]).train[0]
    np.testing.assert_allclose(example.weights, [8 / 12] * 6 + [8 / 4] * 2, rtol=1e-6)
    assert example.weights.mean() == pytest.approx(1)
    assert Tag(valid_fraction=0).read(["a.tsv"]).train[0].weights.tolist() == [1] * 8


def test_other_columns():
    write("a.conllu", [[(str(i), w, w, t, *"______") for i, (w, t) in enumerate(WORDS.items(), 1)]])
    assert Tag().read(["a.conllu"]).facts["labels"] == sorted(set(WORDS.values()))
    write("b.tsv", [[(t, w) for w, t in WORDS.items()]])
    data = Tag(text_column="2", label_column="1").read(["b.tsv"])
    assert data.facts["labels"] == sorted(set(WORDS.values()))
    assert data.train[0].tokens == tuple(WORDS)
    Path("c.csv").write_text("t,x,phase\n1,2,a\n2,4,b\n")
    data = Tag(label_column="phase", time_column="t").read(["c.csv"])
    assert data.facts["columns"] == ["x"]
    assert Tag(label_column="phase", time_column="none").read(["c.csv"]).facts["columns"] == ["t", "x"]


def test_messages_on_files():
    read = Tag().read
    assert message(read, []) == (
        "there is nothing to read: name files with a token and its tag per line, or CSV of frames"
    )
    assert message(read, ["words.tsv", "one.csv"]) == (
        "words.tsv has tokens, and one.csv has frames: give files of one kind"
    )
    write("same.tsv", [[("a", "X"), ("b", "X")]])
    assert message(read, ["same.tsv"]) == "same.tsv: every label is 'X'; expected two labels at least"
    facts = read(["words.tsv"]).facts
    write("new.tsv", [[("a", "D"), ("b", "DD")]])
    assert message(read, ["new.tsv"], facts, purpose="evaluate") == (
        "new.tsv, line 2: the label 'DD' is not in the training data, which have A, D, N, P and V. Did you mean 'D'?"
    )
    Path("other.csv").write_text("x,y,label\n1,2,up\n2,1,down\n")
    facts = read(FRAMES).facts
    assert message(read, ["other.csv"], facts, purpose="evaluate") == (
        "other.csv lacks noise and also has y; expected the columns x and noise, as in the training data"
    )
    Path("other.csv").write_text("noise,x,label\n1,2,up\n2,1,down\n")
    assert message(read, ["one.csv", "other.csv"]) == (
        "other.csv has the columns in another order; expected the columns x and noise, as in the training data"
    )
    assert message(Tag(text_column="word").read, ["words.tsv"]) == (
        "text_column is 'word'; columns of tokens and tags are numbered from 1, or from -1 backwards"
    )
    assert read(["one.csv"]).notices[0] == "1 recording cannot be divided"
    write("rare.tsv", [[("a", "X"), ("b", "Y")], [("a", "Z")]])
    assert message(Tag(valid_fraction=0.5).read, ["rare.tsv"]) == (
        "rare.tsv, line 1: only the held-out part has the label 'X'; expected it in the training part too: hold out "
        "another share, with --valid-fraction, or give --valid FILE"
    )
    assert Tag(valid_fraction=0).read(["rare.tsv"]).facts["labels"] == ["X", "Y", "Z"]


def test_options_out_of_range():
    for options, expected in (
        ({"characters": -1}, "characters is -1; it must be at least 0"),
        ({"word_dropout": 1.0}, "word_dropout is 1; it must be at least 0 and below 1"),
        ({"valid_fraction": -0.5}, "valid_fraction is -0.5; it must be at least 0 and below 1"),
        ({"freeze": True}, "freeze needs pretrained vectors: give embedding their file"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
            Tag(**options)


# --- the network ------------------------------------------------------------------------------------------------------


def torch_rnn(torch, cell, params):
    """PyTorch's network of two directions with the weights of ours."""
    theirs = torch.nn.RNN(cell.input_size, cell.forward.hidden_size, bidirectional=True, dtype=torch.float64)
    with torch.no_grad():
        for direction, suffix in (("forward", "l0"), ("backward", "l0_reverse")):
            own = params[direction]
            getattr(theirs, f"weight_ih_{suffix}").copy_(torch.tensor(own["U"].T))
            getattr(theirs, f"weight_hh_{suffix}").copy_(torch.tensor(own["W"].T))
            getattr(theirs, f"bias_ih_{suffix}").copy_(torch.tensor(own["b"]))
            getattr(theirs, f"bias_hh_{suffix}").zero_()
    return theirs


def test_scores_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    task = Tag(characters=3)
    data, model, params = built(task, cell=RNN, dtype="float64")
    params = trees.map(lambda leaf: leaf + np.random.default_rng(2).normal(0, 0.1, leaf.shape), params)
    examples = data.train[:7]
    with torch.no_grad():
        main = torch_rnn(torch, model.cell, params["cell"])
        letters = torch_rnn(torch, model.speller.cell, params["speller"]["cell"])
        for example, ours in zip(examples, task.scores(model, params, examples), strict=True):
            spelt = []
            for ids in example.spelling:  # word by word, without padding
                _, last = letters(torch.tensor(params["speller"]["symbols"][ids])[:, None])
                spelt.append(torch.cat([last[0, 0], last[1, 0]]))
            words = torch.tensor(params["words"][example.xs])
            ys, _ = main(torch.cat([words, torch.stack(spelt)], 1)[:, None])
            expected = ys[:, 0].numpy() @ params["head"]["W"] + params["head"]["b"]
            np.testing.assert_allclose(ours, expected, atol=1e-10)


def test_attention_is_luongs_over_the_other_steps():
    task = Tag(attention="luong")
    data, model, params = built(task, dtype="float64")
    examples = sorted(data.train, key=lambda example: len(example.tags))[:: len(data.train) // 4]
    examples.append(Encoder(data.facts).sentence(["cat"]))
    inputs = pack(examples).inputs
    ys = np.asarray(model.states(params, model.see(params, inputs), inputs.lengths))
    heard, weights = map(np.asarray, model.attended(params, ys, inputs.lengths))
    for b, length in enumerate(inputs.lengths.tolist()):
        for t in range(length):
            others = [s for s in range(length) if s != t]
            scores = np.array([ys[t, b] @ params["attention"]["score"] @ ys[s, b] for s in others])
            shares = np.exp(scores) / np.exp(scores).sum()
            np.testing.assert_allclose(weights[b, t, others], shares, atol=1e-12)
            assert weights[b, t, t] == weights[b, t, length:].sum() == 0
            read = sum((a * ys[s, b] for a, s in zip(shares, others, strict=True)), np.zeros(ys.shape[-1]))
            combine = params["attention"]["combine"]
            expected = np.tanh(np.concatenate([read, ys[t, b]]) @ combine["W"] + combine["b"])
            np.testing.assert_allclose(heard[t, b], expected, atol=1e-12)


def test_the_loss_is_the_weighted_mean_over_tokens():
    task = Tag(weighted=True, valid_fraction=0)
    data, model, params = built(task, dtype="float64")
    batch = task.pack(data.train[:9])
    total = weight = 0.0
    for example, scores in zip(data.train[:9], task.scores(model, params, data.train[:9]), strict=True):
        for row, tag, w in zip(scores, example.tags, example.weights, strict=True):
            total += w * (np.log(np.exp(row).sum()) - row[tag])
            weight += w
    assert batch.weight == pytest.approx(weight)
    assert float(model.loss(params, (), batch, None)[0]) == pytest.approx(total / weight)
    assert task.evaluate(model, params, data.train[:9])["loss"] == pytest.approx(total / weight)


def test_only_words_seen_once_are_dropped():
    rng = np.random.default_rng(0)
    write("a.tsv", [[("often", "X"), (f"w{i}", "Y")] for i in range(400)])
    task = Tag(valid_fraction=0, word_dropout=0.3)
    data, model, params = built(task, ["a.tsv"])
    inputs = pack(data.train).inputs
    ids = model.see(params, inputs, rng).indices
    assert (ids[0] == inputs.xs[0]).all()
    assert 0.2 < (ids[1] == UNKNOWN).mean() < 0.4
    assert (ids[1] == inputs.xs[1])[ids[1] != UNKNOWN].all()
    assert (model.see(params, inputs).indices == inputs.xs).all()


def test_each_distinct_word_of_a_batch_is_spelt_once():
    encoder = Encoder(Tag(characters=2).read(["words.tsv"]).facts)
    spelling = pack([encoder.sentence(["cat", "see", "cat"]), encoder.sentence(["a", "cat"])]).inputs.spelling
    assert spelling.lengths.tolist() == [3, 3, 1]
    assert spelling.letters.shape == (3, 3)
    assert spelling.which.tolist() == [[0, 2], [1, 0], [0, 0]]


def test_of_a_long_word_both_ends_are_read():
    encoder = Encoder(Tag(characters=2).read(["words.tsv"]).facts)
    (long,) = encoder.sentence(["cat" + "a" * 500 + "red"]).spelling
    assert len(long) == tagged.LONGEST_WORD
    (short,) = encoder.sentence(["cat" + "a" * (tagged.LONGEST_WORD - 6) + "red"]).spelling
    assert long.tolist() == short.tolist()


def test_the_encoder_of_characters_is_a_cell_of_the_same_kind():
    facts = Tag(characters=3).read(["words.tsv"]).facts

    def speller(make_cell):
        return Tag(characters=3).model(facts, Network(make_cell, 6, 4)).speller.cell

    assert speller(lambda n: LSTM(n, 6, forget_bias=2.0)).forward == LSTM(32, 3, forget_bias=2.0)
    assert speller(lambda n: Stacked([GRU(n, 6), GRU(6, 6)])).backward == GRU(32, 3)
    assert speller(lambda n: Ablated(RNN(n, 6), ((1, None),))).forward == Ablated(RNN(32, 3), ((1, None),))


def test_sizes_that_do_not_suit():
    task = Tag()
    assert message(built, task, FRAMES, embedding_size=4) == (
        "--embedding-size is 4, but the inputs are frames of numbers: leave it out"
    )
    write("many.tsv", [[(f"w{i}", "XY"[i % 2])] for i in range(2048)])
    assert message(built, Tag(valid_fraction=0), ["many.tsv"], embedding_size=0) == (
        "--embedding-size is 0, so 2,049 words would be one-hot vectors, which are for at most 2,048: give a width, "
        "such as 128, or set max_words"
    )
    _, model, params = built(Tag(valid_fraction=0, max_words=50), ["many.tsv"], embedding_size=0)
    assert model.cell.input_size == 51
    assert "words" not in params


def vectors():
    rows = {"the": 1.0, "cat": 2.0, "sleeps": 3.0}
    Path("vectors.txt").write_text("".join(f"{word} {x} {-x} {x * x} 0.5\n" for word, x in rows.items()))


def test_pretrained_vectors_are_where_an_embedding_begins():
    vectors()
    task = Tag(embedding="vectors.txt")
    data, model, params = built(task)
    assert data.notices == ("vectors.txt has vectors of 3 of the 9 words",)
    began = model.pretrained(params)["words"]
    symbols = Encoder(data.facts).words.symbols
    assert began.shape == (10, 4)
    assert began.dtype == np.float32
    assert began[symbols.index("cat")].tolist() == [2.0, -2.0, 4.0, 0.5]
    others = began[[symbols.index(word) for word in symbols if word not in ("the", "cat", "sleeps")]]
    known = began[[symbols.index(word) for word in ("the", "cat", "sleeps")]]
    assert others.std() == pytest.approx(known.std(), rel=0.4)
    assert model.frozen() == ()
    task = replace(task, freeze=True)
    _, model, params = built(task)
    params = model.pretrained(params)
    assert not params["words"][symbols.index("red")].any()
    assert model.frozen() == ("words",)
    _, gradient = value_and_grad(model.loss, has_aux=True)(params, (), task.pack(data.train), None)
    assert not gradient["words"].any()
    assert message(built, task, embedding_size=5) == (
        "--embedding-size is 5, and the vectors of 'vectors.txt' have 4 numbers: leave it out"
    )
    Path("vectors.txt").unlink()  # the run has the vectors
    assert task.model(data.facts, network(embedding_size=4)).init_params(np.random.default_rng(0))


# --- metrics and baselines --------------------------------------------------------------------------------------------


def test_baselines_by_hand():
    write("train.tsv", [[("run", "V"), ("run", "N"), ("run", "V"), ("cat", "N")], [("a", "D"), ("b", "V")]])
    write("valid.tsv", [[("run", "N"), ("cat", "N"), ("dog", "V"), ("a", "D")]])
    task = Tag(valid_fraction=0)
    data, model, params = built(task, ["train.tsv"])
    other = task.read(["valid.tsv"], data.facts, purpose="evaluate")
    found = task.assess(model, params, other, name="mine", training=data.train)
    assert [(score.name, score.kind) for score in found.scores] == [
        ("mine", "model"),
        ("the commonest label, V", "baseline"),
        ("the commonest label of each word", "baseline"),
    ]
    assert [score.metrics["accuracy"] for score in found.scores[1:]] == [0.25, 0.75]
    assert found.scores[1].metrics["loss"] is None
    assert (found.count, found.unit) == (4, "tokens")
    assert [figure.key for figure in found.figures] == ["classes", "confusion"]
    assert "entity_f1" not in found.metrics
    found = task.assess(model, params, other, name="mine")
    assert len(found.scores) == 2
    assert found.notices == ("the commonest label of each word is not known without the training data",)


def entities():
    task = Tag(valid_fraction=0)
    text = "Anna B-PER|Berg I-PER|saw O|Rome B-LOC|and O|New B-LOC|York I-LOC|today O"
    write("ner.tsv", [[tuple(pair.split()) for pair in text.split("|")]])
    data, model, params = built(task, ["ner.tsv"])
    labels = data.facts["labels"]  # B-LOC B-PER I-LOC I-PER O
    # Anna Berg is right, Rome is missed, New York is cut, one is invented.
    guesses = [labels.index(label) for label in ["B-PER", "I-PER", "O", "O", "O", "B-LOC", "O", "B-PER"]]
    scores = [np.eye(len(labels), dtype=np.float32)[guesses]]
    other = task.read(["ner.tsv"], data.facts, purpose="evaluate")
    return task, model, params, other, data.train, scores


def test_entities_are_scored_whole(monkeypatch):
    pytest.importorskip("seqeval")
    task, model, params, data, training, scores = entities()
    monkeypatch.setattr(Tag, "scores", lambda *_: scores)
    found = task.assess(model, params, data, name="mine", training=training)
    assert found.scores[0].metrics["entity_f1"] == pytest.approx(2 * 1 / (3 + 3))
    assert found.scores[2].metrics["entity_f1"] == 1.0  # each word has one label
    table = found.figures[0]
    assert (table.key, table.heads) == ("entities", ("ENTITY", "COUNT", "PRECISION", "RECALL", "F1"))
    assert table.rows == (("LOC", 2, 0.0, 0.0, 0.0), ("PER", 1, 0.5, 1.0, pytest.approx(2 / 3)))
    assert found.verdict[0].startswith("The network's entity F1, 0.3333, ")


def test_without_seqeval_a_sentence_names_the_extra(monkeypatch):
    task, model, params, data, training, _ = entities()
    monkeypatch.setitem(__import__("sys").modules, "seqeval.metrics", None)
    found = task.assess(model, params, data, name="mine", training=training)
    assert "entity_f1" not in found.metrics
    assert found.notices == ("entity F1 needs the extra metrics: pip install 'rnn-lab[metrics]'",)


# --- predictions ------------------------------------------------------------------------------------------------------


def predicted(inputs, files=("words.tsv",), **options):
    task = Tag(**{name: options.pop(name) for name in ("attention", "characters") if name in options})
    data, model, params = built(task, files, dtype="float64")
    return list(task.predict(model, params, data.facts, inputs, **options))


def test_predictions_of_texts_and_tokens():
    text, tokens, nothing = predicted(["The cat, it doesn't!", ["New York", "sleeps"], ""])
    assert text.record["tokens"] == ["The", "cat", ",", "it", "does", "n't", "!"]
    assert text.record["input"] == "The cat, it doesn't!"
    assert text.text == " ".join(f"{t}/{n}" for t, n in zip(text.record["tokens"], text.record["labels"], strict=True))
    assert tokens.record["tokens"] == ["New York", "sleeps"]
    assert nothing == ("", {"input": "", "tokens": [], "labels": [], "probabilities": []}, ())


def test_the_likeliest_labels():
    (found,) = predicted(["the cat"], top=5)
    for label, share, row in zip(*(found.record[k] for k in ("labels", "probabilities", "top")), strict=True):
        assert row[0] == {"label": label, "probability": share}
        shares = [each["probability"] for each in row]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1)
    first, second = found.record["top"][0][:2]
    assert found.text.startswith(f"the/{first['label']}={first['probability']:.2f}|{second['label']}=")
    json.dumps(found.record)


def test_predictions_are_taken_as_they_are_needed():
    task = Tag()
    data, model, params = built(task)
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield "the cat"

    stream = task.predict(model, params, data.facts, endless())
    assert [next(stream).record["tokens"] for _ in range(3)] == [["the", "cat"]] * 3
    assert len(taken) <= 1024


def test_predictions_of_frames():
    array = np.random.default_rng(0).normal(size=(5, 2))
    task = Tag()
    data, model, params = built(task, FRAMES)
    Path("new.csv").write_text("timestamp,x,noise\n" + "".join(f"{i},{a},{b}\n" for i, (a, b) in enumerate(array)))
    (whole,) = task.inputs("new.csv", data.facts)
    from_file, from_array = task.predict(model, params, data.facts, [whole, array], explain=True)
    assert from_file.record == {"input": "new.csv"} | from_array.record
    assert len(from_array.record["labels"]) == 5
    assert from_array.text.endswith("-5")
    (figure,) = from_array.figures
    assert figure.values.shape == (2, 5)
    assert (figure.values > 0).all()
    assert figure.y_ticks == ("x", "noise")


def test_stretches_are_counted_from_1():
    from rnn_plugins.tasks.tag.results import stretches

    assert stretches(["a", "a", "b", "a"]) == [("a", 1, 2), ("b", 3, 3), ("a", 4, 4)]


def test_an_excerpt_has_the_truth_beside_what_is_wrong(monkeypatch):
    task = Tag(valid_fraction=0.2)
    data, model, params = built(task)
    encoder = Encoder(data.facts)
    size = len(encoder.labels)
    wrong = {
        example.tokens: np.eye(size)[(example.tags + (np.arange(len(example.tags)) == 1)) % size]
        for example in data.valid
    }
    monkeypatch.setattr(Tag, "scores", lambda self, model, params, examples: [wrong[e.tokens] for e in examples])
    text = task.excerpt(model, params, data, 100, np.random.default_rng(0))
    line = text.splitlines()[0].split("/")
    assert len(text) >= 100
    first, second = (WORDS[word] for word in (line[0], line[1].split()[1]))
    assert line[1].startswith(f"{first} ")
    other = encoder.labels[(encoder.labels.index(second) + 1) % size]
    assert line[2].startswith(f"{other} (true: {second})")
    assert task.excerpt(model, params, Tag(valid_fraction=0).read(["words.tsv"]), 100, np.random.default_rng(0)) is None


def test_examples_of_training_are_known():
    task = Tag(valid_fraction=0.2)
    data = task.read(["words.tsv"])
    assert task.contains(data.train, data.train[3:9])
    changed = data.train[0]._replace(tags=data.train[0].tags + 1)
    assert not task.contains(data.train, [*data.train[3:9], changed])
    divided = replace(task, seq_length=2)
    assert divided.contains([piece for example in data.train for piece in example.pieces(2)], data.train)
    assert task.guessing(data.facts) == pytest.approx(np.log(5))


def test_inputs_of_other_kinds():
    data, model, params = built(Tag(), FRAMES)

    def given(value, data=data, model=model, params=params):
        return message(lambda: list(Tag().predict(model, params, data.facts, [value])))

    expected = "the network was trained on frames; expected a CSV file, or an array of frames with 2 numbers each, and"
    assert given("up") == f"{expected} got the text 'up'"
    assert given(np.zeros((3, 4))) == f"{expected} got a ndarray of shape (3, 4)"
    assert given(np.zeros((0, 2))) == "a recording has no frames; expected one at least"
    assert given(np.full((3, 2), np.nan)) == (
        "a frame has a number that is not finite; leave such frames out, or fill them in"
    )
    data, model, params = built(Tag())
    assert given(7, data=data, model=model, params=params) == (
        "the network was trained on tokens; expected a text or a list of tokens, and got a int"
    )
    with pytest.raises(UserError, match=r"^a sentence has 1,001 tokens; those of at most 1,000 can be "):
        list(Tag().predict(model, params, data.facts, [["cat"] * 1001], explain=True))


def test_influence_is_what_the_score_loses_to_first_order():
    task = Tag(characters=2)
    data, model, params = built(task, dtype="float64")
    (found,) = task.predict(model, params, data.facts, ["the red cat sleeps !"], explain=True)
    (figure,) = found.figures
    example = Encoder(data.facts).sentence(found.record["tokens"])
    inputs = pack([example]).inputs
    xs, guessed = np.asarray(model.see(params, inputs)), task.scores(model, params, [example])[0].argmax(-1)

    def score(scale):
        ys = model.states(params, xs * scale[:, None, None], inputs.lengths)
        return (np.asarray(ys)[:, 0] @ params["head"]["W"])[np.arange(5), guessed]

    assert figure.x_ticks == ("the", "red", "cat", "sleeps", "!")
    for s in range(5):
        step = np.eye(5)[s] * 1e-6
        expected = (score(1 + step) - score(1 - step)) / 2e-6
        np.testing.assert_allclose(figure.values[:, s], expected, atol=1e-8)


def test_attention_is_explained_by_itself():
    (found,) = predicted(["the red cat"], attention="luong", explain=True)
    (figure,) = found.figures
    assert figure.key == "attention"
    np.testing.assert_allclose(figure.values.sum(1), 1)
    assert np.diag(figure.values).tolist() == [0, 0, 0]
    assert figure.y_ticks == tuple(found.text.split())


@pytest.mark.parametrize("options", [{"characters": 2}, {"attention": "luong", "directions": 1}, {}], ids=str)
def test_the_probe_measures_the_losses_of_the_network(options):
    task = Tag(**options)
    data, model, params = built(task, dtype="float64")
    examples = sorted(data.train, key=lambda example: -len(example.tags))[:8]
    probe = task.probe(model, params, examples, data.facts).astype("float64")
    assert (probe.unit, probe.sequence) == ("token", "sentence")
    first = examples[0]
    length = len(first.tags)
    window = probe.window(np.array([length - 1]), length)
    _, ys = probe.cell.unroll(probe.params, window.carry, window.xs)
    losses = np.asarray(probe.loss(ys, probe.targets(np.array([length - 1]), length)))[:, 0]
    assert probe.labels(length - 1, 2).inputs == first.tokens[-2:]
    if options.get("attention"):
        assert probe.notices == ("what the network attends to at other steps is taken to be 0",)
        return
    scores = task.scores(model, params, [first])[0]
    expected = np.log(np.exp(scores).sum(-1)) - scores[np.arange(length), first.tags]
    np.testing.assert_allclose(losses, expected, atol=1e-10)


def test_a_probe_can_be_of_another_dtype():
    task = Tag(characters=2)
    data, model, params = built(task)
    probe = task.probe(model, params, data.train[:4], data.facts).astype("float64")
    assert probe.window(np.array([1]), 1).xs.dtype == np.float64


# --- training and use -------------------------------------------------------------------------------------------------


def test_a_network_learns_what_no_word_tells():
    """The label of a word is that of the word before it, known by its ending: words are all different."""
    rng = np.random.default_rng(0)

    def sentence():
        ends = rng.choice(["ing", "ed", "ly"], 6)
        stems = ["".join(rng.choice([*"bcdfg"], 4)) for _ in ends]
        return [(s + e, "first" if not i else ends[i - 1]) for i, (s, e) in enumerate(zip(stems, ends, strict=True))]

    write("rule.tsv", [sentence() for _ in range(200)])
    run, result = trained(
        *("rule.tsv", "--task", "tag", "--cell", "gru", "--hidden-size", "16", "--epochs", "12", "--batch-size", "8"),
        *("--learning-rate", "0.02", "--seed", "1", "--name", "rule"),
        *("--task-option", "characters=8", "--task-option", "directions=1"),
    )
    assert run.metrics()["accuracy"] > 0.97, result.output


def test_the_commands_work_on_a_run():
    trained(
        "words.tsv", "--task", "tag", "--hidden-size", "8", "--steps", "60", "--learning-rate", "0.05", "--name", "t"
    )
    invoke = CliRunner().invoke
    result = invoke(rnn, ["predict", "t", "the red cat sleeps!"])
    assert (result.exit_code, result.stdout) == (0, "the/D red/A cat/N sleeps/V !/P\n")
    result = invoke(rnn, ["predict", "t", "-"], input="a cat\n\nsmall dogs\n")
    assert result.stdout == "a/D cat/N\n\nsmall/A dogs/N\n"
    columns = "\na\tD\ncat\tN\n\nsmall\tA\ndogs\tN\n"
    assert invoke(rnn, ["predict", "t", "-"], input=columns).stdout == "a/D cat/N\nsmall/A dogs/N\n"
    assert invoke(rnn, ["predict", "t", "-"], input=columns + "a\n").stderr == (
        "Error: standard input, line 7: it has 1 column where 2 are expected\n"
    )
    for nothing in ("", "\n \n"):
        assert invoke(rnn, ["predict", "t", "-"], input=nothing).stderr == (
            "Error: standard input has no tokens; expected a token and its tag per line, and a blank line after "
            "sentences\n"
        )
    Path("bare.txt").write_text("a\ncat\n\nsmall\ndogs\n")
    assert invoke(rnn, ["predict", "t", "bare.txt"]).stdout == "a/D cat/N\nsmall/A dogs/N\n"
    assert "the commonest label of each word" in invoke(rnn, ["eval", "t", "words.tsv"]).stdout
    (record,) = load("t").predict(["the cat"])
    assert record["labels"] == ["D", "N"]
    assert invoke(rnn, ["report", "t", "--kind", "flow", "--lags", "3"]).exit_code == 0


def test_parameters_of_stacks_in_two_directions_are_reported_by_layer():
    small = ("--hidden-size", "4", "--steps", "20", "--log-every", "5", "--num-layers", "2")
    trained("words.tsv", "--task", "tag", *small, "--name", "deep", "--task-option", "characters=2")
    result = CliRunner().invoke(rnn, ["report", "deep", "--kind", "parameters", "--json", "-"])
    assert result.exit_code == 0, result.output
    figures = {figure["key"]: figure for figure in json.loads(result.stdout)["reports"]["parameters"]["figures"]}
    labels = [curve["label"] for curve in figures["gradient_norms"]["curves"]]
    assert sorted(labels) == ["head", "layer1", "layer2", "speller", "words"]
    inside = [curve["label"] for curve in figures["gradient_norms.layer2"]["curves"]]
    assert sorted(inside) == sorted(
        f"{direction}.{part}" for direction in ("forward", "backward") for part in parts_of(load("deep"))
    )


def parts_of(run):
    return trees.flatten(run.params["cell"]["forward"]["1"])


def test_frames_are_trained_on_from_the_command_line():
    trained(
        *(*FRAMES[:2], "--valid", FRAMES[2], "--task", "tag", "--hidden-size", "12", "--steps", "80"),
        *("--learning-rate", "0.02", "--name", "f"),
    )
    result = CliRunner().invoke(rnn, ["predict", "f", FRAMES[2]])
    assert result.exit_code == 0
    assert result.stdout.rstrip().endswith("-25")
    assert train("one.csv", "--task", "tag", "--task-option", "label_column=phase").stderr == (
        "Error: one.csv, line 1: there is no column 'phase'. The columns are 'timestamp', 'x', 'noise' and 'label'; "
        "name another one with --task-option label_column=NAME\n"
    )


def test_it_learns_tags_of_real_text(data):
    lines = (data / "pos-train.tsv").read_text(encoding="utf-8").split("\n\n")[:400]
    Path("pos.tsv").write_text("\n\n".join(lines), encoding="utf-8")
    run, _ = trained(
        *("pos.tsv", "--task", "tag", "--cell", "gru", "--hidden-size", "32", "--epochs", "5", "--batch-size", "8"),
        *("--learning-rate", "0.01", "--seed", "1", "--name", "pos", "--task-option", "characters=16"),
    )
    assert run.metrics()["accuracy"] > 0.7

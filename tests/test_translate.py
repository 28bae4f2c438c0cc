"""The task of translation: files, batches, losses, translations, scores and baselines."""

import json
import re
import shlex
import sys
import tracemalloc
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import settle
from test_documentation import ROOT, commands
from test_scan_planned import no_reference_loop

from minigrad import trees, value_and_grad
from minigrad.optimizers import adam
from minigrad.scan import available_backends, use_backend
from minigrad.schedules import constant
from minigrad.training import start, train
from rnn_cells import Cell, Stacked
from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM
from rnn_cli.main import rnn
from rnn_plugins.data.dates import FORMATS, dates, written
from rnn_plugins.data.tokens import Tokens
from rnn_plugins.errors import UserError
from rnn_plugins.language.sampling import Choice
from rnn_plugins.tasks import text_scores
from rnn_plugins.tasks.decoding import END, UNKNOWN
from rnn_plugins.tasks.task import Data, Inputs, Network
from rnn_plugins.tasks.text_scores import WITHOUT, grouped, left_out, word_for_word
from rnn_plugins.tasks.translate.pairs import tokens_of
from rnn_plugins.tasks.translate.task import Translate
from rnn_plugins.testing import check_task

PAIRS = """Go.	Va !
Hi.	Salut !
Hi.	Salut.
Run!	Cours !
Run!	Courez !
Wait!	Attends !
Hello!	Bonjour !
I see.	Je comprends.
I tried.	J'ai essayé.
I lost.	J'ai perdu.
He ran away.	Il s'est enfui.
She ran away.	Elle s'est enfuie.
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    Path("pairs.tsv").write_text(PAIRS, encoding="utf-8")


def network(hidden: int = 12, dtype: str = "float32", make: Any = GRU, **options: Any) -> Network:
    return Network(lambda width: make(width, hidden), hidden, dtype=dtype, **options)


def trained(task: Translate, data: Data, steps: int, hidden: int = 24) -> tuple[Any, Any]:
    """A network that has learnt one batch with all pairs by heart."""
    model = task.model(data.facts, network(hidden))
    state = start(model.init_params(np.random.default_rng(0)), adam(), (), np.random.default_rng(0))
    batches = [task.pack(data.train)] * steps
    list(train(model.loss, state, batches, optimizer=adam(), schedule=constant(0.02), clip_norm=5))
    return model, state.params


# Reading


@pytest.mark.parametrize(
    ("header", "suspicious"),
    [
        ("english\tfrench", True),
        ("en\tfr", True),
        ("src\ttgt", True),
        ("English words/sentences\tFrench words/sentences", True),
        ("source_text\ttarget_text", True),
        ("input\toutput", True),
        ("Go.\tVa !", False),
        ("I speak English.\tJe parle anglais.", False),
        ("The source of it all is the original.\tLa source de tout est l'original.", False),
        ("Sources\tFondements", False),
        ("3 March 2021\t2021-03-03", False),
    ],
)
def test_a_first_line_that_may_be_a_header_is_told(header, suspicious):
    Path("pairs.tsv").write_text(f"{header}\n{PAIRS}")
    source, target = header.split("\t")
    data = Translate(valid_fraction=0).read(["pairs.tsv"])
    named = [
        f"--task-option {shlex.quote(f'{side}_column={name}')}"
        for side, name in (("source", source), ("target", target))
    ]
    told = f"pairs.tsv, line 1 is read as a pair of texts; if it names the columns: {' '.join(named)}"
    assert data.notices == ((told,) if suspicious else ())
    assert data.train[0].text == source
    chosen = Translate(valid_fraction=0, source_column=source, target_column=target).read(["pairs.tsv"])
    assert chosen.notices == ()
    assert len(chosen.train) == len(data.train) - 1


def test_columns_of_pairs_are_two_and_are_asked_for_in_messages():
    Path("pairs.tsv").write_text("id\ten\tfr\n1\tGo.\tVa !\n")
    with pytest.raises(UserError) as caught:
        Translate().read(["pairs.tsv"])
    assert str(caught.value) == (
        "pairs.tsv, line 1: it has 3 fields where 2 are expected (source and target), or a header that has these "
        "columns; name others with --task-option source_column=NAME and --task-option target_column=NAME"
    )
    with pytest.raises(UserError) as caught:
        Translate(source_column="english").read(["pairs.tsv"])
    assert str(caught.value) == (
        "pairs.tsv, line 1: there is no column 'english'. The columns are 'id', 'en' and 'fr'; name another one with "
        "--task-option source_column=NAME"
    )
    with pytest.raises(ValueError, match=re.escape("source_column and target_column are both 'en'; expected two")):
        Translate(source_column="en", target_column="en")


def test_all_translations_of_a_source_are_in_one_part():
    data = Translate(valid_fraction=0.4).read(["pairs.tsv"])
    train, valid = ({pair.text for pair in some} for some in (data.train, data.valid))
    assert not train & valid
    assert (len(train), len(valid)) == (6, 4)
    assert sorted((p.text, p.translation) for p in [*data.train, *data.valid]) == sorted(
        tuple(line.split("\t")) for line in PAIRS.splitlines()
    )
    known = {piece.strip() for piece in tokens_of(data.facts)[1].symbols[2:]}
    assert known == {piece.strip() for p in data.train for piece in tokens_of(data.facts)[1].pieces(p.translation)}
    assert data.about == (
        f"12 pairs of 10 sources; vocabularies of {len(tokens_of(data.facts)[0])} and {len(known) + 2} words"
    )
    unknown = [int((p.target == 0).sum()) for p in data.valid]
    share = sum(unknown) / sum(len(p.target) - 1 for p in [*data.train, *data.valid])
    assert data.notices[1] == f"{100 * share:.1f} % of the words in the targets are not in the vocabulary"


def test_parallel_files_are_the_pairs_of_one():
    lines = [line.split("\t") for line in PAIRS.splitlines()]
    for name, side in (("a.en", 0), ("b.fr", 1)):
        Path(name).write_text("".join(f"{line[side]}\n" for line in lines), encoding="utf-8")
    one, two = Translate().read(["pairs.tsv"]), Translate().read(["a.en", "b.fr"])
    assert one.facts == two.facts
    assert [p.translation for p in one.train] == [p.translation for p in two.train]
    assert one.digest != two.digest


def test_other_examples_are_all_evaluated_with_the_symbols_of_the_run():
    task = Translate(max_words=5)
    data = task.read(["pairs.tsv"])
    Path("new.tsv").write_text("Stop!\tArrête !\n", encoding="utf-8")
    other = task.read(["new.tsv"], data.facts, purpose="evaluate")
    assert (other.facts, other.train, len(other.valid)) == (data.facts, [], 1)
    assert [len(tokens) for tokens in tokens_of(data.facts)] == [7, 7]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Go.\tVa !\n \tCours !\n", "bad.tsv, line 2: the source is empty; expected a text"),
        ("Go.\tVa !\nRun!\t\n", "bad.tsv, line 2: the target is empty; expected a text"),
    ],
)
def test_an_empty_text_is_refused(content: str, message: str):
    Path("bad.tsv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        Translate().read(["bad.tsv"])
    assert str(caught.value) == message


def test_without_files_there_is_a_sentence():
    with pytest.raises(UserError, match=r"^there are no texts: name a FILE of pairs, or builtin:dates$"):
        Translate().read([])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("beam", 0, "beam is 0; it must be at least 1"),
        ("max_words", -1, "max_words is -1; it must be at least 0"),
        ("sampling_epochs", 0, "sampling_epochs is 0; it must be at least 1"),
        ("length_penalty", -0.5, "length_penalty is -0.5; it must be at least 0"),
        ("sampling", 1.0, "sampling is 1; it must be at least 0 and below 1"),
        ("freeze", True, "freeze needs pretrained vectors: give embedding their file"),
        ("valid_fraction", -0.1, "valid_fraction is -0.1; it must be at least 0 and below 1"),
    ],
)
def test_options_out_of_range(option: str, value: float, message: str):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Translate(**{option: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": -1}, "vectors is -1; expected a width, or 0 for none"),
        ({"longest": 0}, "longest is 0; expected a whole number of at least 1"),
        ({"target": Tokens.build(["a"], "char").to_json()}, "a vocabulary does not begin with <unk> <end>"),
    ],
)
def test_damaged_facts(change: dict[str, Any], message: str):
    task = Translate()
    facts = {**task.read(["pairs.tsv"]).facts, **change}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        task.check_facts(facts)


# Dates


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("March 3, 2021", "{en} {d}, {y}"),
        ("3 мар. 2021", "{d} {ru_short} {y}"),
        ("03/03/21", "{m:02}/{d:02}/{yy:02}"),
        ("Wednesday, March 3, 2021", "{en_day}, {en} {d}, {y}"),
        ("the 3rd of March, 2021", "the {ordinal} of {en}, {y}"),
        ("mercredi 3 mars 2021", "{fr_day} {d} {fr} {y}"),
        ("среда, 3 марта 2021 г.", "{ru_day}, {d} {ru} {y} г."),
    ],
)
def test_formats_of_dates(text: str, form: str):
    assert form in FORMATS
    assert written(date(2021, 3, 3), form) == text


def test_dates_are_seeded_and_no_text_stands_for_two():
    pairs = list(dates("dates"))
    assert len(pairs) == 20_000
    assert pairs == list(dates("dates:20000:0"))
    assert pairs[:50] != list(dates("dates:50:1"))
    found: dict[str, str] = {}
    assert all(found.setdefault(text, iso) == iso for text, iso in pairs)
    assert {text for text, _ in pairs if not text.isascii()}


def test_ordinals():
    ends = {d: written(date(2000, 1, d), "{ordinal}") for d in (1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 31)}
    assert " ".join(ends.values()) == "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 23rd 31st"


@pytest.mark.parametrize("name", ["date", "dates:x", "dates:1:2:3", "dates:12345678"])
def test_other_names_of_generated_pairs(name: str):
    with pytest.raises(UserError) as caught:
        Translate().read([f"builtin:{name}"])
    assert str(caught.value) == (
        f"'builtin:{name}' is not understood; it takes builtin:dates, builtin:dates:COUNT or builtin:dates:COUNT:SEED, "
        "such as builtin:dates:20000"
    )


def test_no_generated_pairs():
    with pytest.raises(UserError) as caught:
        Translate().read(["builtin:dates:0"])
    assert str(caught.value) == "'builtin:dates:0' asks for 0 pairs; expected 1 at least"


# The network


@pytest.mark.parametrize(
    ("level", "attention", "directions"), [("char", "none", 1), ("word", "bahdanau", 2), ("byte", "luong", 2)]
)
def test_it_passes_the_checks(level: Any, attention: Any, directions: Any):
    task = Translate(level=level, attention=attention, directions=directions, valid_fraction=0.2, max_words=6)
    check_task(task, ["pairs.tsv"]).raise_if_failed()


@pytest.fixture
def vectors() -> str:
    Path("vectors.txt").write_text("I 1 2 3\nran 4 5 6\naway 7 8 10\nelephant 0 0 1\n")
    return "vectors.txt"


@pytest.mark.parametrize("freeze", [False, True])
def test_pretrained_vectors_of_the_sources(vectors: str, freeze: bool):
    task = Translate(embedding=vectors, freeze=freeze, valid_fraction=0)
    data = task.read(["pairs.tsv"])
    source = tokens_of(data.facts)[0]
    assert data.notices == (f"vectors.txt has vectors of 3 of the {len(source) - 2} words of sources",)
    model = task.model(data.facts, network())
    params = model.pretrained(model.init_params(np.random.default_rng(0)))
    ids = [source.symbols.index(f" {word}") for word in ("I", "ran", "away")]
    np.testing.assert_array_equal(params["source"][ids], [[1, 2, 3], [4, 5, 6], [7, 8, 10]])
    assert model.frozen() == (("source",) if freeze else ())
    assert bool(np.delete(params["source"], ids, 0).any()) != freeze
    gradient = value_and_grad(lambda p: model.loss(p, (), task.pack(data.train), None)[0])(params)[1]
    assert bool(np.any(gradient["source"])) != freeze
    with pytest.raises(UserError) as caught:
        task.model(data.facts, network(embedding_size=4))
    assert str(caught.value) == ("--embedding-size is 4, and the vectors of 'vectors.txt' have 3 numbers: leave it out")


def test_many_words_need_an_embedding():
    task = Translate()
    facts = task.read(["pairs.tsv"]).facts
    many = Tokens("char", ("<unk>", "<end>", *map(chr, range(0x4E00, 0x4E00 + 3000))), 2, spaces=True)
    with pytest.raises(UserError) as caught:
        task.model({**facts, "source": many.to_json()}, network(embedding_size=0))
    assert str(caught.value) == (
        "--embedding-size is 0, so 3,002 words would be one-hot vectors, which are for at most 2,048: give a width, "
        "such as 256, or set max_words"
    )


def stack(width: int, hidden: int) -> Cell:
    return Stacked((LSTM(width, hidden), LSTM(hidden, hidden)), 0.2)


@pytest.mark.parametrize("attention", ["none", "bahdanau", "luong"])
@pytest.mark.parametrize("options", [{}, {"make": stack, "dropout": 0.2}, {"embedding_size": 5, "dropout": 0.2}])
def test_a_training_step_is_planned_and_backends_agree(attention: Any, options: dict[str, Any]):
    task = Translate(attention=attention, sampling=0.5)
    data = task.read(["pairs.tsv"])
    model = task.model(data.facts, network(dtype="float64", **options))
    params, batch = model.init_params(np.random.default_rng(0)), task.batch(data, 50, 6)

    def loss(params: Any) -> Any:
        return model.loss(params, (), batch, np.random.default_rng(1))[0]

    with use_backend("reference"):
        expected, gradient = value_and_grad(loss)(params)
    for backend in available_backends():
        with use_backend(backend), no_reference_loop():
            found, other = value_and_grad(loss)(params)
        assert float(found) == pytest.approx(float(expected), rel=1e-12)
        for a, b in trees.zip_leaves(other, gradient):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)


def test_logits_of_all_steps_are_never_in_memory_together():
    task, (length, rows, symbols) = Translate(level="char"), (40, 32, 20_000)
    facts = task.read(["pairs.tsv"]).facts
    target = Tokens("char", ("<unk>", "<end>", *map(chr, range(0x4E00, 0x4E00 + symbols - 2))), 2, spaces=True)
    model = task.model({**facts, "target": target.to_json()}, network(8, embedding_size=4))
    params = model.init_params(np.random.default_rng(0))
    ids, lengths = np.full((3, rows), 2), np.full(rows, 3)
    batch = task.pack(task.read(["pairs.tsv"]).train[:1])._replace(
        inputs=(ids, lengths, np.full(rows, length), 0.0), targets=np.full((length, rows), 5)
    )
    gradient = value_and_grad(lambda p: model.loss(p, (), batch, None)[0])
    gradient(params)
    tracemalloc.start()
    gradient(params)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < length * rows * symbols * 4 / 2


def test_the_share_of_own_predictions_grows():
    task = Translate(sampling=0.5, sampling_epochs=2)
    data = task.read(["pairs.tsv"])
    epoch = task.steps_per_epoch(data, 3)
    shares = [float(task.batch(data, step, 3).inputs[-1]) for step in (0, epoch, 2 * epoch, 9 * epoch)]
    assert shares == [0, 0.25, 0.5, 0.5]
    assert float(Translate().batch(data, 9 * epoch, 3).inputs[-1]) == 0
    model = task.model(data.facts, network())
    params, batch = model.init_params(np.random.default_rng(0)), task.batch(data, 9 * epoch, 3)
    plain, sampled = (float(model.loss(params, (), batch, rng)[0]) for rng in (None, np.random.default_rng(0)))
    assert plain != sampled


@pytest.mark.parametrize("attention", ["none", "bahdanau", "luong"])
def test_it_learns_pairs_by_heart(attention: Any):
    task = Translate(attention=attention, valid_fraction=0)
    data = task.read(["pairs.tsv"])
    model, params = trained(task, data, 80)
    texts = [pair.text for pair in data.train]
    found = [p.text for p in task.predict(model, params, data.facts, texts)]
    wanted = grouped([(pair.text, pair.translation) for pair in data.train])
    assert all(line in wanted[text] for text, line in zip(texts, found, strict=True)), found
    metrics = task.evaluate(model, params, data.train)
    assert metrics["loss"] < 0.3
    assert metrics["token_accuracy"] > 0.9


# Translating


def test_an_unknown_word_is_never_right():
    task = Translate(max_words=1, valid_fraction=0, attention="none")
    data = task.read(["pairs.tsv"])
    model = task.model(data.facts, network())
    params = model.init_params(np.random.default_rng(0))
    params["decoder"]["head"]["b"][UNKNOWN] = 100
    assert any((pair.target == UNKNOWN).any() for pair in data.train)
    assert task.evaluate(model, params, data.train)["token_accuracy"] == 0


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Translate, Data, Any, Any]:
    file = tmp_path_factory.mktemp("data") / "pairs.tsv"
    file.write_text(PAIRS, encoding="utf-8")
    task = Translate(valid_fraction=0, beam=3)
    data = task.read([str(file)])
    return task, data, *trained(task, data, 40)


def test_predictions_are_in_order_and_do_not_depend_on_their_batch(learnt: Any):
    task, data, model, params = learnt
    texts = ["Run!", "He ran away.", "I see.", "Unseen words here", "Hi."]
    together = list(task.predict(model, params, data.facts, iter(texts)))
    assert [p.record["input"] for p in together] == texts
    for text, prediction in zip(texts, together, strict=True):
        (alone,) = task.predict(model, params, data.facts, [text])
        assert alone.text == prediction.text == prediction.record["translation"]
        assert alone.record["log_probability"] == pytest.approx(prediction.record["log_probability"], rel=1e-4)
    assert list(task.predict(model, params, data.facts, [])) == []
    some = task.predict(model, params, data.facts, ["Hi.", " "])
    with pytest.raises(UserError, match=r"^text 2: the source is empty; expected a text$"):
        list(some)
    with pytest.raises(UserError, match=r"^text 300 is of the type list; expected a text$"):
        list(task.predict(model, params, data.facts, Inputs([["Hi."]], [299])))


def test_inputs_are_taken_as_they_are_needed(learnt: Any):
    task, data, model, params = learnt
    taken = []

    def endless() -> Iterator[str]:
        while True:
            taken.append("Go.")
            yield "Go."

    assert next(task.predict(model, params, data.facts, endless())).record["input"] == "Go."
    assert len(taken) <= 256


def test_alternatives(learnt: Any):
    task, data, model, params = learnt
    (found,) = task.predict(model, params, data.facts, ["Run!"], top=4)
    json.dumps(found.record)
    best = found.record["alternatives"]
    assert len(best) == 4
    assert {best[0]["translation"], best[1]["translation"]} == {"Cours !", "Courez !"}
    assert [b["score"] for b in best] == sorted((b["score"] for b in best), reverse=True)
    assert sum(np.exp(b["log_probability"]) for b in best) <= 1
    assert found.text == " | ".join(f"{b['translation']} ({b['log_probability']:.2f})" for b in best)
    n = len(tokens_of(data.facts)[1].pieces(best[0]["translation"])) + 1
    assert best[0]["score"] == pytest.approx(best[0]["log_probability"] / ((5 + n) / 6) ** 0.6)


def test_the_alignment_is_a_picture(learnt: Any):
    task, data, model, params = learnt
    (found,) = task.predict(model, params, data.facts, ["He ran away."], explain=True)
    (image,) = found.figures
    assert image.x_ticks == ("He", "ran", "away", ".", "<end>")
    assert image.y_ticks == (*found.text.replace(".", " .").replace("s'", "s' ").split(), "<end>")
    assert image.values.shape == (len(image.y_ticks), len(image.x_ticks))
    np.testing.assert_allclose(image.values.sum(1), 1, rtol=1e-5)


def test_without_attention_there_is_no_picture():
    task = Translate(attention="none")
    data = task.read(["pairs.tsv"])
    model = task.model(data.facts, network())
    params = model.init_params(np.random.default_rng(0))
    assert [p.figures for p in task.predict(model, params, data.facts, ["Hi."], explain=True)] == [()]


def test_drawn_translations(learnt: Any):
    task, data, model, params = learnt
    texts = ["Run!", "I see."]

    def draw(choice: Choice, seed: int) -> list[str]:
        return [p.text for p in task.generate(model, params, data.facts, texts, choice, np.random.default_rng(seed))]

    greedy = Translate(beam=1)
    assert draw(Choice(greedy=True), 0) == [p.text for p in greedy.predict(model, params, data.facts, texts)]
    assert draw(Choice(), 1) == draw(Choice(), 1)
    assert len({tuple(draw(Choice(temperature=2), seed)) for seed in range(5)}) > 1


def test_inputs_are_sources_alone_or_in_pairs():
    Path("new.txt").write_text("Go.\nRun!\n")
    task = Translate()
    assert list(task.inputs("new.txt", {})) == ["Go.", "Run!"]
    assert list(task.inputs("pairs.tsv", {}))[:2] == ["Go.", "Hi."]
    assert list(task.inputs("builtin:dates:3", {})) == [text for text, _ in dates("dates:3")]


def test_the_excerpt_shows_the_truth(learnt: Any):
    task, data, model, params = learnt
    lines = task.excerpt(model, params, data, 60, np.random.default_rng(0)).splitlines()
    assert 1 < len(lines) < 12
    for line in lines:
        source, rest = line.split(" -> ")
        truths = {pair.translation for pair in data.train if pair.text == source}
        assert rest in {f"{truth} (right)" for truth in truths} or any(rest.endswith(f"(true: {t})") for t in truths)


# Scores


def test_several_references_count(learnt: Any):
    sacrebleu = pytest.importorskip("sacrebleu")
    texts = ["le chat est sur le tapis", "il fait beau ce matin", "bonjour tout le monde"]
    first = ["le chat est assis sur le tapis", "il fait beau ce matin", "salut tout le monde"]
    second = ["un chat est sur le tapis", None, "bonjour à tout le monde"]
    references = [[a] if b is None else [a, b] for a, b in zip(first, second, strict=True)]
    found = text_scores.text_scores(texts, references)
    assert found["bleu"] == sacrebleu.corpus_bleu(texts, [first, second]).score
    assert found["chrf"] == sacrebleu.corpus_chrf(texts, [first, second]).score
    assert found["exact"] == pytest.approx(1 / 3)
    assert found["bleu"] > sacrebleu.corpus_bleu(texts, [first]).score


def test_short_texts_have_no_bleu():
    pytest.importorskip("sacrebleu")
    found = text_scores.text_scores(["a red square", "a ring"], [["a red square"], ["a ring"]])
    assert found == {"bleu": None, "chrf": 100, "exact": 1}
    assert left_out(found) == ["BLEU is left out: it counts sequences of four words, and no reference has one"]
    assert text_scores.text_scores(["a red square"], [["a small red square"]])["bleu"] == 0


def test_sources_that_differ_in_case_are_in_one_part_if_case_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("cases.tsv").write_text("".join(f"w{i}\tx\nW{i}\ty\n" for i in range(40)), encoding="utf-8")
    data = Translate(lower=True, valid_fraction=0.25).read(["cases.tsv"])
    assert {pair.text.lower() for pair in data.valid}.isdisjoint(pair.text.lower() for pair in data.train)
    assert len(data.valid) == 20
    assert data.about.startswith("80 pairs of 40 sources; ")


def test_copies_are_in_lower_case_if_translations_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("names.tsv").write_text("Anna\tAnna\nPrag\tPrag\n", encoding="utf-8")
    task = Translate(lower=True, valid_fraction=0)
    data = task.read(["names.tsv"])
    model = task.model(data.facts, network())
    held_out = task.read(["names.tsv"], data.facts, purpose="evaluate")
    found = task.assess(model, model.init_params(np.random.default_rng(0)), held_out, name="run")
    assert found.scores[1].metrics["exact"] == 1


def test_assessment_beside_baselines(learnt: Any):
    pytest.importorskip("sacrebleu")
    task, data, model, params = learnt
    other = task.read(["pairs.tsv"], data.facts, purpose="evaluate")
    found = task.assess(model, params, other, name="run", training=data.train)
    assert task.contains(data.train, other.valid[:3])
    assert not task.contains(data.train[1:], other.valid)
    own, copied, lookup = found.scores
    assert [score.name for score in found.scores] == ["run", "copying the source", "word for word"]
    assert own.metrics.keys() == copied.metrics.keys() == found.metrics.keys()
    assert copied.metrics["exact"] == 0
    assert [sentence.split(",")[0] for sentence in found.verdict] == ["The network's BLEU", "The network's chrF"]
    assert own.metrics["bleu"] > max(copied.metrics["bleu"], lookup.metrics["bleu"])
    assert found.notices == ("2 of 10 sources have several translations, all of which are references",)
    assert found.count == task.count(data.train)
    assert found.details == {"sources": 10, "references": 12}
    (table,) = found.figures
    assert sum(row[1] for row in table.rows) == 10
    assert [row[0] for row in table.rows] == ["2", "3", "4"]


def test_without_the_library_exact_translations_are_counted(learnt: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    task, data, model, params = learnt
    other = task.read(["pairs.tsv"], data.facts, purpose="evaluate")
    found = task.assess(model, params, other, name="run")
    assert (found.scores[0].metrics["bleu"], found.scores[0].metrics["chrf"]) == (None, None)
    assert found.notices[-1] == WITHOUT
    assert WITHOUT == (
        "BLEU and chrF are left out: computing them needs the extra metrics: pip install 'rnn-lab[metrics]'"
    )
    assert "share of exact texts" in found.verdict[0]


def test_words_that_go_together():
    tokens = Tokens.build(["a cat", "a dog"], "word", spaces=True)
    pairs = [("a cat", "un chat"), ("a dog", "un chien"), ("cat", "chat")]
    assert word_for_word(pairs, tokens, tokens) == {" a": " un", " cat": " chat", " dog": " chien"}


def test_lower_case_is_scored_in_lower_case():
    task = Translate(lower=True, valid_fraction=0)
    data = task.read(["pairs.tsv"])
    model, params = trained(task, data, 80)
    other = task.read(["pairs.tsv"], data.facts, purpose="evaluate")
    assert task.assess(model, params, other, name="run").scores[0].metrics["exact"] > 0.9


# The command line


def test_train_eval_and_report():
    arguments = "--task translate builtin:dates:200 --level char --hidden-size 8 --steps 4 --seed 1 --batch-size 8"
    for command in (
        ["train", *arguments.split(), "--name", "dates", "--task-option", "beam=2"],
        ["eval", "dates"],
        ["report", "dates", "--kind", "flow", "--lags", "5", "--positions", "20"],
    ):
        result = CliRunner().invoke(rnn, command)
        assert result.exit_code == 0, result.output
        if command[0] == "eval":
            assert "copying the source" in result.stdout


def test_the_commands_of_the_page_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rnn_plugins.data.dates.COUNT", 100)
    lines = [line.split("\t") for line in PAIRS.splitlines()]
    for name in ("fra-eng-train.tsv", "fra-eng-valid.tsv", "news.en", "news.fr", "sentences.txt"):
        columns = {"en": slice(0, 1), "txt": slice(0, 1), "fr": slice(1, 2), "tsv": slice(0, 2)}[name.split(".")[1]]
        Path(name).write_text("".join("\t".join(line[columns]) + "\n" for line in lines), encoding="utf-8")
    ran = sorted(commands(ROOT / "docs" / "translate.md"), key=lambda words: words[0] != "train")
    assert {"train", "eval", "predict", "sample", "compare"} <= {words[0] for words in ran}
    for words in (["train", "--task", "translate", "news.en", "news.fr"], *ran):
        quick = ["--hidden-size", "4", "--steps", "2"]
        more = {"train": quick, "compare": [*quick, "--seeds", "2"]}.get(words[0], [])
        result = CliRunner().invoke(rnn, [*words, *more], input="Go.\n")
        assert result.exit_code == 0, (words, result.output)


def test_the_padding_is_the_end():
    task = Translate()
    data = task.read(["pairs.tsv"])
    batch = task.pack(sorted(data.train, key=task.length)[:: len(data.train) - 1])
    ids, lengths, many, _ = batch.inputs
    assert batch.weight == many.sum() < batch.targets.size
    for column, (length, count) in enumerate(zip(lengths, many, strict=True)):
        assert ids[length - 1, column] == batch.targets[count - 1, column] == END
        assert (batch.targets[count - 1 :, column] == END).all()

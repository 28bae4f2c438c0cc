"""Labelled sequences for the reader: baselines and figures, predictions with explanations, and the probe of reports."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import affine, sum, value_and_grad
from minigrad.scan import Lookup
from minigrad.trees import Tree
from rnn_plugins.data.tagged import NOUNS, Encoder, Example, Tagged
from rnn_plugins.data.tokens import Tokens
from rnn_plugins.errors import UserError
from rnn_plugins.reports.probe import Labels
from rnn_plugins.reports.report import Figure, Image, Table
from rnn_plugins.tasks import blocks
from rnn_plugins.tasks.metrics import NEEDS_METRICS, Gains, accuracy, confusion, macro_f1, per_class, verdict
from rnn_plugins.tasks.probes import EveryStep
from rnn_plugins.tasks.tag.model import Inputs, Spelling, Tagger, pack, surprise
from rnn_plugins.tasks.task import SHARE, Assessment, Data, Metric, Prediction, Score, Task

Array: TypeAlias = NDArray[Any]

BIO = re.compile(r"O|[BI]-.+")
"""Labels of entities: the first token of one, a later one, and all others (Ramshaw and Marcus 1995)."""

TOGETHER = 1 << 14
"""Steps of a batch while an explanation is computed."""

LONGEST = 1000
"""Tokens of a sentence that can be explained: its picture has a row and a column for each."""

TESTED = 6
"""With fewer examples even a gain on each of them is not clear."""

ENTITY_F1 = Metric("", "max", "ENTITY-F1", SHARE, "entity F1")


def assess(
    task: Task[Any],
    found: Mapping[str, float],
    guessed: Sequence[Array],
    data: Data,
    name: str,
    training: Sequence[Example] | None,
) -> Assessment:
    """A network's metrics beside those of the commonest labels, with figures.

    Args:
        task: the task.
        found: the network's metrics on ``data.valid``.
        guessed: the label of each step that it predicts, an array (T,) for each example.
        data: the examples, and the facts of the run.
        name: the network's.
        training: the training examples; None if they are not there.
    """
    labels, examples = tuple(data.facts["labels"]), data.valid
    rivals = dict([commonest(data)])
    notices = []
    if data.facts["kind"] == "tokens":
        if training:
            likeliest = int(np.argmax(data.facts["counts"]))
            rivals["the commonest label of each word"] = _by_word(training, examples, likeliest)
        else:
            notices.append("the commonest label of each word is not known without the training data")
    true, ours = (np.concatenate(some) for some in ([example.tags for example in examples], guessed))
    scores = [Score(name, "model", dict(found)), *(score(rival, guesses, data) for rival, guesses in rivals.items())]
    metrics = dict(task.metrics)
    figures: list[Figure] = [per_class(true, ours, labels), confusion(true, ours, labels)]
    if all(map(BIO.fullmatch, labels)):
        try:
            entities = [_entities(guesses, examples, labels) for guesses in (guessed, *rivals.values())]
        except ImportError:
            notices.append(f"entity F1 {NEEDS_METRICS}")
        else:
            metrics["entity_f1"] = ENTITY_F1
            scores = [
                score._replace(metrics={**score.metrics, "entity_f1": f1})
                for score, (f1, _) in zip(scores, entities, strict=True)
            ]
            figures.insert(0, entities[0][1])
    deciding, gains = ("entity_f1", None) if "entity_f1" in metrics else (task.best[0], _gains(guessed, rivals, data))
    return Assessment(
        tuple(scores),
        metrics,
        len(true),
        data.facts["kind"],
        verdict(scores, deciding, metrics[deciding], gains),
        tuple(notices),
        figures=tuple(figures),
    )


def commonest(data: Data) -> tuple[str, list[Array]]:
    """The name of the baseline that always guesses the commonest training label, and its guesses for each example."""
    place = int(np.argmax(data.facts["counts"]))
    guesses = [np.full(len(example.tags), place) for example in data.valid]
    return f"the commonest label, {data.facts['labels'][place]}", guesses


def score(name: str, guesses: Sequence[Array], data: Data) -> Score:
    """The score of a baseline that guesses labels, and no probabilities, for each example of ``data.valid``."""
    true, guessed = (np.concatenate(some) for some in ([example.tags for example in data.valid], guesses))
    values = {"loss": None, "accuracy": accuracy(true, guessed), "macro_f1": macro_f1(true, guessed)}
    return Score(name, "baseline", values)


def _gains(guessed: Sequence[Array], rivals: Mapping[str, Sequence[Array]], data: Data) -> Gains | None:
    """How many more labels of each example are right than the baselines have; None if a test of so few says nothing."""
    if len(data.valid) < TESTED:
        return None

    def right(some: Sequence[Array]) -> Array:
        return np.array([int((a == b.tags).sum()) for a, b in zip(some, data.valid, strict=True)])

    by = {rival: right(guessed) - right(guesses) for rival, guesses in rivals.items()}
    return Gains(by, NOUNS[data.facts["kind"]][1] + "s")


def _by_word(training: Sequence[Example], examples: Sequence[Example], commonest: int) -> list[Array]:
    """For each step the label that its word has most often in training; for an unknown word the commonest."""
    counts: dict[str, Counter[int]] = {}
    for example in training:
        for token, tag in zip(example.tokens, example.tags.tolist(), strict=True):
            counts.setdefault(token, Counter())[tag] += 1
    best = {token: min(tags, key=lambda tag: (-tags[tag], tag)) for token, tags in counts.items()}
    return [np.array([best.get(token, commonest) for token in example.tokens], np.intp) for example in examples]


def _entities(guessed: Sequence[Array], examples: Sequence[Example], labels: Sequence[str]) -> tuple[float, Table]:
    """The F1 of whole entities (micro-averaged, as conlleval computes it), and a table by their kind.

    Raises:
        ImportError: seqeval is not installed.
    """
    import warnings

    from seqeval.metrics import classification_report, f1_score

    true = [[labels[i] for i in example.tags.tolist()] for example in examples]
    found = [[labels[i] for i in guesses.tolist()] for guesses in guessed]
    with warnings.catch_warnings():  # of kinds that are never predicted, whose precision is 0 here
        warnings.simplefilter("ignore")
        report = classification_report(true, found, output_dict=True, zero_division=0)
        f1 = float(f1_score(true, found, zero_division=0))
    rows = [
        (kind, int(row["support"]), float(row["precision"]), float(row["recall"]), float(row["f1-score"]))
        for kind, row in report.items()
        if not kind.endswith(" avg")
    ]
    table = Table(
        "entities",
        "Metrics by kind of entity",
        ("ENTITY", "COUNT", "PRECISION", "RECALL", "F1"),
        tuple(rows),
        "An entity is right if all its tokens and its kind are.",
        (None, None, SHARE, SHARE, SHARE),
    )
    return f1, table


def example_of(given: Any, encoder: Encoder) -> Example:
    """An input of a prediction as an example: a sequence of a file, a text, a list of tokens, or frames (T, F).

    Raises:
        UserError: it is none of these, or not of the kind that the network was trained on.
    """
    if isinstance(given, Tagged):
        return encoder.unlabelled(given)
    if encoder.words is not None:
        if isinstance(given, str):
            return encoder.sentence(Tokens("word", encoder.words.symbols[:1]).pieces(given))
        if isinstance(given, Sequence) and all(isinstance(token, str) for token in given):
            return encoder.sentence(given)
        wanted = "a text or a list of tokens"
    else:
        frames = None if isinstance(given, str) else np.asarray(given)
        if frames is not None and frames.dtype.kind in "iuf" and frames.shape[1:] == (len(encoder.columns),):
            if not len(frames):
                raise UserError("a recording has no frames; expected one at least")
            if not np.isfinite(frames).all():
                raise UserError("a frame has a number that is not finite; leave such frames out, or fill them in")
            return encoder.recording(frames, "the frames")
        wanted = f"a CSV file, or an array of frames with {len(encoder.columns)} numbers each"
    came = f"the text {given!r}" if isinstance(given, str) else f"a {type(given).__name__}"
    shape = f" of shape {given.shape}" if isinstance(given, np.ndarray) else ""
    raise UserError(f"the network was trained on {encoder.kind}; expected {wanted}, and got {came}{shape}")


def prediction(given: Any, example: Example, shares: Array, encoder: Encoder, top: int) -> Prediction:
    """The labels of a sequence, from their probabilities (T, K).

    The line has ``token/label`` for each token, with ``top`` above 1 also the next labels and all probabilities; of
    frames the stretches with one label, by the numbers of frames, from 1.
    """
    labels = encoder.labels
    best = np.argsort(-shares, -1, kind="stable")[:, : max(1, top)]
    guessed = [labels[i] for i in best[:, 0].tolist()]
    likely = np.take_along_axis(shares, best, -1)
    record: dict[str, Any] = {}
    if encoder.words is not None:
        record["input"] = given if isinstance(given, str) else " ".join(example.tokens)
        record["tokens"] = list(example.tokens)
    elif isinstance(given, Tagged):
        record["input"] = given.file
    record |= {"labels": guessed, "probabilities": likely[:, 0].tolist()}
    ranked = [
        [(labels[i], share) for i, share in zip(*row, strict=True)]
        for row in zip(best.tolist(), likely.tolist(), strict=True)
    ]
    if top > 1:
        record["top"] = [[{"label": label, "probability": share} for label, share in row] for row in ranked]
    if encoder.words is None:
        text = ", ".join(f"{label} {start}-{stop}" for label, start, stop in stretches(guessed))
        return Prediction(text, record)
    written = ["|".join(f"{label}={share:.2f}" for label, share in row) for row in ranked] if top > 1 else guessed
    return Prediction(" ".join(map("/".join, zip(example.tokens, written, strict=True))), record)


def stretches(labels: Sequence[str]) -> list[tuple[str, int, int]]:
    """Runs of one label: the label, and its first and last step, from 1."""
    found, start = [], 1
    for label, run in groupby(labels):
        stop = start + len(list(run))
        found.append((label, start, stop - 1))
        start = stop
    return found


def compared(example: Example, guessed: Array, encoder: Encoder) -> str:
    """A sequence with its predicted labels, and the true one behind each that is wrong."""
    names = [
        encoder.labels[guess] if guess == true else f"{encoder.labels[guess]} (true: {encoder.labels[true]})"
        for guess, true in zip(guessed.tolist(), example.tags.tolist(), strict=True)
    ]
    if example.tokens:
        return " ".join(map("/".join, zip(example.tokens, names, strict=True)))
    return ", ".join(f"{label} {start}-{stop}" for label, start, stop in stretches(names))


def explanation(tagger: Tagger, params: Tree, example: Example, guessed: Array, encoder: Encoder) -> Image:
    """The attention of each token to the others, or the influence of each input on the predicted labels.

    Influence is the gradient of a label's score by an input's vector times that vector, summed over its numbers
    (Denil, Demiraj and de Freitas 2014, arXiv:1412.6815): to first order, what the score loses without the input.
    """
    inputs = pack([example]).inputs
    xs = tagger.see(params, inputs)
    xs = np.asarray(xs.array() if isinstance(xs, Lookup) else xs)  # (T, 1, I)
    names = [encoder.labels[i] for i in guessed.tolist()]
    if not example.tokens:
        return Image(
            "influence",
            "Influence of the columns on the predicted labels",
            "frame",
            "column",
            np.abs(_influence(tagger, params, xs, guessed, slice(None))[0].T),
            "size of gradient times input",
            y_ticks=tuple(encoder.features),
            definition="How much each column of a frame matters for the scores of the labels predicted at all frames.",
        )
    if len(xs) > LONGEST:
        raise UserError(f"a sentence has {len(xs):,} tokens; those of at most {LONGEST:,} can be explained: divide it")
    tagged = tuple(map("/".join, zip(example.tokens, names, strict=True)))
    if tagger.attention != "none":
        _, weights = tagger.attended(params, tagger.states(params, xs, inputs.lengths), inputs.lengths)
        return Image(
            "attention",
            "Attention of each token to the others",
            "token that is attended to",
            "token and its predicted label",
            np.asarray(weights)[0],
            "share of the attention",
            example.tokens,
            tagged,
            definition="A row adds up to 1. A token does not attend to itself.",
            limits=(0.0, 1.0),
        )
    at_once = max(1, TOGETHER // len(xs))
    rows = [
        _influence(tagger, params, xs, guessed, np.arange(start, min(start + at_once, len(xs)))).sum(-1)
        for start in range(0, len(xs), at_once)
    ]
    return Image(
        "influence",
        "Influence of the tokens on the predicted labels",
        "token that is read",
        "token and its predicted label",
        np.concatenate(rows),
        "gradient times input",
        example.tokens,
        tagged,
        definition="What the score of the label predicted for a token (a row) would lose, to first order, without the "
        "vector of each token (a column).",
    )


def _influence(tagger: Tagger, params: Tree, xs: Array, guessed: Array, some: Any) -> Array:
    """Gradient times input: of the scores at the steps ``some`` one by one, or of their sum where that is a slice.

    Args:
        tagger: the network.
        params: its parameters.
        xs: the inputs of one sequence, (T, 1, I).
        guessed: the label at each step, (T,).
        some: (B,), or a slice.

    Returns:
        (B, T, I); B is 1 for a sum.
    """
    steps = np.arange(len(xs))[some]
    copies = 1 if isinstance(some, slice) else len(steps)
    lengths = np.full(copies, len(xs))
    rows = np.zeros(len(steps), np.intp) if isinstance(some, slice) else np.arange(copies)

    def total(xs: Any) -> Any:
        ys, _ = tagger.attended(params, tagger.states(params, xs, lengths), lengths)
        return sum(affine(params["head"], ys)[steps, rows, guessed[steps]])

    _, slopes = value_and_grad(total)(np.repeat(xs, copies, 1))
    return np.asarray(slopes * xs).swapaxes(0, 1)


class _Attending(EveryStep):
    """The probe of a network with attention."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.notices = (*self.notices, "what the network attends to at other steps is taken to be 0")


def probe(tagger: Tagger, params: Tree, examples: Sequence[Example], encoder: Encoder) -> EveryStep:
    """The network along sequences, with a loss after every step; what other steps are attended to is left out."""
    numbers: dict[str, int] = {}
    ids: list[int] = []
    letters: list[Array] = []
    for example in examples:
        for place, token in enumerate(example.tokens):
            if numbers.setdefault(token, len(ids)) == len(ids):
                ids.append(int(example.xs[place]))
                letters.extend(example.spelling[place : place + 1])

    def see(weights: Tree, inputs: Array) -> Any:
        if not ids:
            return inputs
        spelling = None
        if letters:
            some, which = np.unique(inputs, return_inverse=True)
            spelling = Spelling(*blocks.padded([letters[i] for i in some.tolist()]), which.reshape(inputs.shape))
        return tagger.see(weights, Inputs(np.array(ids)[inputs], np.full(inputs.shape[1], len(inputs)), spelling))

    def score(weights: Tree, ys: Any, goals: Array) -> Any:
        heard = ys if tagger.attention == "none" else tagger.combined(weights, ys * 0, ys)
        return surprise(affine(weights["head"], heard), goals)

    def written(index: int) -> Labels:
        example = examples[index]
        labels = tuple(encoder.labels[i] for i in example.tags.tolist())
        return Labels(example.tokens or tuple(str(i) for i in range(1, len(labels) + 1)), labels)

    step, sequence = NOUNS[encoder.kind]
    kind = EveryStep if tagger.attention == "none" else _Attending
    return kind(
        recurrent=tagger.cell,
        weights=params,
        inputs=[np.array([numbers[t] for t in e.tokens], np.intp) if e.tokens else e.xs for e in examples],
        goals=[example.tags for example in examples],
        see=see,
        score=score,
        dtype=tagger.dtype,
        unit=step,
        sequence=sequence,
        numbers_per_output=tagger.tags,
        written=written,
    )

"""Scores of written texts against references: BLEU, chrF and the share of exact ones, and baselines of translation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rnn_plugins.data.tokens import Tokens
from rnn_plugins.reports.report import Table
from rnn_plugins.tasks.metrics import NEEDS_METRICS, verdict
from rnn_plugins.tasks.task import SHARE, Assessment, Metric, Score

METRICS: Mapping[str, Metric] = {
    "bleu": Metric("", "max", "BLEU", 1, "BLEU"),
    "chrf": Metric("", "max", "CHRF", 1, "chrF"),
    "exact": Metric("", "max", "EXACT", SHARE, "share of exact texts"),
}
"""BLEU and chrF run from 0 to 100, the share of exact texts from 0 to 1."""

WITHOUT = f"BLEU and chrF are left out: computing them {NEEDS_METRICS}"
"""The notice without the optional library."""

LENGTHS = 4
"""Rows of the table by length."""


def text_scores(written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float | None]:
    """BLEU (Papineni et al. 2002), chrF (Popović 2015) and the share of texts that equal one of their references.

    BLEU and chrF are those of sacrebleu with its defaults (Post 2018, arXiv:1804.08771), None without the library. BLEU
    is also None if no reference has four words: it counts sequences of four, so that the references would have 0.

    Args:
        written: N texts, at least one.
        references: those of each, one at least.
    """
    texts, wanted = [_plain(text) for text in written], [list(map(_plain, some)) for some in references]
    exact = float(np.mean([text in some for text, some in zip(texts, wanted, strict=True)]))
    found: dict[str, float | None] = {"bleu": None, "chrf": None, "exact": exact}
    try:
        from sacrebleu import BLEU, CHRF
    except ImportError:
        return found
    # A stream has one reference per text; texts with fewer than the most have None in some.
    streams: Any = [[some[i] if i < len(some) else None for some in wanted] for i in range(max(map(len, wanted)))]
    found["chrf"] = float(CHRF().corpus_score(texts, streams).score)
    bleu: Any = BLEU()
    if any(len(bleu.tokenizer(text).split()) >= bleu.max_ngram_order for some in wanted for text in some):
        found["bleu"] = float(bleu.corpus_score(texts, streams).score)
    return found


def left_out(found: Mapping[str, float | None]) -> list[str]:
    """Sentences on the scores that ``text_scores`` leaves out."""
    if found["chrf"] is None:
        return [WITHOUT]
    if found["bleu"] is None:
        return ["BLEU is left out: it counts sequences of four words, and no reference has one"]
    return []


def assess_translations(
    metrics: Mapping[str, Metric],
    found: Mapping[str, float],
    written: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    tokens: Tokens,
    targets: Tokens,
    *,
    name: str,
    unit: str,
    count: int,
    training: Sequence[tuple[str, str]] | None,
) -> Assessment:
    """The scores of translations, of baselines, and by the length of sources.

    Args:
        metrics: of the task.
        found: their values for the network.
        written: its translation of each source.
        references: the translations of each source.
        tokens: of the sources.
        targets: the tokens of the translations.
        name: the run's.
        unit: the noun for symbols, in the plural.
        count: symbols of the targets.
        training: pairs for the baseline that translates word for word; None for none.
    """
    sources = list(written)
    wanted = [references[source] for source in sources]
    own = text_scores([written[source] for source in sources], wanted)
    nothing = dict.fromkeys(metrics)
    scores = [Score(name, "model", {**found, **own})]
    scores.append(Score("copying the source", "baseline", nothing | text_scores(sources, wanted)))
    if training and tokens.level == "word":
        lookup = word_for_word(training, tokens, targets)
        looked_up = [_looked_up(lookup, source, tokens) for source in sources]
        scores.append(Score("word for word", "baseline", nothing | text_scores(looked_up, wanted)))
    compared = ("exact",) if own["chrf"] is None else ("bleu", "chrf")
    several = sum(len(some) > 1 for some in wanted)
    notices = [f"{several:,} of {len(sources):,} sources have several translations, all of which are references"]
    return Assessment(
        tuple(scores),
        {**metrics, **METRICS},
        count,
        unit,
        tuple(sentence for metric in compared for sentence in verdict(scores, metric, METRICS[metric])),
        tuple(notices[: several > 0] + left_out(own)),
        {"sources": len(sources), "references": sum(map(len, wanted))},
        (_by_length(written, references, tokens, unit),),
    )


def _by_length(written: Mapping[str, str], references: Mapping[str, Sequence[str]], tokens: Tokens, unit: str) -> Table:
    """The scores of sources of like length, a quarter of them in each row."""
    lengths = np.array([len(tokens.pieces(source)) for source in written])
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, LENGTHS + 1)[1:], method="higher"))
    rows, least = [], int(lengths.min())
    for most in edges.tolist():
        some = [source for source, n in zip(written, lengths, strict=True) if least <= n <= most]
        if some:
            scores = text_scores([written[source] for source in some], [references[source] for source in some])
            between = f"{least}" if least == most else f"{least} to {most}"
            rows.append((between, len(some), *scores.values()))
        least = most + 1
    return Table(
        "lengths",
        "By the length of the source",
        (unit.upper(), "SOURCES", *(metric.head for metric in METRICS.values())),
        tuple(rows),
        f"The {unit} of a source, how many sources have so many, and the scores of their translations: BLEU and chrF "
        "from 0 to 100, and the share that equals a reference.",
        (None, None, *(metric.digits for metric in METRICS.values())),
    )


def word_for_word(training: Sequence[tuple[str, str]], sources: Tokens, targets: Tokens) -> dict[str, str]:
    """For each word of the sources the word of the translations that goes with it best.

    That is the one with the largest Dice coefficient 2 n(s, t) / (n(s) + n(t)), where n counts pairs of texts.
    """
    together: dict[str, Counter[str]] = defaultdict(Counter)
    ours: Counter[str] = Counter()
    theirs: Counter[str] = Counter()
    for source, target in training:
        found = set(targets.pieces(target))
        theirs.update(found)
        for piece in set(sources.pieces(source)):
            ours[piece] += 1
            together[piece].update(found)
    return {
        piece: max(counts, key=lambda other: (2 * counts[other] / (ours[piece] + theirs[other]), other))
        for piece, counts in together.items()
    }


def _looked_up(lookup: Mapping[str, str], source: str, sources: Tokens) -> str:
    """A source word for word; a word that is not in the table stays."""
    return "".join(lookup.get(piece, piece) for piece in sources.pieces(source)).strip()


def _plain(text: str) -> str:
    """A text with single spaces."""
    return " ".join(text.split())


def grouped(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """The different translations of each source, in order."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for source, target in pairs:
        found[source][target] = None
    return {source: list(targets) for source, targets in found.items()}

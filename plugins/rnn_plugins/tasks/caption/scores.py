"""Scores of captions beside baselines: the commonest caption, and that of the most similar training image."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.data.images import unit as in_unit
from rnn_plugins.reports.report import Figure
from rnn_plugins.tasks.metrics import accuracy, confusion, per_class, verdict
from rnn_plugins.tasks.task import SHARE, Assessment, Metric, Score
from rnn_plugins.tasks.text_scores import METRICS, left_out, text_scores

Array = NDArray[Any]

GROUP = Metric("", "max", "GROUP", SHARE, "accuracy of the group")

OF_GROUPS = (
    "the group of a written caption is that of the training caption with the most words in common (the Dice "
    "coefficient of their words), or where several have as many, the commonest of their groups"
)

BLOCK = 512
"""Training images that are compared together."""


def assess_captions(
    metrics: Mapping[str, Metric],
    found: Mapping[str, float],
    written: Mapping[str, str],
    examples: Sequence[Any],
    training: Sequence[Any] | None,
    *,
    lower: bool,
    name: str,
    unit: str,
    count: int,
) -> Assessment:
    """The scores of captions and of baselines, by image; all captions of an image are references.

    Args:
        metrics: of the task.
        found: their values for the network.
        written: its caption of each image.
        examples: the images, each with ``image``, ``pixels``, ``caption`` and ``group``.
        training: likewise, those that it was trained on; None leaves out the baselines and the groups.
        lower: whether captions are lower-cased.
        name: the run's.
        unit: the noun for symbols, in the plural.
        count: symbols of the captions.
    """
    cased: Callable[[str], str] = str.lower if lower else str
    references: dict[str, list[str]] = defaultdict(list)
    groups, pixels = {}, {}
    for example in examples:
        references[example.image].append(cased(example.caption))
        groups[example.image], pixels[example.image] = example.group, example.pixels
    wanted, true = [references[image] for image in written], [groups[image] for image in written]
    labels = sorted(filter(None, {*groups.values(), *(example.group for example in training or ())}))
    grouped = bool(training) and all(true) and all(example.group for example in training or ())
    nothing = dict.fromkeys(metrics)
    scores: list[Score] = []
    notices: list[str] = []
    figures: tuple[Figure, ...] = ()

    def add(called: str, kind: str, texts: Sequence[str], guessed: Sequence[str], own: Mapping[str, Any]) -> None:
        group = {"group_accuracy": accuracy(true, guessed)} if grouped else {}
        scores.append(Score(called, kind, {**own, **text_scores(texts, wanted), **group}))

    texts = list(written.values())
    guessed = groups_of(texts, training or (), cased) if grouped else []
    add(name, "model", texts, guessed, found)
    if training:
        commonest: str = Counter(cased(example.caption) for example in training).most_common(1)[0][0]
        group = Counter(example.group for example in training).most_common(1)[0][0]
        add("the commonest caption", "baseline", [commonest] * len(texts), [group] * len(texts), nothing)
        nearest = [training[i] for i in nearest_images([pixels[image] for image in written], training)]
        captions = [cased(example.caption) for example in nearest]
        add("the nearest image", "baseline", captions, [example.group for example in nearest], nothing)
    if grouped:
        place = {label: i for i, label in enumerate(labels)}
        pair = [place[label] for label in true], [place[label] for label in guessed]
        figures = per_class(*pair, labels), confusion(*pair, labels)
        notices.append(OF_GROUPS)
    decides = {"exact": METRICS["exact"]} | ({"group_accuracy": GROUP} if grouped else {})
    several = sum(len(some) > 1 for some in wanted)
    if several:
        notices.append(f"{several:,} of {len(wanted):,} images have several captions, all of which are references")
    notices += left_out(scores[0].metrics)
    return Assessment(
        tuple(scores),
        {**metrics, **METRICS, **({"group_accuracy": GROUP} if grouped else {})},
        count,
        unit,
        tuple(sentence for key, metric in decides.items() for sentence in verdict(scores, key, metric)),
        tuple(notices),
        {"images": len(wanted)},
        figures,
    )


def nearest_images(pixels: Sequence[Array], training: Sequence[Any]) -> list[int]:
    """For each image the training image with the smallest squared distance of pixels, by its index."""
    ours = in_unit(np.stack(pixels)).reshape(len(pixels), -1)
    best, least = np.zeros(len(ours), np.intp), np.full(len(ours), np.inf)
    for start in range(0, len(training), BLOCK):
        block = in_unit(np.stack([example.pixels for example in training[start : start + BLOCK]]))
        theirs = block.reshape(len(block), -1)
        distance = np.square(theirs).sum(1) - 2 * ours @ theirs.T  # without our own squares, which are the same for all
        closer = distance.min(1) < least
        best = np.where(closer, distance.argmin(1) + start, best)
        least = np.minimum(least, distance.min(1))
    return [int(i) for i in best]


def groups_of(texts: Sequence[str], training: Sequence[Any], cased: Callable[[str], str]) -> list[str]:
    """The group of each text; see ``OF_GROUPS``."""
    groups: list[str] = [example.group for example in training]
    known = [set(cased(example.caption).split()) for example in training]
    sizes = np.array([len(words) for words in known])
    having: dict[str, list[int]] = defaultdict(list)  # the captions that have each word
    for i, words in enumerate(known):
        for word in words:
            having[word].append(i)
    places = {word: np.array(some) for word, some in having.items()}
    commonest = Counter(groups).most_common(1)[0][0]
    shared = np.zeros(len(known), np.intp)  # words of each caption that are in a text; zeros between texts

    @cache
    def group(text: str) -> str:
        words = set(text.split())
        hits = [places[word] for word in words if word in places]
        if not hits:  # all captions are equally unlike
            return commonest
        for some in hits:
            shared[some] += 1
        which = np.concatenate(hits)  # a caption as often as it shares a word
        alike = 2 * shared[which] / (len(words) + sizes[which])
        shared[which] = 0
        nearest: set[int] = set(which[alike == alike.max()].tolist())
        found: str = Counter(groups[i] for i in sorted(nearest)).most_common(1)[0][0]
        return found

    return list(map(group, texts))

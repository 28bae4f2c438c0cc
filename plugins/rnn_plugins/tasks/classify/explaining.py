"""What in a sequence speaks for a class: integrated gradients of its log odds, as figures and as numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigrad.scan import Lookup
from minigrad.trees import Tree
from rnn_plugins.reports.report import Chart, Colouring, Curve, Figure, Image
from rnn_plugins.tasks.attribution import Contributions, integrated_gradients, log_odds
from rnn_plugins.tasks.classify.model import Classifier
from rnn_plugins.tasks.classify.sequences import Input, Sequences, numbers

Array = NDArray[Any]


def explanation(
    model: Classifier, params: Tree, sequences: Sequences, given: Input, label: int, name: str
) -> tuple[tuple[Figure, ...], dict[str, Any]]:
    """The contributions of a sequence's steps to the log odds of a class, as a figure and as JSON.

    The baseline is an embedding of zeros, a black image, or a row of the mean.

    Args:
        model: the network.
        params: its parameters.
        sequences: how the sequence was made.
        given: the sequence.
        label: the class.
        name: of the class.

    Returns:
        A coloured text, a picture, or a chart of a row of numbers. And the ``contributions`` (T,), whose sum is the
        difference of ``score`` and ``baseline_score`` within the tolerance of ``integrated_gradients``, or else
        ``exact`` is false.
    """
    seen = model.see(params, numbers(given.xs)[:, None])
    seen = np.asarray(seen.array() if isinstance(seen, Lookup) else seen, model.dtype)[:, 0]  # (T, n)

    def score(batch: Any) -> Any:
        return log_odds(model.read(params, batch, np.full(batch.shape[1], len(seen))), label)

    found = integrated_gradients(score, seen)
    steps = found.values.sum(1)
    record = {
        "contributions": steps.tolist(),
        "score": found.score,
        "baseline_score": found.baseline,
        "exact": found.exact,
    }
    return (_figure(sequences, found, steps, given.shown, name),), record


def _figure(sequences: Sequences, found: Contributions, steps: Array, shown: str, name: str) -> Figure:
    title = f"What speaks for {name}"
    baseline = "an embedding of zeros" if sequences.tokens else "black" if sequences.kind == "images" else "the mean"
    least = "" if found.exact else " The integral is not exact: the sum should be their difference."
    told = (
        f"Contributions to the log odds of {name} (integrated gradients, Sundararajan et al. 2017), from {baseline} "
        f"on. They sum to {steps.sum():.2f} nats: the log odds are {found.score:.2f}, and {found.baseline:.2f} for the "
        f"baseline.{least}"
    )
    if tokens := sequences.tokens:
        symbols = tuple(piece + " " * (tokens.level == "word") for piece in tokens.pieces(shown))
        most = float(np.abs(steps).max())
        return Colouring("contributions", title, symbols, steps, -most, most, "nats", told)
    picture = sequences.picture(found.values)  # (H, W)
    if picture.shape[1] == 1:
        curve = Curve("", np.arange(len(picture)), picture[:, 0])
        return Chart("contributions", title, "place in the row", "nats", (curve,), definition=told)
    most = float(np.abs(picture).max())
    return Image("contributions", title, "column", "row", picture, "nats", definition=told, limits=(-most, most))

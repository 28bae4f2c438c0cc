"""Which step's loss depends on which step's state, as a picture of one stretch of text. It averages nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rnn_plugins.data.vocabulary import show
from rnn_plugins.errors import UserError
from rnn_plugins.reports.flow import main_state
from rnn_plugins.reports.probing import places, read, state_gradients, windows
from rnn_plugins.reports.report import Findings, Image, Look, Quantity, Report

if TYPE_CHECKING:
    from rnn_lab.subject import Subject

WIDEST = 64
"""Steps of the picture at most, so that each has room for its symbol."""

FLOOR = 1e-3
"""The share of the largest gradient below which all have one colour: what is so small is not learnt from."""


class Heatmap(Report):
    """Which losses depend on which states, step by step.

    The norm of the derivative of the loss at step t by the state after step k, for all pairs of steps of one stretch.
    """

    title: ClassVar[str] = "Heat map of the gradient"
    question: ClassVar[str] = "Which earlier steps does the loss at each step of a text depend on?"

    def measure(self, subject: Subject, look: Look) -> Findings:
        """Look at one model on one stretch of text.

        Raises:
            UserError: the text is too short.
        """
        steps = min(WIDEST, look.lags + 1, (len(subject.tokens) - 1) // 2)
        if steps < 2:
            raise UserError(f"the text has {len(subject.tokens)} symbols, and a heat map takes 5: give a longer one")
        (end,) = places(len(subject.tokens), 2 * steps, 1, np.random.default_rng(look.seed))
        text = windows(subject.tokens, np.array([end]), 2 * steps)
        carry = read(subject.model, subject.params, np.repeat(text[:steps], steps, axis=1))
        # Row b of the batch is the same stretch as all others, with the loss at its step b.
        stretch = np.repeat(text[steps:], steps, axis=1)
        targets = np.append(text[steps + 1 :, 0], subject.tokens[end])
        gradients = state_gradients(subject.model, subject.params, carry, stretch, targets, at=np.arange(steps))
        states = subject.anatomy.states
        place = main_state(states)
        norms = np.linalg.norm(gradients[place].astype(np.float64), axis=-1).T  # (loss, source)
        norms[np.triu_indices(steps, 1)] = np.nan
        symbols = tuple(show(subject.vocabulary.symbols[symbol]) for symbol in text[steps:, 0])
        predicted = tuple(show(subject.vocabulary.symbols[symbol]) for symbol in targets)
        total = np.nansum(norms, axis=1)
        lags = np.arange(steps)[:, None] - np.arange(steps)
        reach = np.nansum(norms * lags, axis=1)[steps // 2 :] / np.maximum(total[steps // 2 :], np.finfo(float).tiny)
        name = states[place].label
        return Findings(
            quantities=(
                Quantity(
                    "mean_lag",
                    "mean lag of the gradient",
                    float(reach.mean()),
                    "steps",
                    f"The lags of the norms for {name}, weighted by the norms, over the second half of the losses.",
                ),
            ),
            figures=(
                Image(
                    "heatmap",
                    f"|dL(t) / d{name}(k)|",
                    "source: the state after reading, step k",
                    "loss: at predicting, step t",
                    norms,
                    "norm, nats",
                    symbols,
                    predicted,
                    log=True,
                    definition="The Euclidean norm of the derivative of the loss at each step t (a row, with the "
                    f"symbol that is predicted) by {name} after each step k (a column, with the symbol that was read). "
                    "A column that stays bright is a symbol that later losses remember. A colour means the same for "
                    "all networks shown together. The scale begins at a thousandth of the smallest of their largest "
                    "norms and ends at most at a thousand times that; what is beyond has the colour of its end.",
                    floor=FLOOR,
                ),
            ),
        )

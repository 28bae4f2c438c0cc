"""A decoder of captions along its symbols, as reports measure it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigrad import affine, concat, log_softmax, pick, tanh, trees
from minigrad.trees import Tree
from rnn_plugins.data.tokens import Tokens
from rnn_plugins.reports.probe import Labels
from rnn_plugins.tasks.blocks import padded
from rnn_plugins.tasks.caption.model import Captioner
from rnn_plugins.tasks.decoding import END, UNKNOWN, shifted
from rnn_plugins.tasks.probes import EveryStep

Array = NDArray[Any]

AT_ONCE = 128
"""Captions that are read together."""

ATTENDS = (
    "the decoder has attention; the measurements take what it reads of the image as given, so that they show what "
    "passes through the cell's own states"
)
"""The notice on a network with attention."""


def along_captions(model: Captioner, params: Tree, examples: Sequence[Any], tokens: Tokens, unit: str) -> EveryStep:
    """The cell along captions, from the first carry that it gets of the image.

    With attention, its inputs are computed once, with what is read of the image, and are constants.

    Args:
        model: the model.
        params: its parameters.
        examples: with ``pixels`` and ``ids``.
        tokens: of the captions.
        unit: the noun for a symbol, in the singular.
    """
    decoder, wanted = model.decoder, [example.ids for example in examples]
    symbols = [shifted(ids) for ids in wanted]
    attends = decoder.attention != "none"
    inputs, reads = _with_attention(model, params, examples) if attends else (symbols, [])
    # A goal is the number of a step, where there is what was read of the image at that step beside the symbol.
    starts = np.cumsum([0, *map(len, wanted)])
    goals = [
        np.where(ids == UNKNOWN, -1, np.arange(start, start + len(ids)))
        for ids, start in zip(wanted, starts, strict=False)
    ]
    every = np.concatenate(wanted) if wanted else np.zeros(0, np.intp)
    read = np.concatenate(reads) if reads else np.zeros((len(every), 0))

    def first(weights: Tree, which: Array) -> Tree:
        dtype = str(trees.leaves(weights)[0].dtype)
        seen = replace(
            model, decoder=replace(decoder.astype(dtype), dropout=0.0), vision=replace(model.vision, dtype=dtype)
        )
        carry, _ = seen.begin(weights, np.stack([examples[i].pixels for i in which]))
        return carry[0] if attends else carry

    def see(weights: Tree, some: Array) -> Any:
        return some if attends else decoder.symbols(weights["decoder"]["embedding"], some)

    def score(weights: Tree, outputs: Any, steps: Array) -> Any:
        if attends:
            both = concat(outputs, read[steps].astype(outputs.dtype))
            outputs = tanh(affine(weights["decoder"]["output"], both))
        return -pick(log_softmax(affine(weights["decoder"]["head"], outputs)), every[steps])

    def written(index: int) -> Labels:
        words = tuple(tokens.symbols[i].strip() or tokens.symbols[i] for i in wanted[index])
        return Labels((tokens.symbols[END], *words[:-1]), words)

    probe = EveryStep(
        recurrent=decoder.cell,
        weights={**params, "cell": params["decoder"]["cell"]},
        inputs=inputs,
        goals=goals,
        see=see,
        score=score,
        dtype=decoder.dtype,
        unit=unit,
        sequence="caption",
        first=first,
        numbers_per_output=decoder.symbols.size,
        written=written,
    )
    if attends:
        probe.notices = (ATTENDS,)
    return probe


def _with_attention(model: Captioner, params: Tree, examples: Sequence[Any]) -> tuple[list[Array], list[Array]]:
    """What the cell sees at each step of each caption, (n, I), and what was read of the image there, (n, M)."""
    decoder, p = model.decoder, params["decoder"]
    inputs, reads = [], []
    for start in range(0, len(examples), AT_ONCE):
        some = examples[start : start + AT_ONCE]
        targets, lengths = padded([example.ids for example in some], END)
        first, context = model.begin(params, np.stack([example.pixels for example in some]))
        before = shifted(targets)
        xs = np.asarray(decoder.symbols(p["embedding"], before).array())  # (T, B, E)
        weights = np.asarray(decoder.unroll(p, first, context, before, weights=True))  # (T, B, S)
        read = np.einsum("tbs,bsm->tbm", weights, np.asarray(context["memory"]))
        if decoder.attention == "luong":
            outputs = np.asarray(decoder.unroll(p, first, context, before))
            beside = np.concatenate([np.asarray(first[1])[None], outputs[:-1]])
        else:
            beside = read
        for i, length in enumerate(lengths.tolist()):
            inputs.append(np.concatenate([xs[:length, i], beside[:length, i]], axis=1))
            reads.append(read[:length, i])
    return inputs, reads

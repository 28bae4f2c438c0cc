"""The network of translation: an encoder of symbols, and a decoder that begins with what it has read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from minigrad import trees
from minigrad.scan import Lookup
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_cells.stacked import drop_steps
from rnn_plugins.tasks.blocks import Embedded, Symbols, Vectors, mask, masked_mean, pool
from rnn_plugins.tasks.decoding import Decoder
from rnn_plugins.tasks.task import Batch

Array = NDArray[Any]


@dataclass(frozen=True)
class Translator(Embedded):
    """An encoder and a decoder, without the parameters.

    The decoder begins with a summary of the source, the encoder's last outputs (of both directions), and attends to
    all its outputs.

    Attributes:
        source: the encoder's inputs.
        encoder: one cell or stack, or one per direction.
        decoder: the decoder.
        vectors: pretrained vectors of the sources' words; None if there are none.
    """

    table: ClassVar[str] = "source"

    source: Symbols
    encoder: Cell
    decoder: Decoder
    vectors: Vectors | None = None

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``source``, the embedding; ``encoder`` and ``decoder``."""
        params = {"source": self.source.init_params(rng), "encoder": self.encoder.init_params(rng)}
        return trees.cast(params | {"decoder": self.decoder.init_params(rng)}, self.decoder.dtype)

    def see(self, params: Tree, ids: Array) -> Lookup:
        """What the encoder reads of sources (S, B)."""
        return self.source(self.embedding(params), ids)

    def shapes_known(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the embeddings and the head."""
        symbols, width = self.decoder.symbols, self.source.width
        shapes: dict[str, tuple[int, ...]] = {"decoder.head.W": (self.decoder.cell.output_size, symbols.size)}
        if width:
            shapes |= {"source": (self.source.size, width), "decoder.embedding": (symbols.size, width)}
        return shapes

    def encode(self, params: Tree, ids: Array, lengths: Array, rng: np.random.Generator | None = None) -> Any:
        """The outputs of the encoder for sources (S, B), (S, B, output_size)."""
        xs: Any = self.see(params, ids)
        if self.decoder.dropout and rng is not None:
            xs = drop_steps(xs.array(), self.decoder.dropout, self.decoder.variational, rng)
        carry = trees.cast(self.encoder.init_carry(len(lengths)), self.decoder.dtype)
        return self.encoder.unroll(params["encoder"], carry, xs, lengths=lengths, rng=rng)[1]

    def begin(self, params: Tree, memory: Any, lengths: Array) -> tuple[Tree, Tree]:
        """The first carry and the context of the decoder, from the encoder's outputs."""
        carry = self.decoder.start(params["decoder"], pool(memory, lengths, "last", self.encoder))
        return carry, self.decoder.context(params["decoder"], memory, mask(lengths, memory.shape[0]))

    def loss(self, params: Tree, carry: Tree, batch: Batch, rng: np.random.Generator | None) -> tuple[Any, Tree]:
        """The mean of -log p(symbol) of the targets, their ends included, in nats."""
        ids, lengths, many, own = batch.inputs
        first, context = self.begin(params, self.encode(params, ids, lengths, rng), lengths)
        losses = self.decoder.losses(params["decoder"], first, context, batch.targets, own=float(own), rng=rng)
        return masked_mean(losses, mask(many, len(batch.targets))), carry

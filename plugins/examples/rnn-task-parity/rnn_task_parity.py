"""The parity of strings of bits, as a plugin for rnn-lab: files into examples, a network, its loss, its predictions."""

import hashlib
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from minigrad import affine, cross_entropy, dropout, softmax, trees
from minigrad.initializers import glorot_uniform, zeros
from rnn_cells import Cell
from rnn_plugins.data.lines import lines, name_of
from rnn_plugins.data.splits import split
from rnn_plugins.errors import UserError
from rnn_plugins.tasks import blocks
from rnn_plugins.tasks.task import SHARE, Batch, Data, Metric, Model, Network, Prediction, Task

GENERATED = "builtin:parity"
"""The name of the generated strings, where a file is expected."""

ANSWERS = ("even", "odd")


@dataclass(frozen=True)
class Counter(Model):
    """The cell reads the bits; a linear head reads its last output.

    Attributes:
        cell: reads the bits, one-hot.
        network: the user's settings.
    """

    cell: Cell
    network: Network

    @property
    def bits(self):
        """Bits as inputs."""
        return blocks.Symbols(2, 0, self.network.dtype)

    def init_params(self, rng):
        """``cell``, and ``head``: W (H, 2), b (2,)."""
        head = {"W": glorot_uniform(rng, (self.cell.output_size, 2)), "b": zeros(rng, (2,))}
        return trees.cast({"cell": self.cell.init_params(rng), "head": head}, self.network.dtype)

    def scores(self, params, batch, rng=None):
        """The logits of even and odd, (B, 2)."""
        bits, lengths = batch.inputs  # (T, B), (B,)
        ys = blocks.unroll(self.cell, params["cell"], self.bits((), bits), lengths, self.network.dtype, rng)
        y = blocks.pool(ys, lengths, "last", self.cell)  # (B, output_size)
        if rng is not None and self.network.dropout:
            y = dropout(y, self.network.dropout, rng)
        return affine(params["head"], y)

    def loss(self, params, carry, batch, rng):
        """The mean cross-entropy."""
        return cross_entropy(self.scores(params, batch, rng), batch.targets), carry


@dataclass(frozen=True)
class Parity(Task):
    """Tell whether a string of bits has an even or an odd number of ones: a line of 0 and 1 each, or generated ones.

    Attributes:
        longest: the number of bits of the longest generated string.
        examples: the number of generated strings.
        valid_fraction: the share that is held out.
    """

    longest: int = 12
    examples: int = 4000
    valid_fraction: float = 0.1

    unit = "strings"
    best = ("accuracy", "max")
    metrics: ClassVar = {"loss": Metric("nats", "min", "NATS"), "accuracy": Metric("", "max", digits=SHARE)}
    default_files = (GENERATED,)
    of_weights = ()
    takes_text = True

    def __post_init__(self):
        """Check the ranges of the options.

        Raises:
            ValueError: one is out of range.
        """
        for name in ("longest", "examples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.valid_fraction < 1:
            raise ValueError(f"valid_fraction is {self.valid_fraction:g}; it must be at least 0 and below 1")

    def read(self, files, facts=None, *, purpose="train"):
        """The strings of files as arrays of bits; no facts are needed."""
        digest = hashlib.sha256()
        strings = [string for file in files for string in self.inputs(file, {})]
        for string in strings:
            digest.update(f"{string}\n".encode())
        if not strings:
            raise UserError(f"{', '.join(files)}: there is no string of bits; expected a line of 0 and 1")
        train, valid = split(len(strings), self.valid_fraction) if purpose != "evaluate" else ([], range(len(strings)))
        examples = [bits_of(string) for string in strings]
        train, valid = ([examples[i] for i in part] for part in (train, valid))
        return Data(train, valid, {}, tuple(files), digest.hexdigest(), f"{len(strings):,} strings of bits")

    def inputs(self, file, facts):
        """The strings in a file, or the generated ones."""
        if file == GENERATED:
            rng = np.random.default_rng(0)
            for length in rng.integers(1, self.longest + 1, self.examples):
                yield "".join(map(str, rng.integers(0, 2, length)))
            return
        for number, line in enumerate(lines(file), start=1):
            if string := line.strip():
                bits_of(string, f"{name_of(file)}, line {number}: ")
                yield string

    def model(self, facts, network):
        """One-hot bits, the cell, a linear head."""
        blocks.no_embedding(network, "the inputs are bits")
        return Counter(network.make_cell(2), network)

    def length(self, example):
        """The number of bits."""
        return len(example)

    def pack(self, examples):
        """Some strings, padded to the longest."""
        return Batch(blocks.padded(examples), np.array([bits.sum() % 2 for bits in examples]), float(len(examples)))

    def evaluate(self, model, params, examples):
        """The loss, and the share of right answers."""
        right = 0
        for some in blocks.chunks(examples, 256):
            batch = self.pack(some)
            right += int((np.argmax(model.scores(params, batch), axis=1) == batch.targets).sum())
        return super().evaluate(model, params, examples) | {"accuracy": right / len(examples)}

    def guessing(self, facts):
        """The loss of guessing, ln 2."""
        return math.log(2)

    def predict(self, model, params, facts, inputs, *, top=1, explain=False):
        """Even or odd, with the probability; with ``top``, that of both."""
        for some in blocks.chunks(inputs, 256):
            likely = np.asarray(
                softmax(model.scores(params, self.pack([bits_of(string) for string in some])))
            )  # (B, 2)
            for string, probabilities in zip(some, likely.tolist(), strict=True):
                answers = sorted(zip(probabilities, ANSWERS, strict=True), reverse=True)[:top]
                text = ", ".join(f"{answer} {probability:.2f}" for probability, answer in answers)
                record = {"input": string, "parity": answers[0][1], "probability": answers[0][0]}
                if top > 1:
                    record["top"] = [{"parity": answer, "probability": probability} for probability, answer in answers]
                yield Prediction(text, record)


def bits_of(string, where=""):
    """The bits of a string, (T,).

    Args:
        string: of 0 and 1.
        where: it stands, for the message.

    Raises:
        UserError: it has other characters, or none.
    """
    if not string or set(string) - {"0", "1"}:
        raise UserError(f"{where}{string!r} is not a string of bits; expected 0 and 1, such as 0110")
    return np.array([int(bit) for bit in string])

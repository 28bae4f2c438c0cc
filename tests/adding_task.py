"""The adding problem: a task that generates its data (Hochreiter and Schmidhuber 1997, section 5.4)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from minigrad import affine, mean, trees
from minigrad.initializers import glorot_uniform, zeros
from rnn_cells import Cell
from rnn_plugins.tasks.task import Batch, Data, Metric, Model, Task


@dataclass(frozen=True)
class Sum(Model):
    cell: Cell
    dtype: str

    def init_params(self, rng):
        head = {"W": glorot_uniform(rng, (self.cell.output_size, 1)), "b": zeros(rng, (1,))}
        return trees.cast({"cell": self.cell.init_params(rng), "head": head}, self.dtype)

    def loss(self, params, carry, batch, rng):
        first = trees.cast(self.cell.init_carry(batch.inputs.shape[1]), self.dtype)
        _, ys = self.cell.unroll(params["cell"], first, batch.inputs.astype(self.dtype))
        return mean((affine(params["head"], ys[-1])[:, 0] - batch.targets.astype(self.dtype)) ** 2), ()


@dataclass(frozen=True)
class Adding(Task):
    """Add the two marked numbers of a sequence."""

    lag: int = 8
    unit: ClassVar[str] = "sequences"
    metrics: ClassVar = {"loss": Metric("", "min", "MSE", 4)}
    default_files: ClassVar = ("builtin:adding",)

    def read(self, files, facts=None, *, purpose="train"):
        return Data(None, range(10**6, 10**6 + 50), {"lag": self.lag}, tuple(files), f"adding {self.lag}", "generated")

    def model(self, facts, network):
        return Sum(network.make_cell(2), network.dtype)

    def fit(self, data, size):
        return self, size, ""

    def steps_per_epoch(self, data, size):
        return 100

    def units_per_step(self, data, size):
        return size

    def draw(self, seed):
        """A sequence of numbers, each with a mark: (lag, 2)."""
        rng = np.random.default_rng(seed)
        x = rng.random((self.lag, 2)).astype(np.float32)
        x[:, 1] = 0
        x[[rng.integers(0, self.lag // 2), rng.integers(self.lag // 2, self.lag)], 1] = 1
        return x

    def pack(self, examples):
        xs = np.stack([self.draw(seed) for seed in examples], 1)
        return Batch(xs, xs.prod(2).sum(0), float(len(examples)))

    def batch(self, data, step, size, rows=slice(None)):
        return self.pack(range(step * size, (step + 1) * size)[rows])

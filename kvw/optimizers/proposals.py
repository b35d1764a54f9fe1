"""A list of candidates that is known beforehand, proposed one after another."""

from collections.abc import Sequence

import numpy as np

from kvw.optimizers.base import Optimizer, Outcome, Vectors


class Proposals(Optimizer):
    """Proposes the rows of `x`, (n, dim), in order; learns nothing."""

    def __init__(self, x: Vectors):
        self._x = np.asarray(x, dtype=np.float64)
        self._next = 0

    def ask(self, rng: np.random.Generator) -> Vectors:
        """The next row, (1, dim), or (0, dim) after the last."""
        return self._x[self._next : self._next + 1]

    def tell(self, x: Vectors, outcomes: Sequence[Outcome]) -> None:
        """Goes on to the next row."""
        self._next += len(x)

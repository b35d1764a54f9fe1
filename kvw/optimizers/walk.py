"""KVoiceWalk's random walk.

From the best vector so far, every coordinate gets independent normal noise; one random step length
is drawn a step, uniform between two limits. A candidate is kept when its score is higher. That is
a (1+1) evolution strategy with a random step size instead of an adapted one.

Source: KVoiceWalk, `generate_voice` (noise = N(0, 1) * std of the population * diversity) and its
`random_walk` (diversity = U(0.01, 0.15)). The population's standard deviation is the unit of the
space, so it does not appear here.
"""

from collections.abc import Sequence

import numpy as np

from kvw.optimizers.base import Optimizer, Outcome, Vectors

# Shortest and longest step, in standard deviations of the stock voices, as in KVoiceWalk.
STEP = (0.01, 0.15)


class Walk(Optimizer):
    """A random walk from `x0`, (dim,), whose score is `total`."""

    def __init__(self, x0: Vectors, total: float, step: tuple[float, float] = STEP):
        self._x = np.asarray(x0, dtype=np.float64)
        self._total = total
        self._step = step

    def ask(self, rng: np.random.Generator) -> Vectors:
        """One candidate, (1, dim)."""
        length = rng.uniform(*self._step)
        return (self._x + length * rng.standard_normal(len(self._x)))[np.newaxis]

    def tell(self, x: Vectors, outcomes: Sequence[Outcome]) -> None:
        """Moves to the candidate where it scored higher than the best so far."""
        for candidate, outcome in zip(x, outcomes, strict=True):
            if outcome.total is not None and outcome.total > self._total:
                self._x, self._total = candidate.copy(), outcome.total

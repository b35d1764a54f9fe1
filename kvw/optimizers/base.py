"""The contract between the search loop and an optimizer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]


class Outcome(Protocol):
    """What became of a candidate.

    `total` is the score, higher is better, or None where the candidate was rejected before it had
    one. `parts` are the similarities it was made of, as far as they were computed.
    """

    @property
    def total(self) -> float | None:
        """The score, or None where the candidate was rejected."""

    @property
    def parts(self) -> Mapping[str, float]:
        """Name -> similarity, 0 to 1."""


class Optimizer(ABC):
    """Proposes candidates, one generation at a time.

    `ask` is a function of what was told so far and of the generator alone; asking by itself changes
    nothing. So a run is resumed by telling its journal again, and equals one that was never
    interrupted.
    """

    @abstractmethod
    def ask(self, rng: np.random.Generator) -> Vectors:
        """The next generation, (n, dim); n is 0 when there is nothing left to propose."""

    @abstractmethod
    def tell(self, x: Vectors, outcomes: Sequence[Outcome]) -> None:
        """Learns the outcomes of a generation, in the order of its rows."""

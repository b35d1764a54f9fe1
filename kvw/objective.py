"""From vectors to scores: the objective that a search climbs.

`VoiceObjective` decodes a vector to a voice, speaks with it and scores what is heard, and stops
early with candidates that cannot win. The search loop sees the abstract `Objective` alone, so it
does not know what a candidate is.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvw.errors import AudioError
from kvw.optimizers import Outcome
from kvw.score import Rejected, Scorer
from kvw.space import Space
from kvw.synth.synthesizer import Synthesizer, Utterance

Vectors = NDArray[np.float64]

# KVoiceWalk drops a candidate whose target similarity is below this share of the best one's.
REJECTION = 0.98


@dataclass(frozen=True)
class Evaluation:
    """A candidate's outcome, and what it became, for whoever keeps the best ones."""

    outcome: Outcome
    product: Any = None


class Objective(ABC):
    """What a search maximises."""

    @abstractmethod
    def evaluate(self, x: Vectors, best: Outcome | None) -> list[Evaluation]:
        """Evaluations of the candidates (n, dim), in their order.

        `best` is the best outcome so far: what cannot come near it may be rejected.
        """


class VoiceObjective(Objective):
    """How much a voice sounds like the target.

    The first utterance is compared with the target. A candidate whose similarity falls below
    `rejection` times the best candidate's is rejected before the second utterance is spoken; 0
    turns that off. The product of an evaluation is the audio of the first utterance.
    """

    def __init__(
        self,
        space: Space,
        synthesizer: Synthesizer,
        scorer: Scorer,
        utterances: Sequence[Utterance],
        seed: int,
        rejection: float = REJECTION,
    ):
        self._space = space
        self._synthesizer = synthesizer
        self._scorer = scorer
        self._first, self._second = utterances
        self._seed = seed
        self._rejection = rejection

    def evaluate(self, x: Vectors, best: Outcome | None) -> list[Evaluation]:
        """Speaks, listens and scores, one candidate after another."""
        bar = 0.0 if best is None else self._rejection * best.parts["target"]
        return [self._evaluate_one(candidate, bar) for candidate in x]

    def _evaluate_one(self, x: Vectors, bar: float) -> Evaluation:
        voice = self._space.decode(x[np.newaxis])
        if not voice.isfinite().all():
            return Evaluation(Rejected("not finite", None))
        try:
            [audio] = self._synthesizer.speak(voice, self._first, self._seed)
            embedding = self._scorer.embed(audio)
            target = self._scorer.target_similarity(embedding)
            if target < bar:
                return Evaluation(Rejected("far from the target", target))
            [other] = self._synthesizer.speak(voice, self._second, self._seed)
            return Evaluation(
                self._scorer.score(audio, embedding, self._scorer.embed(other)), audio
            )
        except AudioError:  # what it spoke cannot be heard: digital silence, or not finite
            return Evaluation(Rejected("inaudible", None))

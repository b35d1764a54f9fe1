"""How much a candidate's speech sounds like the target: KVoiceWalk's score, without its edges.

Three similarities, each at most 1, make one score of 0 to 100 by a weighted harmonic mean: to the
target (speaker embeddings), of the candidate to itself on another text (stability), and of audio
features to the target's. The harmonic mean lets one of them slip a little for a gain in another,
and none of them fail.

Knows speaker embeddings and features as numbers; knows nothing of voices, models or texts. Which
encoder makes the embeddings is up to the caller.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kvw import features
from kvw.audio import Audio
from kvw.errors import SettingsError

Embedding = npt.NDArray[np.float32]

FLOOR = 0.005
"""What the feature similarity of the most different recordings tends to."""
FLOOR_BEGINS = 0.01
"""KVoiceWalk's own floor: below it the feature similarity is bent so as never to reach `FLOOR`."""
ROUNDING = 1e-6
"""A mean this small beside its standard deviation is what float32 leaves of a mean of 0."""


class Encoder(Protocol):
    """What the scorer needs of a speaker encoder."""

    def embed(self, audio: Audio) -> Embedding:
        """The speaker embedding, (256,) of length 1, of (n,) audio at 24 kHz."""


@dataclass(frozen=True)
class Weights:
    """How much each similarity counts; only their ratios matter. The defaults are KVoiceWalk's.

    Raises:
        SettingsError: one is negative or not finite, or all are 0.
    """

    target: float = 0.48
    stability: float = 0.50
    features: float = 0.02

    def __post_init__(self) -> None:
        weights = astuple(self)
        if not all(math.isfinite(w) and w >= 0 for w in weights) or not any(weights):
            raise SettingsError(
                "Three weights of 0 or more, not all 0, were expected (target, stability, "
                f"features), and {', '.join(f'{w:g}' for w in weights)} came; the defaults are "
                "0.48, 0.5, 0.02."
            )


@dataclass(frozen=True)
class Score:
    """A candidate's score and what it was made of.

    Attributes:
        total: 0 to 100, higher is better.
        target: similarity to the target, -1 to 1.
        stability: similarity between the candidate's two utterances, -1 to 1.
        features: similarity of the first utterance's features to the target's, 0 to 1.
    """

    total: float
    target: float
    stability: float
    features: float

    @property
    def parts(self) -> dict[str, float]:
        """The three similarities by name."""
        return {"target": self.target, "stability": self.stability, "features": self.features}

    def to_dict(self) -> dict[str, float]:
        """For a journal; `from_dict` gives it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, float]) -> "Score":
        """From what `to_dict` gave, JSON in between or not."""
        return cls(**value)


@dataclass(frozen=True)
class Rejected:
    """A candidate that was given no score.

    Attributes:
        reason: why, in a few words, such as "below 0.98 of the best target similarity".
        target: its similarity to the target, where it came so far.
    """

    reason: str
    target: float | None = None

    @property
    def total(self) -> None:
        """None: it has no score, not even a bad one."""

    @property
    def parts(self) -> dict[str, float]:
        """The target similarity, where it came so far."""
        return {} if self.target is None else {"target": self.target}


def feature_similarity(value: Mapping[str, float], target: Mapping[str, float]) -> float:
    """Compares two sets of features, as KVoiceWalk does where that is well-behaved.

    s = (100 - P) / 100, where P is the sum over the features of |value - target| / |target|: 1 for
    the target itself, and less for every difference. Two departures:

    - Where a target's feature is 0 (a tempo, say, that nothing has set), KVoiceWalk divides by 0.
      Here its difference is d / (1 + d) with d = |value - target|: 0 where they are equal, growing
      with d, and below 1, which is what a value twice the target's costs elsewhere. A mean that is
      0 but for rounding, at most 1e-6 of its standard deviation, counts as 0: the slopes of a
      recording that begins and ends in silence cancel to some 1e-10, and divided by that, any
      candidate is millions away.
    - KVoiceWalk sets s to 0.01 where it is below 0, but leaves what lies between 0 and 0.01, where
      a candidate then scores worse than one that is further off, and all that lies below is alike.
      Here s below 0.01 becomes 0.005 + 0.000025 / (0.015 - s): it meets s in value and slope at
      0.01, goes on falling with s, and stays above 0.005. So of two candidates the nearer one is
      always the better one, however far both are.

    Args:
        value: features of a recording, name -> finite value.
        target: features of the target, of the same names.

    Returns:
        0.005 to 1.

    Raises:
        ValueError: the names differ.
    """
    if value.keys() != target.keys():
        unpaired = ", ".join(sorted(value.keys() ^ target.keys()))
        raise ValueError(f"Features of the same names were expected, and only one has {unpaired}.")
    difference = math.fsum(_difference(name, value[name], target) for name in target)
    similarity = (100 - difference) / 100
    if similarity >= FLOOR_BEGINS:
        return similarity
    # FLOOR + c / (d - s) with the value and the slope of s where s is FLOOR_BEGINS.
    height = FLOOR_BEGINS - FLOOR
    return FLOOR + height**2 / (FLOOR_BEGINS + height - similarity)


def _difference(name: str, value: float, target: Mapping[str, float]) -> float:
    difference = abs(value - target[name])
    # A mean has its standard deviation beside it; what has none is 0 only where it is just that.
    deviation = target.get(f"{name.removesuffix('_mean')}_std", 0.0)
    if abs(target[name]) <= (ROUNDING * deviation if name.endswith("_mean") else 0.0):
        return difference / (1 + difference)
    return difference / abs(target[name])


def harmonic_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """The weighted harmonic mean of similarities, times 100.

    100 * sum(w) / sum(w / value). It is drawn to the smallest value, and is 0, its limit, where one
    that counts is 0 or less.

    Args:
        values: at most 1.
        weights: as many, 0 or more, not all 0; values of weight 0 do not count.

    Returns:
        0 to 100.
    """
    counted = [(v, w) for v, w in zip(values, weights, strict=True) if w > 0]
    if any(v <= 0 for v, _ in counted):
        return 0.0
    mean = 100 * math.fsum(w for _, w in counted) / math.fsum(w / v for v, w in counted)
    return min(mean, 100.0)  # rounding


class Scorer:
    """Scores speech against one target.

    Each audio is embedded once, by `embed`; the embedding then serves both the target similarity
    and the stability.

    Args:
        target_audio: (n,) float32, 24 kHz.
        encoder: of speakers, and the same for target and candidates.
        weights: of the three similarities.

    Raises:
        AudioError: the target cannot be heard, or holds samples that are not finite.
    """

    def __init__(self, target_audio: Audio, encoder: Encoder, weights: Weights | None = None):
        self._encoder = encoder
        self._weights = weights or Weights()
        self._target_embedding = encoder.embed(target_audio)
        self._target_features = features.extract(target_audio)

    @property
    def target_embedding(self) -> Embedding:
        """The target's speaker embedding, (256,) of length 1."""
        return self._target_embedding

    def embed(self, audio: Audio) -> Embedding:
        """The speaker embedding, (256,) of length 1, of (n,) audio at 24 kHz.

        Raises:
            AudioError: nobody can be heard, or samples are not finite.
        """
        return self._encoder.embed(audio)

    def target_similarity(self, embedding: Embedding) -> float:
        """Cosine similarity of an embedding to the target's, -1 to 1."""
        return _similarity(embedding, self._target_embedding)

    def score(self, audio: Audio, embedding: Embedding, other_embedding: Embedding) -> Score:
        """Scores a candidate by two of its utterances.

        Args:
            audio: (n,) float32, 24 kHz, the first utterance: its features count.
            embedding: of the first utterance.
            other_embedding: of the second one.

        Raises:
            AudioError: `audio` is empty or holds samples that are not finite.
        """
        target = self.target_similarity(embedding)
        stability = _similarity(embedding, other_embedding)
        feature = feature_similarity(features.extract(audio), self._target_features)
        total = harmonic_mean([target, stability, feature], astuple(self._weights))
        return Score(total, target, stability, feature)


def _similarity(a: Embedding, b: Embedding) -> float:
    """Dot product of two embeddings of length 1, kept from rounding past 1."""
    return float(np.clip(np.dot(a, b), -1.0, 1.0))

"""Spaces: how a short vector stands for a voice.

A space ties the 510 rows of a voice together (or, for the full tensor, does not) and carries the
natural scale of each coordinate: one unit is one standard deviation of the stock voices. Knows
voices; knows nothing of speech or scores.

Along its 510 rows a stock voice is almost perfectly smooth, and 92 % of what differs between the
stock voices of Kokoro-82M is one 256-dimensional offset that all rows share. Speech of n phonemes
reads row n - 1 alone, so a space that moves each row by itself leaves 508 rows unproven.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from kvw.errors import VoiceError
from kvw.voice import SHAPE, Voice

Vectors = NDArray[np.float64]


class Space(ABC):
    """Vectors (dim,) on one side, voices (510, 1, 256) on the other."""

    name: str
    dim: int

    @abstractmethod
    def decode(self, x: Vectors) -> torch.Tensor:
        """Voices (n, 510, 1, 256) float32 of vectors (n, dim)."""

    @abstractmethod
    def encode(self, voice: Voice) -> Vectors:
        """The vector (dim,) whose voice is nearest to `voice`; exact where the space holds it."""


def _rows(voice: Voice) -> NDArray[np.float64]:
    return voice.tensor.numpy().astype(np.float64).reshape(SHAPE[0], SHAPE[2])


def _row_means(voices: Sequence[Voice]) -> NDArray[np.float64]:
    return np.stack([_rows(voice).mean(axis=0) for voice in voices])


class MixtureSpace(Space):
    """Weighted sums of voices: x holds one weight for each, in the order given.

    A single voice is a one-hot vector and decodes to the very same tensor. Weights need not sum to
    one: the midpoint of a and b plus alpha times half their difference, KVoiceWalk's
    interpolation, is the weights (1 - alpha) / 2 and (1 + alpha) / 2.
    """

    def __init__(self, voices: Sequence[Voice]):
        self.voices = tuple(voices)
        self.dim = len(self.voices)
        self.name = f"mixture-{self.dim}"
        self._tensors = np.stack([_rows(voice) for voice in self.voices])

    def decode(self, x: Vectors) -> torch.Tensor:
        """Voices (n, 510, 1, 256) of weights (n, dim)."""
        sums = [np.tensordot(w[w != 0], self._tensors[w != 0], axes=1) for w in np.atleast_2d(x)]
        return torch.from_numpy(np.stack(sums).astype(np.float32)).reshape(-1, *SHAPE)

    def encode(self, voice: Voice) -> Vectors:
        """The weights of least norm whose sum is nearest to `voice`."""
        flat = self._tensors.reshape(self.dim, -1)
        weights = np.linalg.lstsq(flat.T, _rows(voice).ravel(), rcond=None)[0]
        return np.asarray(weights, dtype=np.float64)


class OffsetSpace(Space):
    """One offset shared by all rows, added to a base voice.

    The offset is a sum of principal components of the stock voices' row means, each scaled by its
    standard deviation over the stock voices: x = 0 is the base voice itself, with its own structure
    along the rows.

    Raises:
        VoiceError: the voices do not differ.
    """

    def __init__(self, base: Voice, voices: Sequence[Voice], n_components: int):
        means = _row_means(voices)
        centred = means - means.mean(axis=0)
        _, singular, components = np.linalg.svd(centred, full_matrices=False)
        # n voices span at most n - 1 dimensions around their mean; the rest is rounding.
        rank = int((singular > 1e-6 * singular[0]).sum())
        self.dim = min(n_components, rank)
        if self.dim == 0:
            raise VoiceError(
                "Expected at least two different stock voices, whose differences are the "
                f"directions of the search, and got {len(voices)} that do not differ; use others"
            )
        self.name = f"offset-{self.dim}"
        components = components[: self.dim]
        # The sign of a component is arbitrary: fix it, so that x means the same on every machine.
        largest = np.abs(components).argmax(axis=1)
        components *= np.sign(components[np.arange(self.dim), largest])[:, np.newaxis]
        self._components = components
        self._scale = singular[: self.dim] / np.sqrt(len(voices) - 1)
        self._base = _rows(base)

    def decode(self, x: Vectors) -> torch.Tensor:
        """Voices (n, 510, 1, 256) of offsets (n, dim)."""
        offsets = (np.atleast_2d(x) * self._scale) @ self._components
        voices = self._base[np.newaxis] + offsets[:, np.newaxis]
        return torch.from_numpy(voices.astype(np.float32)).reshape(-1, *SHAPE)

    def encode(self, voice: Voice) -> Vectors:
        """The offset from the base's row mean to that of `voice`, projected on the components."""
        difference = (_rows(voice) - self._base).mean(axis=0)
        encoded: Vectors = (self._components @ difference) / self._scale
        return encoded


class FullSpace(Space):
    """Every number of the tensor by itself, as KVoiceWalk moves them.

    x = 0 is the base voice; a unit of each coordinate is that number's standard deviation over the
    population.

    Raises:
        VoiceError: the population is a single voice.
    """

    def __init__(self, base: Voice, population: Sequence[Voice]):
        if len(population) < 2:
            raise VoiceError(
                "Expected at least two voices, whose deviation is the unit of the space, "
                f"and got {len(population)}; use more"
            )
        self.dim = SHAPE[0] * SHAPE[2]
        self.name = "full"
        self._base = _rows(base).ravel()
        # KVoiceWalk's torch.std is the unbiased one.
        self._scale = np.stack([_rows(voice) for voice in population]).std(axis=0, ddof=1).ravel()

    def decode(self, x: Vectors) -> torch.Tensor:
        """Voices (n, 510, 1, 256) of x (n, 130560)."""
        voices = self._base + np.atleast_2d(x) * self._scale
        return torch.from_numpy(voices.astype(np.float32)).reshape(-1, *SHAPE)

    def encode(self, voice: Voice) -> Vectors:
        """The difference to the base, in units; 0 where the population does not vary."""
        difference = _rows(voice).ravel() - self._base
        encoded: Vectors = np.divide(
            difference, self._scale, out=np.zeros_like(difference), where=self._scale > 0
        )
        return encoded

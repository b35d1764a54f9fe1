"""Who speaks: speaker embeddings, and whether a recording holds one speaker.

The one place that knows Resemblyzer. Its encoder is the GE2E network (Wan et al. 2018, "Generalized
End-to-End Loss for Speaker Verification"): it hears 1.6 s windows of 40 mel bands at 16 kHz.
Knows nothing of Kokoro, voices or scores.
"""

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from kvw.audio import SAMPLE_RATE_HZ, SILENCE_PEAK
from kvw.errors import AudioError, ModelError

Vector = npt.NDArray[np.float32]

EMBEDDING_SIZE = 256

MIN_SPEECH_S = 1.0
"""Less speech than this fills no more than two thirds of the encoder's window."""
MIN_PARTIALS = 3
"""Two partial embeddings cannot be told from two groups."""
MIN_GROUP_SHARE = 0.1
"""A smaller group is an odd moment (a laugh, an impersonation) more often than a second speaker."""
MAX_KMEANS_STEPS = 20


class SpeakerEncoder:
    """Resemblyzer's voice encoder, loaded once.

    Attributes:
        device: where the encoder runs, such as "cpu" or "cuda"; results are always on the CPU.
    """

    def __init__(self, device: str = "cpu") -> None:
        """Loads the encoder with the weights that come with the package.

        Raises:
            ModelError: `device` does not exist here.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=r".*scipy\.ndimage\.morphology", category=DeprecationWarning
            )
            import resemblyzer

        self.device = device
        self._preprocess = resemblyzer.preprocess_wav
        self._sample_rate_hz = int(resemblyzer.sampling_rate)
        try:
            self._encoder = resemblyzer.VoiceEncoder(device, verbose=False)
        except RuntimeError as error:
            raise ModelError(
                f"The speaker encoder cannot run on the device {device!r}; use 'cpu'."
            ) from error

    def embed(self, audio: npt.NDArray[np.floating[Any]]) -> Vector:
        """Embeds the speaker of (n,) audio at 24 kHz as (256,) float32 of length 1, all >= 0.

        Exactly Resemblyzer's `embed_utterance(preprocess_wav(audio, source_sr=24000))`: resampled
        to 16 kHz, raised to -30 dBFS where quieter, long pauses cut, partial embeddings averaged.
        Where its voice-activity detector finds no speech this is the embedding of silence.

        Raises:
            AudioError: the audio is empty, not finite or digital silence.
        """
        return self.embed_partials(audio)[0]

    def embed_partials(self, audio: npt.NDArray[np.floating[Any]]) -> tuple[Vector, Vector]:
        """Returns the embedding (256,) and those of its k windows (k, 256), in order of time.

        Windows last 1.6 s and start every 0.77 s of speech; each embedding has length 1.

        Raises:
            AudioError: the audio is empty, not finite or digital silence.
        """
        return self._embed_speech(self._speech(audio))

    def speech_seconds(self, audio: npt.NDArray[np.floating[Any]]) -> float:
        """Returns how much of (n,) audio at 24 kHz the voice-activity detector leaves, in seconds.

        Raises:
            AudioError: the audio is empty, not finite or digital silence.
        """
        return len(self._speech(audio)) / self._sample_rate_hz

    def inspect(self, audio: npt.NDArray[np.floating[Any]]) -> tuple[str, ...]:
        """Warns where (n,) audio at 24 kHz seems to hold more than one speaker.

        The k partial embeddings are split into two groups (spherical 2-means); two speakers give
        groups unlike each other. The warning comes where the similarity of the groups' means is
        below min(0.80, 0.86 - 0.5 / k) and the smaller group holds a tenth of the partials or more.
        The term in k allows for the scatter of means over few windows.

        On LibriSpeech (251 speakers, a clip of 2 to 17 s each; the same clips that set the limits):
        3 false alarms in the 251 clips, 12 (2 %) in 682 cuts of 3, 5 and 8 s, none in 72 stretches
        of 10 to 120 s by four synthetic voices. Of 148 clips of over 10 s joined from two random
        speakers it finds 99 % at equal shares, 98 % at 3 to 1, 88 % at 85 to 15 and 93 % of those
        in turns of 3 s; 97 % of 5 s, but 15 % of 3 s. Random pairs differ in room and microphone
        too: two similar voices at one table are harder.

        Returns:
            One sentence for each warning; none where k < 3 (about 3 s of speech), too few to tell.

        Raises:
            AudioError: there is less than 1 s of speech, or no sound at all.
        """
        speech = self._speech(audio)
        speech_s = len(speech) / self._sample_rate_hz
        if speech_s < MIN_SPEECH_S:
            raise AudioError(
                f"Only {speech_s:.1f} s of speech was found, but at least {MIN_SPEECH_S:g} s is "
                "needed; 20 to 30 s of one speaker are ideal."
            )
        _, partials = self._embed_speech(speech)
        if len(partials) < MIN_PARTIALS:
            return ()
        group_similarity, share = _split(partials)
        if share < MIN_GROUP_SHARE or group_similarity >= min(0.80, 0.86 - 0.5 / len(partials)):
            return ()
        return (
            "It seems to hold more than one speaker (its two most different parts have a "
            f"similarity of {group_similarity:.2f}): keep only the parts of one of them.",
        )

    def _embed_speech(self, speech: Vector) -> tuple[Vector, Vector]:
        embedding, partials, _ = self._encoder.embed_utterance(speech, return_partials=True)
        return embedding, partials

    def _speech(self, audio: npt.NDArray[np.floating[Any]]) -> Vector:
        """The audio as the encoder takes it: 16 kHz, level raised, long pauses cut."""
        if audio.ndim != 1 or len(audio) == 0:
            raise AudioError(
                f"Mono audio of shape (n,) was expected for the speaker encoder, not {audio.shape}."
            )
        if not np.isfinite(audio).all():
            raise AudioError("The audio holds samples that are not finite, so no speaker is heard.")
        if np.abs(audio).max() < SILENCE_PEAK:
            raise AudioError("The audio is digital silence, so no speaker can be heard in it.")
        speech: Vector = self._preprocess(audio, source_sr=SAMPLE_RATE_HZ)
        return speech


def similarity(a: Vector, b: Vector) -> float:
    """Returns the cosine similarity of two embeddings of length 1: 0 (unlike) to 1 (the same)."""
    return float(np.dot(a, b))


def _split(partials: Vector) -> tuple[float, float]:
    """Splits (k, 256) unit vectors in two (spherical k-means, Dhillon and Modha 2001).

    Returns:
        The similarity of the two groups' means, and the share of the smaller group; (1, 0) where
        the vectors do not fall apart.
    """
    k = len(partials)
    pair = np.unravel_index(np.argmin(partials @ partials.T), (k, k))
    best_fit, best = -math.inf, (1.0, 0.0)
    # 2-means finds the nearest optimum: start from the pair least alike and from turns in time.
    starts = [np.arange(k) < max(1, k * quarter // 4) for quarter in (1, 2, 3)]
    starts.append(partials @ partials[pair[0]] > partials @ partials[pair[1]])
    for start in starts:
        first = start
        for _ in range(MAX_KMEANS_STEPS):
            if first.all() or not first.any():
                break
            direction = _unit(partials[first].mean(axis=0)) - _unit(partials[~first].mean(axis=0))
            closer = partials @ direction > 0
            if (closer == first).all():
                break
            first = closer
        if first.all() or not first.any():
            continue
        a, b = partials[first].sum(axis=0), partials[~first].sum(axis=0)
        fit = float(np.linalg.norm(a) + np.linalg.norm(b))
        if fit > best_fit:
            n_first = int(first.sum())
            best_fit, best = fit, (similarity(_unit(a), _unit(b)), min(n_first, k - n_first) / k)
    return best


def _unit(vector: Vector) -> Vector:
    unit: Vector = vector / np.linalg.norm(vector)
    return unit

"""The training file: clips with their labels and features, all in one safetensors file.

What prepare.py writes, train.py and export.py read. Knows the file's layout and the frame clock
that labels, features and audio share; knows nothing of how they are made or used.

In the file the arrays of all clips are joined end to end, and the clips' names stand in its header
as JSON. Their lengths follow from `n_frames`, so nothing else is needed to part them.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from kvw.files import replacing

SAMPLE_RATE_HZ = 24_000
# Kokoro's clock: a phoneme lasts whole frames of 25 ms; F0 and energy have two values in each.
FRAME_SAMPLES = 600
HALF_FRAME_SAMPLES = 300
FRAMES_PER_S = SAMPLE_RATE_HZ / FRAME_SAMPLES

# Where a clip comes from.
LIBRISPEECH, FLITE, WARPED = "librispeech", "flite", "warped"


@dataclass(frozen=True)
class Clip:
    """A spoken clip with true alignment; t is its length in frames.

    Attributes:
        name: tells it apart from the others.
        speaker: LibriSpeech's number, flite's voice, or flite's voice with a warp's number.
        source: LIBRISPEECH, FLITE or WARPED.
        tokens: (n,) int64, phonemes; the boundary token 0 first and last.
        n_frames: (n,) int64, the length of each token, at least 1; t in all.
        f0_hz: (2 t,) float32, 0 where unvoiced.
        energy: (2 t,) float32, log of the mel spectrum's norm.
        audio: (600 t,) int16, 24 kHz.
        embedding: (256,) float32, Resemblyzer's, of unit norm.
    """

    name: str
    speaker: str
    source: str
    tokens: NDArray[np.int64]
    n_frames: NDArray[np.int64]
    f0_hz: NDArray[np.float32]
    energy: NDArray[np.float32]
    audio: NDArray[np.int16]
    embedding: NDArray[np.float32]

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.audio) / SAMPLE_RATE_HZ


def save(path: Path, clips: list[Clip]) -> None:
    """Writes the training file."""
    arrays = {
        "n_tokens": np.array([len(clip.tokens) for clip in clips]),
        "tokens": np.concatenate([clip.tokens for clip in clips]),
        "n_frames": np.concatenate([clip.n_frames for clip in clips]),
        "f0_hz": np.concatenate([clip.f0_hz for clip in clips]),
        "energy": np.concatenate([clip.energy for clip in clips]),
        "audio": np.concatenate([clip.audio for clip in clips]),
        "embedding": np.stack([clip.embedding for clip in clips]),
    }
    names = [{"name": c.name, "speaker": c.speaker, "source": c.source} for c in clips]
    with replacing(path) as temporary:
        save_file(arrays, temporary, metadata={"clips": json.dumps(names)})


def load(path: Path) -> list[Clip]:
    """Reads a training file."""
    with safe_open(path, framework="numpy") as file:
        names = json.loads(file.metadata()["clips"])
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no dict
    first_token = np.cumsum(arrays["n_tokens"])[:-1]
    n_frames = np.split(arrays["n_frames"], first_token)
    first_frame = np.cumsum([frames.sum() for frames in n_frames])[:-1]
    rows = zip(
        names,
        np.split(arrays["tokens"], first_token),
        n_frames,
        np.split(arrays["f0_hz"], 2 * first_frame),
        np.split(arrays["energy"], 2 * first_frame),
        np.split(arrays["audio"], FRAME_SAMPLES * first_frame),
        arrays["embedding"],
        strict=True,
    )
    return [Clip(about["name"], about["speaker"], about["source"], *row) for about, *row in rows]


def by_speaker(clips: Iterable[Clip]) -> dict[str, list[Clip]]:
    """The clips of each speaker, sorted by speaker."""
    groups: dict[str, list[Clip]] = {}
    for clip in sorted(clips, key=lambda clip: clip.speaker):
        groups.setdefault(clip.speaker, []).append(clip)
    return groups

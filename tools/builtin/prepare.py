"""Makes the training file: speech of three sources, aligned, with features.

    python tools/builtin/prepare.py --speech LibriSpeech/train-clean-100 --out training.safetensors

1. LibriSpeech clips, with the phone times in data/alignments_speech_train.json.gz (see align.py);
2. the sentences in data/sentences_flite.json.gz, spoken by flite's slt, rms and kal16, with flite's
   own phone times;
3. a part of 2 warped by WORLD in formants and F0 into more speakers, with the same phone times.

Needs flite (2.2, whose times the labels are), pyworld, and the project's own dependencies.
"""

import argparse
import functools
import gzip
import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pyworld
import soundfile
import soxr
import torch
from corpus import (
    FLITE,
    FRAME_SAMPLES,
    FRAMES_PER_S,
    HALF_FRAME_SAMPLES,
    LIBRISPEECH,
    SAMPLE_RATE_HZ,
    WARPED,
    Clip,
    save,
)
from numpy.typing import NDArray

_HERE = Path(__file__).parent
_DATA = _HERE / "data"
_CONFIG = _HERE.parents[1] / "kvw" / "synth" / "builtin" / "config.json"

_BOUNDARY = 0
_PAUSE = ","
# The phone set of CMUdict, which pocketsphinx and flite share (flite in small letters, with AX for
# the schwa), in the symbols of misaki.
_SYMBOLS = {
    "AA": "ɑ", "AE": "æ", "AH": "ə", "AX": "ə", "AO": "ɔ", "AW": "W", "AY": "I", "EH": "ɛ",
    "ER": "ɜ", "EY": "A", "IH": "ɪ", "IY": "i", "OW": "O", "OY": "Y", "UH": "ʊ", "UW": "u",
    "B": "b", "CH": "ʧ", "D": "d", "DH": "ð", "F": "f", "G": "ɡ", "HH": "h", "JH": "ʤ", "K": "k",
    "L": "l", "M": "m", "N": "n", "NG": "ŋ", "P": "p", "R": "ɹ", "S": "s", "SH": "ʃ", "T": "t",
    "TH": "θ", "V": "v", "W": "w", "Y": "j", "Z": "z", "ZH": "ʒ",
    "SIL": _PAUSE, "PAU": _PAUSE, "+SPN+": _PAUSE, "+NSN+": _PAUSE,
}  # fmt: skip
# pocketsphinx counts time in frames of 10 ms.
_POCKETSPHINX_FRAME_S = 0.01
# By how much labels and audio of one clip may differ in length: flite's diphone voice (kal16) stops
# half-way through the last pause, 0.12 s early.
_LENGTH_TOLERANCE_S = 0.15

# All clips are brought to this root mean square.
_LEVEL = 0.06
_F0_RANGE_HZ = (60.0, 450.0)
_N_MELS = 80
_N_FFT = 1024

# Made speakers: flite's voice, factor on the formants, factor on F0.
_WARPS = [
    ("slt", 0.86, 0.60), ("slt", 0.93, 0.80), ("slt", 1.08, 1.15), ("slt", 1.15, 1.30),
    ("rms", 0.90, 0.85), ("rms", 1.08, 1.25), ("rms", 1.16, 1.70), ("rms", 1.22, 2.00),
    ("kal16", 1.10, 1.30), ("kal16", 1.18, 1.80), ("kal16", 0.92, 0.90), ("kal16", 1.05, 1.10),
]  # fmt: skip
_SENTENCES_PER_WARP = 30
_MAX_WARPED_F0_HZ = 420.0


class UnusableError(Exception):
    """A clip that is left out of the training file, and why."""


@dataclass(frozen=True)
class Job:
    """What one clip is made of: a recording, or a text that flite speaks, maybe warped.

    Attributes:
        phones: symbol in _SYMBOLS and end in seconds, in order, without gaps.
        recording: an audio file; None where flite speaks `text` in `voice`.
        formants, pitch: the warp's factors on frequency; None leaves the voice as it is.
    """

    name: str
    speaker: str
    source: str
    phones: list[tuple[str, float]]
    recording: Path | None = None
    voice: str = ""
    text: str = ""
    formants: float | None = None
    pitch: float | None = None


def read_labels(name: str) -> list[dict[str, Any]]:
    """A label file of the data folder: entries with "phones", "text", and "file" or "voice"."""
    with gzip.open(_DATA / name, "rt", encoding="utf-8") as file:
        labels: list[dict[str, Any]] = json.load(file)
    return labels


def find_recording(folder: Path, name: str) -> Path:
    """A LibriSpeech clip in its corpus's tree (speaker/chapter/name), or directly in the folder."""
    speaker, chapter, _ = name.split("-")
    for path in (folder / speaker / chapter / name, folder / name):
        if path.is_file():
            return path
    raise SystemExit(f"Expected the LibriSpeech clip {name} in {folder}, but it is not there")


def librispeech_jobs(folder: Path, limit: int | None) -> list[Job]:
    """The clips of the alignment file."""
    jobs = []
    for label in read_labels("alignments_speech_train.json.gz")[:limit]:
        name = label["file"]
        phones = [
            (symbol, (start + length) * _POCKETSPHINX_FRAME_S)
            for symbol, start, length in label["phones"]
        ]
        path = find_recording(folder, name)
        jobs.append(Job(name, name.split("-")[0], LIBRISPEECH, phones, recording=path))
    return jobs


def flite_jobs(limit: int | None, seed: int) -> list[Job]:
    """The sentences as flite speaks them, then those of the warped voices, drawn by `seed`."""
    spoken: dict[str, list[Job]] = {}
    for i, label in enumerate(read_labels("sentences_flite.json.gz")):
        phones = [(symbol.upper(), start + length) for symbol, start, length in label["phones"]]
        voice = label["voice"]
        job = Job(f"{voice}-{i:03d}", voice, FLITE, phones, voice=voice, text=label["text"])
        spoken.setdefault(voice, []).append(job)
    random = np.random.default_rng(seed)
    warped = []
    for i, (voice, formants, pitch) in enumerate(_WARPS):
        speaker = f"{voice}-warp{i:02d}"
        for k in random.choice(len(spoken[voice]), _SENTENCES_PER_WARP, replace=False):
            job = spoken[voice][k]
            name = f"{speaker}-{job.name}"
            warped.append(
                Job(name, speaker, WARPED, job.phones, None, voice, job.text, formants, pitch)
            )
    if limit is None:
        return [job for jobs in spoken.values() for job in jobs] + warped
    # A trial sees every voice and as many warps as it can.
    mixed = [job for jobs in zip(*spoken.values(), strict=False) for job in jobs]
    return mixed[:limit] + warped[::_SENTENCES_PER_WARP][:limit]


def speak_with_flite(text: str, voice: str) -> tuple[NDArray[np.float64], int]:
    """Audio (samples,) and its rate in Hz."""
    flite = shutil.which("flite")
    if flite is None:
        raise SystemExit("Expected the program flite, but it is not installed (Debian: flite)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flite.wav"
        command = [flite, "-voice", voice, "-t", text, "-o", str(path)]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603  # our own labels
        audio, rate_hz = soundfile.read(path)
    return audio, rate_hz


def warp(
    audio: NDArray[np.float64], rate_hz: int, formants: float, pitch: float
) -> NDArray[np.float64]:
    """The same speech by a longer or shorter vocal tract at another pitch, as long as before.

    WORLD (Morise et al., 2016) parts speech into F0, spectral envelope and aperiodicity. Stretching
    the two spectra along frequency by `formants` moves the formants; `pitch` scales F0.
    """
    f0_hz, times_s = pyworld.dio(audio, rate_hz, f0_floor=_F0_RANGE_HZ[0], f0_ceil=400.0)
    f0_hz = pyworld.stonemask(audio, f0_hz, times_s, rate_hz)
    envelope = pyworld.cheaptrick(audio, f0_hz, times_s, rate_hz)
    aperiodicity = pyworld.d4c(audio, f0_hz, times_s, rate_hz)
    n_bins = envelope.shape[1]
    source = np.clip(np.arange(n_bins) / formants, 0, n_bins - 1)
    low = np.floor(source).astype(int)
    high = np.minimum(low + 1, n_bins - 1)
    share = source - low

    def stretch(spectra: NDArray[np.float64]) -> NDArray[np.float64]:
        stretched = (1 - share) * spectra[:, low] + share * spectra[:, high]
        return np.ascontiguousarray(stretched)

    warped = pyworld.synthesize(
        np.clip(f0_hz * pitch, 0, _MAX_WARPED_F0_HZ),
        np.exp(stretch(np.log(envelope))),
        stretch(aperiodicity),
        rate_hz,
    )[: len(audio)]
    return np.pad(warped, (0, len(audio) - len(warped)))


def whole_frames(
    tokens: list[int], ends_s: list[float], n_frames: int, pause: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens and lengths on the frame clock, with the boundary token on either side.

    A pause at the edge becomes the boundary; without one, the boundary takes a frame of its
    neighbour. A token that rounds to nothing takes its frame from the longest token nearby.

    Raises:
        UnusableError: too many short phones in a row.
    """
    ends = np.clip(np.round(np.array(ends_s) * FRAMES_PER_S).astype(np.int64), 0, n_frames)
    ends[-1] = n_frames
    lengths = np.diff(ends, prepend=0)
    tokens = list(tokens)
    if tokens[0] == pause:
        tokens[0] = _BOUNDARY
    else:
        tokens.insert(0, _BOUNDARY)
        lengths[0] -= 1
        lengths = np.insert(lengths, 0, 1)
    if tokens[-1] == pause:
        tokens[-1] = _BOUNDARY
    else:
        tokens.append(_BOUNDARY)
        lengths[-1] -= 1
        lengths = np.append(lengths, 1)
    for i in range(len(lengths)):
        while lengths[i] < 1:
            near = [k for k in (i - 1, i + 1, i - 2, i + 2, i - 3, i + 3) if 0 <= k < len(lengths)]
            giver = max(near, key=lambda k: lengths[k])
            if lengths[giver] <= 1:
                raise UnusableError("several phones shorter than a frame in a row")
            lengths[giver] -= 1
            lengths[i] += 1
    return np.array(tokens, dtype=np.int64), lengths


def f0_and_energy(
    audio: NDArray[np.float32], n_frames: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """F0 in Hz (0 where unvoiced) and log energy, (2 n_frames,) each, 80 values a second."""
    f0_hz, _ = pyworld.harvest(
        audio.astype(np.float64),
        SAMPLE_RATE_HZ,
        f0_floor=_F0_RANGE_HZ[0],
        f0_ceil=_F0_RANGE_HZ[1],
        frame_period=1000 * HALF_FRAME_SAMPLES / SAMPLE_RATE_HZ,
    )
    f0_hz = f0_hz[: 2 * n_frames]
    f0_hz = np.pad(f0_hz, (0, 2 * n_frames - len(f0_hz)))
    mel = librosa.feature.melspectrogram(
        y=audio,
        sr=SAMPLE_RATE_HZ,
        n_fft=_N_FFT,
        hop_length=HALF_FRAME_SAMPLES,
        n_mels=_N_MELS,
        power=1.0,
    )[:, : 2 * n_frames]
    energy = np.log(np.linalg.norm(mel, axis=0) + 1e-3)
    return f0_hz.astype(np.float32), energy.astype(np.float32)


@functools.cache
def _speaker_encoder() -> Any:
    from resemblyzer import VoiceEncoder  # seconds to import

    torch.set_num_threads(1)
    return VoiceEncoder("cpu", verbose=False)


def embed(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Resemblyzer's speaker embedding (256,) of audio at 24 kHz."""
    from resemblyzer import preprocess_wav

    wav = preprocess_wav(audio, source_sr=SAMPLE_RATE_HZ)
    embedding: NDArray[np.float32] = _speaker_encoder().embed_utterance(wav)
    return embedding


def make_clip(job: Job, vocab: Mapping[str, int]) -> Clip:
    """The clip of one job.

    Raises:
        UnusableError: its labels do not fit its audio or the frame clock.
    """
    if job.recording is None:
        audio, rate_hz = speak_with_flite(job.text, job.voice)
    else:
        audio, rate_hz = soundfile.read(job.recording)
    labelled_s, spoken_s = job.phones[-1][1], len(audio) / rate_hz
    if abs(labelled_s - spoken_s) > _LENGTH_TOLERANCE_S:
        raise UnusableError(f"labels of {labelled_s:.1f} s for audio of {spoken_s:.1f} s")
    if job.formants is not None and job.pitch is not None:
        audio = warp(audio, rate_hz, job.formants, job.pitch)
    audio = soxr.resample(audio, rate_hz, SAMPLE_RATE_HZ, quality="HQ").astype(np.float32)
    audio = np.clip(audio * (_LEVEL / (np.sqrt(np.mean(audio**2)) + 1e-6)), -1, 1)
    n_frames = len(audio) // FRAME_SAMPLES
    audio = audio[: n_frames * FRAME_SAMPLES]
    symbols = [_SYMBOLS[phone] for phone, _ in job.phones]
    tokens, lengths = whole_frames(
        [vocab[symbol] for symbol in symbols],
        [end_s for _, end_s in job.phones],
        n_frames,
        vocab[_PAUSE],
    )
    f0_hz, energy = f0_and_energy(audio, n_frames)
    samples = (audio * 32767).astype(np.int16)
    return Clip(
        job.name,
        job.speaker,
        job.source,
        tokens,
        lengths,
        f0_hz,
        energy,
        samples,
        embed(audio),
    )


def _try(job: Job, vocab: Mapping[str, int]) -> Clip | str:
    try:
        return make_clip(job, vocab)
    except UnusableError as reason:
        return f"left out {job.name}: {reason}"


def main() -> None:
    """Reads the flags, makes the clips, writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--speech",
        type=Path,
        required=True,
        help="LibriSpeech's train-clean-100, or a folder with the clips that are needed of it",
    )
    parser.add_argument("--out", type=Path, required=True, help="training file (.safetensors)")
    parser.add_argument("--config", type=Path, default=_CONFIG, help="the model's config.json")
    parser.add_argument("--seed", type=int, default=0, help="draws the sentences to warp")
    parser.add_argument("--limit", type=int, help="at most so many clips of each source: a trial")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()

    vocab = json.loads(arguments.config.read_text(encoding="utf-8"))["vocab"]
    jobs = librispeech_jobs(arguments.speech, arguments.limit)
    jobs += flite_jobs(arguments.limit, arguments.seed)
    clips: list[Clip] = []
    # Spawned, not forked: the workers run torch, which does not bear a fork.
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        results = pool.imap(functools.partial(_try, vocab=vocab), jobs, chunksize=4)
        for n_done, result in enumerate(results, start=1):
            if isinstance(result, Clip):
                clips.append(result)
            else:
                print(result, file=sys.stderr)
            if n_done % 50 == 0:
                print(f"{n_done} of {len(jobs)} clips", flush=True)
    save(arguments.out, clips)
    for source, n_clips in Counter(clip.source for clip in clips).items():
        of_source = [clip for clip in clips if clip.source == source]
        n_speakers = len({clip.speaker for clip in of_source})
        minutes = sum(clip.duration_s for clip in of_source) / 60
        print(f"{source}: {n_clips} clips of {n_speakers} speakers, {minutes:.1f} min")


if __name__ == "__main__":
    main()

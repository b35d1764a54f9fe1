"""Recordings: any audio or video file in, 24 kHz mono and honest warnings out.

Knows file formats (soundfile, PyAV), resampling (soxr) and what spoils a recording as a target:
length, bandwidth, clipping, noise, a cut in mid-word. Knows nothing of speakers, voices or models;
whether there is one speaker in it is asked of `kvw.speaker`.

Figures in comments were measured on LibriSpeech (251 speakers, one clip each) and, where they speak
of similarity, with Resemblyzer against the embedding of the untouched clip.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvw import files
from kvw.errors import AudioError

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer

Audio = npt.NDArray[np.float32]

SAMPLE_RATE_HZ = 24_000
"""The one rate inside KVW: Kokoro's."""

MIN_DURATION_S = 1.0
"""Less does not fill the encoder's window of 1.6 s (the first second of a clip has a similarity of
0.73 to the end of the same clip): an error."""
SHORT_DURATION_S = 5.0
"""The embedding of a short clip follows its words: similarity to the end of the same clip is 0.84
after 2 s, 0.87 after 3 s, 0.91 after 5 s, 0.93 after 7 s (medians): a warning."""
LONG_DURATION_S = 60.0
"""Twice the ideal: every use takes longer, and other voices and rooms creep in: a warning."""
MAX_DURATION_S = 600.0
"""Above this it is a podcast or a film by mistake, and decoding it eats the memory: an error."""

FULL_BAND_RATE_HZ = 16_000
"""Resemblyzer listens at 16 kHz; speech through 8 kHz keeps a similarity of 0.94 (median)."""

MAX_LOST = 0.05
"""Share of the samples or packets of a file that may be missing before it counts as damaged."""
STREAMED_BYTES = 0x7FFF0000
"""Sizes from here on (2 GiB, 4 GiB or a little less) mean "unknown" in the header of a stream."""
MICROSECONDS = 1_000_000
"""FFmpeg's unit for the length of a container."""

SILENCE_PEAK = 1e-4
"""-80 dBFS, about 3 steps of 16 bits: dithered digital silence lies below, any microphone above."""

CLIPPED_RUN_SAMPLES = 3
CLIPPED_RUN_S = 1 / 16_000
"""A flat top spans this time, and 3 samples at least: a round top of 100 Hz spans less."""
CLIPPED_RUNS = 3
"""Flat tops in a recording: none of 251 clips has that many, at 16 to 96 kHz and in any format (one
or two come by chance in 8 bits, mu-law and A-law); cut off at 0.5 of their peak 98 % and more have,
at 0.7 81 % at 16 kHz and 95 % from 44.1 kHz on."""
CLIPPED_TOLERANCE = 1.5 / 32768
"""How flat is flat, and how near to 1.0 is full scale: one 16-bit step and rounding."""
CLIPPED_PEAK = 0.1
"""-20 dBFS: below it the steps of 16 bits themselves make tops flat."""

FRAME_SAMPLES = SAMPLE_RATE_HZ // 50
"""20 ms, as in NIST's stnr: shorter than a phoneme, longer than a pitch period."""
SILENT_FRAME_POWER = 1e-9
"""-90 dBFS: gated or padded, not recorded; such frames say nothing of the noise under speech."""
NOISE_PERCENTILE = 5
SPEECH_PERCENTILE = 95
MIN_FRAMES = 25
"""0.5 s of recorded sound: fewer frames make no percentiles."""
LOW_SNR_DB = 20.0
"""With 20 dB of white or pink noise the similarity to the clean clip is 0.89, with 15 dB 0.81
(medians); 2 % of the 251 clips lie below."""

EDGE_S = 0.01
"""One pitch period of a low voice; a longer edge would take a tightly trimmed onset for a cut."""
CUT_LEVEL_DB = -15.0
"""Level of the edge against speech (95th percentile of frames): above it 1 % of the 251 clips end,
and 81 % of those that are cut at a random moment of speech."""


@dataclass(frozen=True, eq=False)
class Recording:
    """A recording as KVW uses it, and what is wrong with it.

    Attributes:
        audio: (n,) float32, 24 kHz mono; resampling may overshoot [-1, 1] a little.
        path: where it was read from.
        source_rate_hz: sample rate of the file.
        n_channels: channels of the file, averaged in `audio`.
        warnings: one sentence for each thing that makes it a worse target, and what to do.
    """

    audio: Audio
    path: Path
    source_rate_hz: int
    n_channels: int
    warnings: tuple[str, ...]

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.audio) / SAMPLE_RATE_HZ


def load(path: Path) -> Recording:
    """Reads and inspects a recording.

    WAV, FLAC, OGG, AIFF and the like are read by libsndfile, everything else (MP3, M4A, WebM, MP4
    and other containers, of which the first audio track) by the FFmpeg libraries inside PyAV.
    Channels are averaged, then soxr resamples ("VHQ"). A file that ends too soon is recognised by
    the length in its header; MP3 and OGG hold none, there only the abrupt end is noticed.

    Raises:
        AudioError: the file is missing, empty, no audio, damaged or cut off; it holds NaN or
            infinity or nothing but silence; it is shorter than 1 s or longer than 10 minutes.
    """
    _check_file(path)
    channels, rate_hz = _decode(path)
    duration_s = len(channels) / rate_hz
    if len(channels) == 0:
        raise AudioError(f"{path} contains no audio samples; record or export it again.")
    if not np.isfinite(channels).all():
        raise AudioError(
            f"{path} holds samples that are not finite numbers; export it again as 16-bit WAV."
        )
    if duration_s < MIN_DURATION_S:
        raise AudioError(
            f"{path} lasts {duration_s:.2f} s, but at least {MIN_DURATION_S:g} s is needed; "
            "20 to 30 s of one speaker are ideal."
        )
    mono = channels.mean(axis=1, dtype=np.float32)
    if np.abs(mono).max() < SILENCE_PEAK:
        if np.abs(channels).max() < SILENCE_PEAK:
            raise AudioError(f"{path} is digital silence; check the microphone and record again.")
        raise AudioError(
            f"The channels of {path} cancel each other when averaged; export one of them as mono."
        )
    audio = _resample(mono, rate_hz)
    return Recording(
        audio=audio,
        path=path,
        source_rate_hz=rate_hz,
        n_channels=channels.shape[1],
        warnings=(
            *_inspect_duration(duration_s),
            *_inspect_rate(rate_hz),
            *_inspect_clipping(channels, rate_hz),
            *_inspect_sound(audio),
        ),
    )


def save(path: Path, audio: npt.ArrayLike, sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Writes (n,) audio as 16-bit mono WAV, whole or not at all.

    Where samples lie outside [-1, 1] all are divided by the peak: quieter, but never clipped.

    Raises:
        AudioError: `audio` is empty, not one-dimensional or not finite; `path` cannot be written.
    """
    import soundfile

    samples = np.asarray(audio, dtype=np.float32)
    if samples.ndim != 1 or len(samples) == 0:
        raise AudioError(f"Mono audio of shape (n,) was expected to save, not {samples.shape}.")
    if not np.isfinite(samples).all():
        raise AudioError(f"The audio for {path} holds samples that are not finite numbers.")
    samples = samples / max(1.0, float(np.abs(samples).max()))
    try:
        with files.replacing(path) as temporary:
            soundfile.write(temporary, samples, sample_rate_hz, format="WAV", subtype="PCM_16")
    except OSError as error:
        raise AudioError(f"{path} cannot be written: {error.strerror or error}.") from error


def signal_to_noise_db(audio: Audio) -> float | None:
    """Estimates the signal-to-noise ratio of speech from the energies of its frames.

    After the quick method of NIST's stnr (Speech Quality Assurance Package): in 20 ms frames the
    power (variance) of speech has two modes, speech and the noise in its pauses. Here the noise is
    the 5th percentile N; the signal is the mean power of the frames that lie, in dB, in the upper
    half between the 5th and the 95th percentile, less N. Frames of digital silence do not count.

    White noise of a known level under 40 clean clips: 30, 20, 10 dB are estimated as 30.6, 21.6,
    12.8 dB, each within 0.6 dB (standard deviation); pink noise, much of whose power lies below
    speech, as 33.8, 24.8, 16.1 dB. Cuts of 3 s without a pause can read too low (2 % of them by
    enough to fall under 20 dB).

    Args:
        audio: (n,) float32, 24 kHz.

    Returns:
        The ratio in dB, or None where there is less than 0.5 s of recorded sound.
    """
    power = _frame_power(audio)
    if len(power) < MIN_FRAMES:
        return None
    level_db = 10 * np.log10(power)
    noise_db, speech_db = np.percentile(level_db, [NOISE_PERCENTILE, SPEECH_PERCENTILE])
    noise = 10 ** (noise_db / 10)
    signal = power[level_db >= (noise_db + speech_db) / 2].mean() - noise
    # A steady sound is its own noise: the floor keeps the logarithm, -60 dB says it all.
    return float(10 * np.log10(max(signal / noise, 1e-6)))


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise AudioError(f"{path} is a folder; give the path of one audio file.")
    if not path.exists():
        raise AudioError(f"There is no file {path}; give the path of an audio file.")
    if not path.is_file():
        raise AudioError(f"{path} is not a regular file; give the path of an audio file.")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {error.strerror}.") from error
    if empty:
        raise AudioError(f"{path} is empty (0 bytes); record or download it again.")


def _decode(path: Path) -> tuple[Audio, int]:
    """Returns (n, channels) samples and their rate in Hz."""
    import soundfile

    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, TypeError):
        # Not a format of libsndfile's (TypeError: it goes by the suffix .raw and asks for a rate).
        return _decode_container(path)
    with file:
        if file.format == "MP3":
            # libsndfile guesses the length of an MP3 without a Xing header from the first frames,
            # and stops there: of 12 s with a quiet beginning it read 4.
            return _decode_container(path)
        rate_hz = int(file.samplerate)
        limit = _max_samples(rate_hz)
        try:
            # One sample more than allowed: the length in a header can be wrong or unknown.
            samples: Audio = file.read(frames=limit + 1, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise _damaged(path) from error
        # Of a WAV that is cut off libsndfile corrects the header in silence, and notes it in a log.
        note = re.search(r"(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", file.extra_info)
    if len(samples) > limit:
        raise _too_long(path)
    if note and int(note[1]) < STREAMED_BYTES:
        _check_complete(path, int(note[2]), int(note[1]))
    return samples, rate_hz


def _decode_container(path: Path) -> tuple[Audio, int]:
    """The first audio track; packets that do not decode are skipped as long as they are few."""
    import av

    blocks: list[Audio] = []
    n_samples = n_packets = n_bad = 0
    try:
        # A playlist must not reach out to the network, nor a colon in a name be taken for a scheme.
        with av.open(
            f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="ignore"
        ) as container:
            if not container.streams.audio:
                raise AudioError(
                    f"{path} has no audio track; give a recording such as WAV, FLAC, MP3 or M4A."
                )
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise AudioError(
                    f"The audio track of {path} is in a format that FFmpeg does not know; export "
                    "it as WAV."
                )
            rate_hz, n_channels = int(stream.rate), int(stream.channels)
            for packet in container.demux(stream):
                n_packets += 1
                try:
                    frames = packet.decode()
                except av.InvalidDataError:
                    n_bad += 1
                    continue
                for frame in frames:
                    if (frame.sample_rate, frame.layout.nb_channels) != (rate_hz, n_channels):
                        n_bad += 1
                        continue
                    planar = frame.format.is_planar
                    blocks.append(_to_float(frame.to_ndarray(), planar, n_channels))
                    n_samples += frame.samples
                if n_samples > _max_samples(rate_hz):
                    raise _too_long(path)
            promised_s = _promised_s(container, stream)
    except av.FFmpegError as error:
        raise _damaged(path) from error
    if n_bad > MAX_LOST * n_packets:
        raise _damaged(path)
    _check_complete(path, n_samples, int(promised_s * rate_hz))
    return np.concatenate([np.zeros((0, n_channels), dtype=np.float32), *blocks]), rate_hz


def _promised_s(container: "InputContainer", stream: "AudioStream") -> float:
    """The track's length by the container's header, 0 where there is none.

    Elsewhere (MP3, raw AAC) FFmpeg guesses the length from the bit rate: no promise.
    """
    if not container.format.name.startswith(("mov", "matroska")):
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams.get()) == 1:
        return container.duration / MICROSECONDS
    return 0.0


def _to_float(samples: npt.NDArray[np.generic], planar: bool, n_channels: int) -> Audio:
    """FFmpeg's sample formats as (n, channels) float32 in [-1, 1]."""
    samples = samples.T if planar else samples.reshape(-1, n_channels)
    floats = samples.astype(np.float32)
    if samples.dtype == np.uint8:
        floats = floats / np.float32(128) - np.float32(1)
    if np.issubdtype(samples.dtype, np.signedinteger):
        floats /= 2 ** (8 * samples.dtype.itemsize - 1)
    return floats


def _max_samples(rate_hz: int) -> int:
    return int(MAX_DURATION_S * rate_hz)


def _check_complete(path: Path, came: int, promised: int) -> None:
    """Codecs pad and trim by some milliseconds; a lost tail is more than a twentieth."""
    if came < (1 - MAX_LOST) * promised:
        raise AudioError(
            f"{path} is cut off: only {100 * came / promised:.0f} % of the audio that its header "
            "promises is there; copy or download it again."
        )


def _damaged(path: Path) -> AudioError:
    return AudioError(
        f"{path} is not readable as audio or is damaged; give a recording such as WAV, FLAC, MP3 "
        "or M4A."
    )


def _too_long(path: Path) -> AudioError:
    return AudioError(
        f"{path} is longer than {MAX_DURATION_S / 60:g} minutes; cut out 20 to 30 s of one speaker."
    )


def _resample(mono: Audio, rate_hz: int) -> Audio:
    import soxr

    if rate_hz == SAMPLE_RATE_HZ:
        return mono
    resampled: Audio = soxr.resample(mono, rate_hz, SAMPLE_RATE_HZ, quality="VHQ")
    return resampled.astype(np.float32, copy=False)


def _frame_power(audio: Audio) -> npt.NDArray[np.float64]:
    """Variance of each 20 ms frame, digital silence left out."""
    n_frames = len(audio) // FRAME_SAMPLES
    frames = audio[: n_frames * FRAME_SAMPLES].reshape(n_frames, FRAME_SAMPLES)
    power: npt.NDArray[np.float64] = frames.var(axis=1, dtype=np.float64)
    return power[power > SILENT_FRAME_POWER]


def _inspect_duration(duration_s: float) -> list[str]:
    if duration_s < SHORT_DURATION_S:
        return [f"It lasts only {duration_s:.1f} s: 20 to 30 s of one speaker are ideal, use more."]
    if duration_s > LONG_DURATION_S:
        return [f"It lasts {duration_s:.0f} s: 20 to 30 s of one speaker are ideal, cut them out."]
    return []


def _inspect_rate(rate_hz: int) -> list[str]:
    if rate_hz >= FULL_BAND_RATE_HZ:
        return []
    return [
        f"Its sample rate is {rate_hz} Hz, which cuts off part of the timbre: use a recording at "
        f"{FULL_BAND_RATE_HZ} Hz or more."
    ]


def _inspect_clipping(channels: Audio, rate_hz: int) -> list[str]:
    n_least = max(CLIPPED_RUN_SAMPLES, math.ceil(CLIPPED_RUN_S * rate_hz) + 1)
    n_runs = sum(
        _count_flat_tops(side, n_least)
        for channel in channels.T
        for side in (channel, np.negative(channel))
    )
    if n_runs < CLIPPED_RUNS:
        return []
    return [
        f"It is clipped (its peaks are cut flat in {n_runs} places): record it again at a lower "
        "level."
    ]


def _count_flat_tops(samples: Audio, n_least: int) -> int:
    """Counts runs of `n_least` samples or more at full scale or at a maximum below it."""
    top = min(float(samples.max()), 1.0)
    if top < CLIPPED_PEAK:
        return 0
    at_top = np.concatenate([[False], samples >= top - CLIPPED_TOLERANCE, [False]])
    starts, ends = np.flatnonzero(at_top[1:] != at_top[:-1]).reshape(-1, 2).T
    return int(np.count_nonzero(ends - starts >= n_least))


def _inspect_sound(audio: Audio) -> list[str]:
    snr_db = signal_to_noise_db(audio)
    if snr_db is None:
        return []
    if snr_db < LOW_SNR_DB:
        return [
            f"It is noisy (speech is about {max(snr_db, 0):.0f} dB above the noise, "
            f"{LOW_SNR_DB:.0f} dB or more are good): record it in a quieter room or nearer to the "
            "microphone."
        ]
    # In noise the edges are loud whether a word is cut or not.
    return _inspect_edges(audio)


def _inspect_edges(audio: Audio) -> list[str]:
    speech = np.percentile(_frame_power(audio), SPEECH_PERCENTILE)
    n_edge = round(EDGE_S * SAMPLE_RATE_HZ)
    return [
        f"It {verb} abruptly, in the middle of a sound: cut it in a pause instead."
        for verb, edge in (("starts", audio[:n_edge]), ("ends", audio[-n_edge:]))
        if edge.var(dtype=np.float64) > speech * 10 ** (CUT_LEVEL_DB / 10)
    ]

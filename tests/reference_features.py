"""KVoiceWalk's features, written down from their definitions with one librosa call after another.

Slow and plain: what `kvw.features` must equal. Audio of less than 9 frames or without any variance
is beyond it, as it is beyond the original.
"""

import librosa
import numpy as np
import numpy.typing as npt
import scipy.stats

RATE = 24000
N_FFT = 2048
HOP = 512


def extract(audio: npt.NDArray[np.float32]) -> dict[str, float]:
    """Features of (n,) float32 audio at 24 kHz, name -> value."""
    f: dict[str, float] = {}

    def both(name: str, values: npt.NDArray[np.floating] | list[float]) -> None:
        f[f"{name}_mean"] = float(np.mean(values))
        f[f"{name}_std"] = float(np.std(values))

    f["rms_energy"] = float(np.sqrt(np.mean(audio**2)))
    f["zero_crossing_rate"] = float(np.mean(librosa.feature.zero_crossing_rate(audio)))

    both(
        "spectral_centroid",
        librosa.feature.spectral_centroid(y=audio, sr=RATE, n_fft=N_FFT, hop_length=HOP),
    )
    both(
        "spectral_bandwidth",
        librosa.feature.spectral_bandwidth(y=audio, sr=RATE, n_fft=N_FFT, hop_length=HOP),
    )
    both(
        "spectral_rolloff",
        librosa.feature.spectral_rolloff(y=audio, sr=RATE, n_fft=N_FFT, hop_length=HOP),
    )
    both(
        "spectral_contrast",
        librosa.feature.spectral_contrast(y=audio, sr=RATE, n_fft=N_FFT, hop_length=HOP),
    )

    mfcc = librosa.feature.mfcc(y=audio, sr=RATE, n_mfcc=13, n_fft=N_FFT, hop_length=HOP)
    for i, row in enumerate(mfcc, start=1):
        both(f"mfcc{i}", row)
    for i, row in enumerate(librosa.feature.delta(mfcc), start=1):
        both(f"mfcc{i}_delta", row)

    chroma = librosa.feature.chroma_stft(y=audio, sr=RATE, n_fft=N_FFT, hop_length=HOP)
    both("chroma", chroma)
    for i, row in enumerate(chroma, start=1):
        both(f"chroma_{i}", row)

    both("mel_spec", librosa.feature.melspectrogram(y=audio, sr=RATE, n_fft=N_FFT, hop_length=HOP))
    both(
        "spectral_flatness", librosa.feature.spectral_flatness(y=audio, n_fft=N_FFT, hop_length=HOP)
    )
    both("tonnetz", librosa.feature.tonnetz(y=audio, sr=RATE))

    tempo, beats = librosa.beat.beat_track(y=audio, sr=RATE)
    f["tempo"] = float(np.ravel(tempo)[0])
    times = librosa.frames_to_time(beats, sr=RATE)
    both("beat", np.diff(times) if len(times) > 1 else [0.0])

    pitches, magnitudes = librosa.piptrack(y=audio, sr=RATE, n_fft=N_FFT, hop_length=HOP)
    found = []
    for t in range(pitches.shape[1]):
        pitch = pitches[magnitudes[:, t].argmax(), t]
        if pitch > 0:
            found.append(pitch)
    both("pitch", found or [0.0])

    both("energy", [sum(abs(audio[i : i + HOP])) for i in range(0, len(audio), HOP)])

    power = np.abs(librosa.stft(audio, n_fft=N_FFT, hop_length=HOP)) ** 2
    ratios = [row.mean() / row.std() if row.std() > 0 else 0.0 for row in power]
    f["harmonic_ratio"] = float(np.mean(ratios))

    f["audio_mean"] = float(np.mean(audio))
    f["audio_std"] = float(np.std(audio))
    f["audio_skew"] = float(scipy.stats.skew(audio))
    f["audio_kurtosis"] = float(scipy.stats.kurtosis(audio))
    return f

"""What a recording sounds like, in 106 numbers: the audio features of KVoiceWalk's score.

The definitions are librosa's defaults, and the results equal those of librosa called feature by
feature; but the spectrogram that most of them need is computed once, and the parts of librosa that
are slow or compiled by numba at first use (beat tracking, pitch peaks, zero crossings, the
constant-Q transform) are written out here in array operations.

Knows nothing of speakers, targets or scores: which features matter is decided in `kvw.score`.
"""

from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from kvw.audio import SAMPLE_RATE_HZ, Audio
from kvw.errors import AudioError

Floats = npt.NDArray[np.floating]
Frames = npt.NDArray[np.intp]

N_FFT = 2048
"""Samples in a frame: 85 ms."""
HOP = 512
"""Samples from one frame to the next: 21 ms."""
N_MFCC = 13
N_CHROMA = 12

DELTA_FRAMES = 9
"""Width of the slope that librosa takes for a delta."""

ZERO_AMPLITUDE = np.float32(1e-10)
"""librosa counts a sample that is nearer to zero than this as positive."""

MAX_AMPLITUDE = 1e5
"""Far above any scale in use (16-bit integers end at 32767), and far below where the variance of
the power leaves float32."""

MIN_PITCH_HZ, MAX_PITCH_HZ = 150.0, 4000.0
PITCH_THRESHOLD = 0.1
"""A spectral peak below this share of its frame's maximum is no pitch."""

CQT_OCTAVES = 7
CQT_BINS_PER_OCTAVE = 36
CQT_SPARSITY = 0.01
"""librosa drops the smallest values of a filter's spectrum, up to this share of their sum."""

ONSET_DELAY = 1 + N_FFT // (2 * HOP)
"""Frames by which librosa delays the onset strength: the difference's lag and half a frame."""
TIGHTNESS = 100.0
"""Ellis's alpha: how much a beat interval off the tempo costs."""

FEATURES = (
    "rms_energy",
    "zero_crossing_rate",
    *(
        f"spectral_{shape}_{statistic}"
        for shape in ("centroid", "bandwidth", "rolloff", "contrast")
        for statistic in ("mean", "std")
    ),
    *(f"mfcc{i}_{statistic}" for i in range(1, N_MFCC + 1) for statistic in ("mean", "std")),
    *(f"mfcc{i}_delta_{statistic}" for i in range(1, N_MFCC + 1) for statistic in ("mean", "std")),
    "chroma_mean",
    "chroma_std",
    *(f"chroma_{i}_{statistic}" for i in range(1, N_CHROMA + 1) for statistic in ("mean", "std")),
    "mel_spec_mean",
    "mel_spec_std",
    "spectral_flatness_mean",
    "spectral_flatness_std",
    "tonnetz_mean",
    "tonnetz_std",
    "tempo",
    "beat_mean",
    "beat_std",
    "pitch_mean",
    "pitch_std",
    "energy_mean",
    "energy_std",
    "harmonic_ratio",
    "audio_mean",
    "audio_std",
    "audio_skew",
    "audio_kurtosis",
)
"""The names of the features, KVoiceWalk's own, in the order of `extract`."""


def extract(audio: Audio) -> dict[str, float]:
    """Measures all features of a recording.

    Frames are 2048 samples under a periodic Hann window, 512 apart, the first centred on sample 0,
    zeros beyond the ends; M is the magnitude and M² the power of their spectra, 1025 bins from 0 to
    12 kHz. `_mean` and `_std` are the mean and the standard deviation (divided by n) over frames,
    and over bands as well where there are several.

    - `rms_energy`: root of the mean square of all samples.
    - `zero_crossing_rate`: share of the samples whose sign differs from the sample before, within
      frames that repeat the first and the last sample beyond the ends; mean.
    - `spectral_centroid_mean`, `_std`: sum of f M / sum of M, in Hz.
    - `spectral_bandwidth_mean`, `_std`: root of the sum of (f - centroid)² M / sum of M, in Hz.
    - `spectral_rolloff_mean`, `_std`: lowest f below which lie 85 % of the sum of M, in Hz.
    - `spectral_contrast_mean`, `_std`: in each of 7 bands (0, 200, 400, ... 6400, 12000 Hz) the
      mean of the largest 2 % of M over the mean of the smallest 2 %, each as 10 log10 and at most
      80 below its maximum.
    - `mfcc1_mean`, `_std`, to `mfcc13_...`: the orthonormal DCT-II of the mel spectrogram in dB
      (at most 80 dB below its maximum).
    - `mfcc1_delta_mean`, `_std`, to `mfcc13_delta_...`: slope of each of these over 9 frames
      (Savitzky-Golay, first order), per frame.
    - `chroma_mean`, `_std`: M² summed into 12 pitch classes around the recording's own tuning,
      divided by the largest class in each frame.
    - `chroma_1_mean`, `_std`, to `chroma_12_...`: each pitch class, from C to B.
    - `mel_spec_mean`, `_std`: the 128 bands of the mel spectrogram (Slaney's scale and norm) of M².
    - `spectral_flatness_mean`, `_std`: geometric over arithmetic mean of M², 0 (a tone) to 1.
    - `tonnetz_mean`, `_std`: the six tonal centroids (Harte, Sandler & Gasser 2006) of a chroma
      from a constant-Q transform (7 octaves from C1, 36 bins each), all in one.
    - `tempo`: beats per minute (Ellis 2007), 0 where nothing ever sets on.
    - `beat_mean`, `beat_std`: the interval between tracked beats (Ellis 2007, "Beat Tracking by
      Dynamic Programming") in s; 0 with fewer than two beats.
    - `pitch_mean`, `pitch_std`: frequency of the largest spectral peak in 150 to 4000 Hz, by
      parabolic interpolation, in Hz; frames without one are left out; 0 where all are.
    - `energy_mean`, `energy_std`: sum of |x| over each 512 samples, the last piece shorter.
    - `harmonic_ratio`: mean of M² over time / its standard deviation (0 where that is 0); mean over
      bins.
    - `audio_mean`, `audio_std`, `audio_skew`, `audio_kurtosis`: moments of the samples; a normal
      distribution has a kurtosis of 0, and a constant is given a skew and a kurtosis of 0.

    Any length is measured: below 4096 samples (9 frames) the deltas repeat the first and the last
    frame. Silence has features like any other sound.

    Equal to librosa 0.11 to 1e-4 of the value, but for means that lie near 0 by the cancellation of
    values of both signs (of the deltas, the samples, the tonnetz): there to 1e-6 of the standard
    deviation, as exact as sums of float32 are.

    Args:
        audio: (n,) float32, 24 kHz, in [-1, 1].

    Returns:
        Name -> value, the names as in `FEATURES`; all finite.

    Raises:
        AudioError: `audio` is empty, not one-dimensional, not finite, or far too loud.
    """
    import librosa

    samples = _check(audio)
    # Zeros beyond the ends are librosa's own centring; done here it does not warn of short audio.
    spectra = librosa.stft(np.pad(samples, N_FFT // 2), n_fft=N_FFT, hop_length=HOP, center=False)
    magnitude: Floats = np.abs(spectra.T)  # (frames, bins), and so in memory
    power = magnitude**2
    mel = power @ _mel_filters()
    mel_db = librosa.power_to_db(mel)
    pitches, strengths = _spectral_peaks(magnitude)

    measured = {
        **_measure_samples(samples),
        **_measure_spectra(magnitude, power),
        **_measure_mel(mel, mel_db),
        **_measure_chroma(power),
        **_statistics("tonnetz", _tonnetz(samples, _tuning(pitches, strengths, 36))),
        **_measure_beats(_onset_strength(mel_db)),
        **_measure_pitch(pitches, strengths),
    }
    return {name: measured[name] for name in FEATURES}


def _check(audio: Audio) -> Audio:
    samples = np.asarray(audio, dtype=np.float32)
    if samples.ndim != 1 or len(samples) == 0:
        raise AudioError(
            f"Mono audio of shape (n,) was expected, and {samples.shape} came; "
            "give at least one sample of one channel."
        )
    if not np.isfinite(samples).all():
        raise AudioError(
            "Audio of finite samples was expected, and NaN or infinity came; "
            "drop it, or export it again."
        )
    if (peak := np.abs(samples).max()) > MAX_AMPLITUDE:
        raise AudioError(
            f"Audio between -1 and 1 was expected, and a sample of {peak:g} came; "
            "divide it by its peak."
        )
    return samples


def _statistics(name: str, values: Floats | Frames) -> dict[str, float]:
    return {
        f"{name}_mean": float(values.mean(dtype=np.float64)),
        f"{name}_std": float(values.std(dtype=np.float64)),
    }


def _measure_samples(samples: Audio) -> dict[str, float]:
    precise = samples.astype(np.float64)
    mean = precise.mean()
    squares = (precise - mean) ** 2
    variance = squares.mean()
    skew = kurtosis = 0.0
    # What a constant leaves of its mean is rounding.
    if variance > (np.finfo(np.float32).eps * mean) ** 2:
        skew = float((squares * (precise - mean)).mean() / variance**1.5)
        kurtosis = float((squares**2).mean() / variance**2 - 3)
    pieces = np.add.reduceat(np.abs(precise), np.arange(0, len(samples), HOP))
    return {
        "rms_energy": float(np.sqrt((precise**2).mean())),
        "zero_crossing_rate": _zero_crossing_rate(samples),
        **_statistics("energy", pieces),
        "audio_mean": float(mean),
        "audio_std": float(np.sqrt(variance)),
        "audio_skew": skew,
        "audio_kurtosis": kurtosis,
    }


def _zero_crossing_rate(samples: Audio) -> float:
    negative = np.pad(samples < -ZERO_AMPLITUDE, N_FFT // 2, mode="edge")
    n_before = np.concatenate([[0], np.cumsum(negative[1:] != negative[:-1])])
    # A frame's first sample has no sample before it.
    n_crossings = n_before[N_FFT - 1 :: HOP] - n_before[: -N_FFT + 1 : HOP]
    return float(n_crossings.mean() / N_FFT)


def _measure_spectra(magnitude: Floats, power: Floats) -> dict[str, float]:
    import librosa

    frequency_hz = np.linspace(0, SAMPLE_RATE_HZ / 2, 1 + N_FFT // 2)
    # Float64: the variance below is a small difference of large numbers.
    total, first, second = (
        magnitude.astype(np.float64) @ np.stack([frequency_hz**k for k in range(3)], axis=1)
    ).T
    total = np.where(total < np.finfo(np.float32).tiny, 1.0, total)
    centroid = first / total
    bandwidth = np.sqrt(np.maximum(second / total - centroid**2, 0))

    below = np.cumsum(magnitude, axis=1)
    rolloff = frequency_hz[(below < np.float32(0.85) * below[:, -1:]).sum(axis=1)]

    contrast = librosa.feature.spectral_contrast(S=magnitude.T, sr=SAMPLE_RATE_HZ)
    flatness = librosa.feature.spectral_flatness(S=power.T, power=1.0)
    mean, deviation = power.mean(axis=0), power.std(axis=0)
    ratio = np.divide(mean, deviation, out=np.zeros_like(mean), where=deviation != 0)
    return {
        **_statistics("spectral_centroid", centroid),
        **_statistics("spectral_bandwidth", bandwidth),
        **_statistics("spectral_rolloff", rolloff),
        **_statistics("spectral_contrast", contrast),
        **_statistics("spectral_flatness", flatness),
        "harmonic_ratio": float(ratio.mean()),
    }


@cache
def _mel_filters() -> Floats:
    """The mel filters, (1025, 128)."""
    import librosa

    filters: Floats = librosa.filters.mel(sr=SAMPLE_RATE_HZ, n_fft=N_FFT).T
    return filters


def _measure_mel(mel: Floats, mel_db: Floats) -> dict[str, float]:
    import librosa

    mfcc = librosa.feature.mfcc(S=mel_db.T, n_mfcc=N_MFCC)
    mode = "interp" if mfcc.shape[1] >= DELTA_FRAMES else "nearest"
    delta = librosa.feature.delta(mfcc, width=DELTA_FRAMES, mode=mode)
    measured = _statistics("mel_spec", mel)
    for i in range(N_MFCC):
        measured |= _statistics(f"mfcc{i + 1}", mfcc[i])
        measured |= _statistics(f"mfcc{i + 1}_delta", delta[i])
    return measured


def _measure_chroma(power: Floats) -> dict[str, float]:
    import librosa

    tuning = _tuning(*_spectral_peaks(power), N_CHROMA)
    chroma = librosa.util.normalize(power @ _chroma_filters(tuning), axis=1)
    measured = _statistics("chroma", chroma)
    for i in range(N_CHROMA):
        measured |= _statistics(f"chroma_{i + 1}", chroma[:, i])
    return measured


@lru_cache(maxsize=128)
def _chroma_filters(tuning: float) -> Floats:
    """Filters from bins to pitch classes, (1025, 12); there are 101 tunings."""
    import librosa

    filters: Floats = librosa.filters.chroma(sr=SAMPLE_RATE_HZ, n_fft=N_FFT, tuning=tuning).T
    return filters


def _spectral_peaks(spectra: Floats) -> tuple[Floats, Floats]:
    """Peaks in the range of pitch, interpolated by parabolas (librosa's piptrack).

    Args:
        spectra: (frames, 1025), magnitude or power.

    Returns:
        Frequency in Hz and height, each (frames, bins of that range), 0 where there is no peak.
    """
    frequency_hz = np.linspace(0, SAMPLE_RATE_HZ / 2, 1 + N_FFT // 2)
    first, end = np.searchsorted(frequency_hz, [MIN_PITCH_HZ, MAX_PITCH_HZ])
    left, middle, right = (spectra[:, first + i : end + i] for i in (-1, 0, 1))
    floor = np.float32(PITCH_THRESHOLD) * spectra.max(axis=1, keepdims=True)
    is_peak = (middle > floor) & (middle > left) & (middle >= right)

    left, middle, right = left[is_peak], middle[is_peak], right[is_peak]
    # The types are those of librosa: tuning is a histogram's mode, which rounding could turn.
    curvature = (left + right).astype(np.float64) - 2 * middle.astype(np.float64)
    slope = (right - left) / 2
    shift = np.zeros_like(middle)
    np.divide(
        -slope, curvature, out=shift, where=np.abs(slope) < np.abs(curvature), casting="unsafe"
    )
    pitches = np.zeros(is_peak.shape, dtype=np.float32)
    heights = np.zeros(is_peak.shape, dtype=np.float32)
    pitches[is_peak] = (np.nonzero(is_peak)[1] + first + shift) * SAMPLE_RATE_HZ / N_FFT
    heights[is_peak] = middle + np.float32(0.5) * slope * shift
    return pitches, heights


def _tuning(pitches: Floats, heights: Floats, bins_per_octave: int) -> float:
    """Deviation from A440 in fractions of a bin, -0.5 to 0.5 by 0.01: that of most high peaks."""
    import librosa

    is_peak = pitches > 0
    if not is_peak.any():
        return 0.0
    pitches, heights = pitches[is_peak], heights[is_peak]
    high = pitches[heights >= np.median(heights)]
    return float(librosa.pitch_tuning(high, bins_per_octave=bins_per_octave))


def _measure_pitch(pitches: Floats, heights: Floats) -> dict[str, float]:
    loudest = np.take_along_axis(pitches, heights.argmax(axis=1)[:, None], axis=1)
    found = loudest[loudest > 0]
    return _statistics("pitch", found if len(found) else np.zeros(1))


def _tonnetz(samples: Audio, tuning: float) -> Floats:
    """Tonal centroids, (6, frames), of the constant-Q chroma."""
    import librosa

    filters = librosa.filters.cq_to_chroma(
        CQT_OCTAVES * CQT_BINS_PER_OCTAVE, bins_per_octave=CQT_BINS_PER_OCTAVE
    )
    chroma = librosa.util.normalize(_constant_q(samples, tuning) @ filters.T, axis=1)
    tonnetz: Floats = librosa.feature.tonnetz(chroma=chroma.T, sr=SAMPLE_RATE_HZ)
    return tonnetz


def _constant_q(samples: Audio, tuning: float) -> Floats:
    """Magnitude of the constant-Q transform (Schörkhuber & Klapuri 2010), (frames, 252).

    The highest octave's filters serve all of them: for each octave down the samples are resampled
    to half the rate. librosa multiplies spectra by the filters' sparse spectra; to multiply the
    samples by what these are in time is the same, and needs no transform.
    """
    import librosa

    kernel = _constant_q_kernel(tuning)
    octaves: list[Floats] = []
    hop = HOP
    for _ in range(CQT_OCTAVES):
        padded = np.pad(samples, len(kernel) // 2)
        frames = np.lib.stride_tricks.sliding_window_view(padded, len(kernel))[::hop]
        real, imaginary = np.split(frames @ kernel, 2, axis=1)
        octaves.insert(0, np.hypot(real, imaginary))
        samples = librosa.resample(samples, orig_sr=2, target_sr=1, res_type="soxr_hq", scale=True)
        hop //= 2
    n_frames = min(len(octave) for octave in octaves)
    return np.concatenate([octave[:n_frames] for octave in octaves], axis=1)


@lru_cache(maxsize=32)
def _constant_q_kernel(tuning: float) -> Floats:
    """The highest octave's filters in time, (samples, 36 real parts and 36 imaginary)."""
    import librosa

    n_bins = CQT_OCTAVES * CQT_BINS_PER_OCTAVE
    frequency_hz = librosa.cqt_frequencies(
        n_bins,
        fmin=float(librosa.note_to_hz("C1")),
        bins_per_octave=CQT_BINS_PER_OCTAVE,
        tuning=tuning,
    )[-CQT_BINS_PER_OCTAVE:]
    wavelets, lengths = librosa.filters.wavelet(freqs=frequency_hz, sr=SAMPLE_RATE_HZ)
    n_fft = wavelets.shape[1]
    spectra = np.fft.fft(wavelets * (lengths[:, None] / n_fft), axis=1)[:, : n_fft // 2 + 1]
    sparse = librosa.util.sparsify_rows(spectra, quantile=CQT_SPARSITY, dtype=np.complex64)
    # sum over k of B[k] X[k], X the transform of x, is the sum over n of x[n] times the transform
    # of B at n.
    kernel = np.fft.fft(sparse.toarray(), n=n_fft, axis=1) / np.sqrt(lengths[:, None])
    return np.concatenate([kernel.real, kernel.imag]).T.astype(np.float32)


def _onset_strength(mel_db: Floats) -> Floats:
    """Median over the mel bands of the rise in dB since the frame before, (frames,)."""
    rise = np.median(np.maximum(np.diff(mel_db, axis=0), 0), axis=1)
    return np.pad(rise, (ONSET_DELAY, 0))[: len(mel_db)]


def _measure_beats(onset: Floats) -> dict[str, float]:
    import librosa

    if not onset.any():
        return {"tempo": 0.0, **_statistics("beat", np.zeros(1))}
    tempo = float(librosa.feature.tempo(onset_envelope=onset, sr=SAMPLE_RATE_HZ, hop_length=HOP)[0])
    # In frames, whole numbers, so that a steady beat deviates by 0 and not by a rounding error.
    intervals = np.diff(_track_beats(onset, tempo))
    beat = _statistics("beat", intervals if len(intervals) else np.zeros(1))
    return {"tempo": tempo, **{name: value * HOP / SAMPLE_RATE_HZ for name, value in beat.items()}}


def _track_beats(onset: Floats, tempo: float) -> Frames:
    """Frames of the beats: Ellis's dynamic programming, with librosa's smoothing and trimming.

    The best predecessor of a beat lies between half a period and two periods before it, so half a
    period of frames is decided at once.
    """
    n_frames = len(onset)
    period = int(np.round(60.0 * SAMPLE_RATE_HZ / HOP / tempo))
    local = _smooth_onsets(onset, period)

    lags = np.arange(int(np.round(period / 2)), 2 * period + 1)
    penalty = TIGHTNESS * np.log(lags / period) ** 2
    reach = lags[-1]
    best = np.full(reach + n_frames, -np.inf)  # of the paths that end in a frame, from `reach` on
    previous = np.full(n_frames, -1)
    for start in range(0, n_frames, lags[0]):
        frames = np.arange(start, min(start + lags[0], n_frames))
        reached = best[reach + frames[:, None] - lags] - penalty
        chosen = reached.argmax(axis=1)
        gain = reached[np.arange(len(frames)), chosen]
        previous[frames] = np.where(gain > -np.inf, frames - lags[chosen], -1)
        best[reach + frames] = local[frames] + np.where(gain > -np.inf, gain, 0)
    # A path begins at the first onset worth the name.
    previous[: np.argmax(local >= 0.01 * local.max())] = -1

    beats = [_last_beat(best[reach:])]
    while previous[beats[-1]] >= 0:
        beats.append(int(previous[beats[-1]]))
    return _trim_beats(np.array(beats[::-1]), local)


def _smooth_onsets(onset: Floats, period: int) -> Floats:
    """Onsets in units of their deviation, under a Gaussian of 1/32 of a period."""
    window = np.exp(-0.5 * (np.arange(-period, period + 1) * 32.0 / period) ** 2)
    scaled = onset / (onset.std(ddof=1) + np.finfo(onset.dtype).tiny)
    return np.convolve(scaled, window)[period : period + len(onset)]


def _last_beat(best: Floats) -> int:
    """The last of the peaks that reach half of their median."""
    after = np.append(best[1:], -np.inf)
    peaks = 1 + np.flatnonzero((best[1:] > best[:-1]) & (best[1:] >= after[1:]))
    if len(peaks) == 0:
        return len(best) - 1
    return int(peaks[best[peaks] >= 0.5 * np.median(best[peaks])][-1])


def _trim_beats(beats: Frames, local: Floats) -> Frames:
    """Leaves out beats before the first and after the last onset of half the beats' usual size."""
    smooth = np.convolve(local[beats], np.hanning(5))[2 : len(local) + 2]
    loud = np.flatnonzero(local > 0.5 * np.sqrt((smooth**2).mean()))
    if len(loud) == 0:
        return beats[:0]
    kept: Frames = beats[(beats >= loud[0]) & (beats <= loud[-1])]
    return kept

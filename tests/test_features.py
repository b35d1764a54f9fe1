"""The features against a plain reference, and against what physics says of simple sounds."""

import re
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import scipy.signal

from kvw import features
from kvw.audio import Audio
from kvw.errors import AudioError
from tests import reference_features
from tests.conftest import SPEECH

RATE_HZ = 24000


def time_s(duration_s: float) -> npt.NDArray[np.float64]:
    return np.arange(round(duration_s * RATE_HZ)) / RATE_HZ


def sine(frequency_hz: float, duration_s: float = 2.0) -> Audio:
    return (0.5 * np.sin(2 * np.pi * frequency_hz * time_s(duration_s))).astype(np.float32)


def noise(duration_s: float = 3.0, seed: int = 0) -> Audio:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(round(duration_s * RATE_HZ))).astype(np.float32)


def chirp() -> Audio:
    audio: Audio = 0.5 * scipy.signal.chirp(time_s(3), 100, 3, 8000).astype(np.float32)
    return audio


def clicks(interval_s: float = 0.5, duration_s: float = 6.0) -> Audio:
    audio = np.zeros(round(duration_s * RATE_HZ), dtype=np.float32)
    click = np.random.default_rng(1).standard_normal(240) * np.hanning(240)
    for start in range(RATE_HZ // 10, len(audio) - 240, round(interval_s * RATE_HZ)):
        audio[start : start + 240] = click
    return audio


def vowels(pitch_hz: float = 120.0, seed: int = 0) -> Audio:
    """Eight syllables: a gliding pulse train through formants, and noise for the consonants."""
    rng = np.random.default_rng(seed)
    syllables = []
    for _ in range(8):
        glide = pitch_hz * np.linspace(rng.uniform(0.9, 1.4), rng.uniform(0.7, 1.1), 6000)
        phase = np.cumsum(glide) / RATE_HZ
        pulses = np.diff(np.floor(phase), prepend=0.0)
        vowel = pulses + 0.002 * rng.standard_normal(6000)
        for formant_hz, width_hz in ((rng.uniform(300, 800), 80), (rng.uniform(900, 2300), 120)):
            radius = np.exp(-np.pi * width_hz / RATE_HZ)
            angle = 2 * np.pi * formant_hz / RATE_HZ
            vowel = scipy.signal.lfilter([1], [1, -2 * radius * np.cos(angle), radius**2], vowel)
        consonant = np.diff(rng.standard_normal(1801)) * np.hanning(1800)
        syllables += [
            0.1 * consonant,
            vowel / np.abs(vowel).max() * np.hanning(6000),
            0.001 * rng.standard_normal(rng.integers(600, 3000)),
        ]
    return (0.4 * np.concatenate(syllables)).astype(np.float32)


def speech() -> Audio:
    if not SPEECH.exists():
        pytest.skip("the example recording is not there")
    from kvw import audio

    return audio.load(SPEECH).audio


SOUNDS: dict[str, Callable[[], Audio]] = {
    "speech": speech,
    "low voice": vowels,
    "high voice": lambda: vowels(210, seed=1),
    "chirp": chirp,
    "noise": noise,
    "clicks": clicks,
    "short": lambda: noise(0.5),
}


def mel_db(audio: Audio) -> npt.NDArray[np.floating]:
    import librosa

    decibels: npt.NDArray[np.floating] = librosa.power_to_db(
        librosa.feature.melspectrogram(y=audio, sr=RATE_HZ)
    ).T
    return decibels


@pytest.mark.parametrize("name", SOUNDS)
def test_features_equal_the_reference(name):
    audio = SOUNDS[name]()
    expected = reference_features.extract(audio)
    actual = features.extract(audio)
    assert list(actual) == list(expected) == list(features.FEATURES)
    for feature, value in expected.items():
        # A mean of values of both signs is exact to the rounding of its values, not of itself.
        mean = feature.endswith("_mean")
        spread = expected[feature.replace("_mean", "_std")] if mean else 0.0
        assert actual[feature] == pytest.approx(value, rel=1e-4, abs=1e-6 * spread + 1e-12), feature


def test_reference_of_beats_covers_odd_and_even_periods():
    """Half a period is rounded to even: the predecessors of a beat depend on it."""
    from librosa.beat import beat_track

    onset = features._onset_strength(mel_db(vowels()))
    for period in range(9, 60):
        tempo = 60 * RATE_HZ / 512 / period
        _, expected = beat_track(onset_envelope=onset, sr=RATE_HZ, bpm=tempo)
        np.testing.assert_array_equal(features._track_beats(onset, tempo), expected)


def test_spectral_peaks_are_those_of_piptrack_to_the_bit():
    import librosa

    magnitude = np.abs(librosa.stft(vowels()))
    pitches, heights = librosa.piptrack(S=magnitude, sr=RATE_HZ)
    ours = features._spectral_peaks(magnitude.T)
    first, end = 13, 342  # 152.3 Hz to 3996 Hz
    np.testing.assert_array_equal(ours[0], pitches[first:end].T)
    np.testing.assert_array_equal(ours[1], heights[first:end].T)
    assert not pitches[:first].any()
    assert not pitches[end:].any()


@pytest.mark.parametrize("tuning", [-0.5, -0.13, 0.0, 0.31, 0.49])
def test_constant_q_transform_is_librosas(tuning):
    import librosa

    audio = vowels()
    expected = np.abs(
        librosa.cqt(
            audio, sr=RATE_HZ, hop_length=512, n_bins=252, bins_per_octave=36, tuning=tuning
        )
    )
    actual = features._constant_q(audio, tuning).T
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5 * expected.max())


def test_sine_has_its_frequency_everywhere():
    measured = features.extract(sine(440))
    assert measured["pitch_mean"] == pytest.approx(440, abs=1)
    assert measured["pitch_std"] == pytest.approx(0, abs=1)
    assert measured["spectral_centroid_mean"] == pytest.approx(440, rel=0.02)
    assert measured["spectral_rolloff_mean"] == pytest.approx(440, abs=RATE_HZ / 2048 * 2)
    assert measured["spectral_bandwidth_mean"] < 100
    assert measured["spectral_flatness_mean"] < 0.001


@pytest.mark.parametrize("frequency_hz", [50, 440, 3000])
def test_sine_crosses_zero_twice_a_period(frequency_hz):
    measured = features.extract(sine(frequency_hz, duration_s=4))
    # At both ends half a frame repeats one sample.
    assert measured["zero_crossing_rate"] == pytest.approx(2 * frequency_hz / RATE_HZ, rel=0.02)


def test_sine_has_the_moments_of_an_arcsine_distribution():
    measured = features.extract(sine(400))
    assert measured["rms_energy"] == pytest.approx(0.5 / np.sqrt(2), rel=1e-6)
    assert measured["audio_std"] == pytest.approx(0.5 / np.sqrt(2), rel=1e-6)
    assert measured["audio_mean"] == pytest.approx(0, abs=1e-8)
    assert measured["audio_skew"] == pytest.approx(0, abs=1e-6)
    assert measured["audio_kurtosis"] == pytest.approx(-1.5, abs=1e-6)


@pytest.mark.parametrize(("pitch_class", "name"), [(1, "C"), (5, "E"), (10, "A")])
def test_sine_is_its_own_pitch_class(pitch_class, name):
    frequency_hz = {"C": 523.25, "E": 659.26, "A": 440.0}[name]
    measured = features.extract(sine(frequency_hz))
    classes = {i: measured[f"chroma_{i}_mean"] for i in range(1, 13)}
    assert max(classes, key=lambda i: classes[i]) == pitch_class
    assert classes[pitch_class] == pytest.approx(1, abs=0.01)


def test_white_noise_is_flat_and_centred():
    measured = features.extract(noise(duration_s=4))
    assert measured["spectral_centroid_mean"] == pytest.approx(RATE_HZ / 4, rel=0.01)
    assert measured["zero_crossing_rate"] == pytest.approx(0.5, rel=0.01)
    # exp(-Euler's constant): geometric over arithmetic mean of an exponential distribution.
    assert measured["spectral_flatness_mean"] == pytest.approx(np.exp(-np.euler_gamma), rel=0.01)
    # Of an exponential distribution mean and deviation are the same.
    assert measured["harmonic_ratio"] == pytest.approx(1, rel=0.05)
    assert measured["audio_kurtosis"] == pytest.approx(0, abs=0.05)
    assert measured["energy_mean"] == pytest.approx(512 * 0.1 * np.sqrt(2 / np.pi), rel=0.01)


@pytest.mark.parametrize("interval_s", [0.4, 0.5, 0.6])
def test_clicks_are_beats(interval_s):
    measured = features.extract(clicks(interval_s, duration_s=12))
    assert measured["beat_mean"] == pytest.approx(interval_s, rel=0.02)
    assert measured["tempo"] == pytest.approx(60 / interval_s, rel=0.06)


def test_level_changes_levels_alone():
    audio = vowels()
    loud, quiet = features.extract(audio), features.extract(audio * np.float32(0.5))
    assert quiet["rms_energy"] == pytest.approx(loud["rms_energy"] / 2)
    assert quiet["energy_mean"] == pytest.approx(loud["energy_mean"] / 2)
    assert quiet["mel_spec_mean"] == pytest.approx(loud["mel_spec_mean"] / 4)
    # A sum over 128 bands that are all 6.02 dB lower, by the orthonormal transform.
    lower = 20 * np.log10(2) * np.sqrt(128)
    assert loud["mfcc1_mean"] - quiet["mfcc1_mean"] == pytest.approx(lower, rel=1e-4)
    for name in ("spectral_centroid_mean", "pitch_mean", "chroma_1_mean", "tonnetz_std", "tempo"):
        assert quiet[name] == pytest.approx(loud[name], rel=1e-5), name


def test_a_steady_beat_deviates_by_exactly_nothing():
    """Rounding would leave 1e-17, and divide by it where this is the target."""
    assert features.extract(clicks(512 * 24 / RATE_HZ, duration_s=12))["beat_std"] == 0


def test_silence_has_finite_features():
    measured = features.extract(np.zeros(RATE_HZ, dtype=np.float32))
    assert all(np.isfinite(list(measured.values())))
    assert measured["spectral_flatness_mean"] == pytest.approx(1)
    for name in ("rms_energy", "tempo", "beat_mean", "pitch_mean", "harmonic_ratio", "audio_skew"):
        assert measured[name] == 0, name


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_samples", [1, 511, 512, 2047, 4095, 4096])
@pytest.mark.parametrize("amplitude", [0, 1e-12, 0.1, 2e4])
def test_short_faint_and_loud_audio_is_measured(n_samples, amplitude):
    measured = features.extract(10 * amplitude * noise()[:n_samples])
    assert tuple(measured) == features.FEATURES
    assert all(np.isfinite(list(measured.values())))


def test_a_constant_has_no_shape():
    measured = features.extract(np.full(RATE_HZ, 0.1, dtype=np.float32))
    assert measured["audio_mean"] == pytest.approx(0.1)
    assert (measured["audio_skew"], measured["audio_kurtosis"]) == (0, 0)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros(0), "at least one sample"),
        (np.zeros((2, 100)), "at least one sample of one channel"),
        (np.array([0.0, np.nan]), "NaN or infinity"),
        (np.array([0.0, np.inf]), "NaN or infinity"),
        (np.array([0.0, 1e9]), "divide it by its peak"),
    ],
)
def test_unusable_audio_is_refused(audio, message):
    with pytest.raises(AudioError, match=message):
        features.extract(audio.astype(np.float32))


def test_extraction_leaves_the_audio_as_it_is_and_repeats():
    audio = vowels()
    before = audio.copy()
    assert features.extract(audio) == features.extract(audio)
    np.testing.assert_array_equal(audio, before)


def test_names_are_unique_and_described():
    assert len(features.FEATURES) == len(set(features.FEATURES)) == 106
    described = features.extract.__doc__ or ""
    for name in features.FEATURES:
        # Of a numbered family its first member is described.
        stem = re.sub(r"\d+", "1", name.removesuffix("_std").removesuffix("_mean"))
        assert f"`{stem}" in described, name


def test_import_is_light():
    code = "import sys, kvw.features; sys.exit('librosa' in sys.modules or 'numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

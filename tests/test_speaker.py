import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from kvw import audio
from kvw.errors import AudioError, ModelError
from kvw.speaker import SpeakerEncoder, similarity

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "example" / "target.wav"
TRAIN = ROOT.parent / "shared" / "speech" / "train"


@pytest.fixture(scope="module")
def encoder():
    return SpeakerEncoder()


@pytest.fixture(scope="module")
def speech():
    return audio.load(EXAMPLE).audio


@pytest.fixture(scope="module")
def reference():
    """Resemblyzer itself, as KVoiceWalk calls it."""
    import resemblyzer

    voice_encoder = resemblyzer.VoiceEncoder("cpu", verbose=False)

    def embed(samples):
        return voice_encoder.embed_utterance(resemblyzer.preprocess_wav(samples, source_sr=24_000))

    return embed


def deeper(speech: audio.Audio) -> audio.Audio:
    """Another speaker: everything a fifth lower and slower."""
    import soxr

    lower: audio.Audio = soxr.resample(speech, 24_000, 36_000)
    return lower


def test_embed_is_resemblyzers(encoder, reference, speech):
    rng = np.random.default_rng(0)
    noisy = (speech[:120_000] + 0.02 * rng.standard_normal(120_000)).astype(np.float32)
    for samples in (speech, speech[:72_000], 0.01 * speech[:72_000], noisy):
        embedding = encoder.embed(samples)
        assert embedding.shape == (256,)
        assert embedding.dtype == np.float32
        np.testing.assert_array_equal(embedding, reference(samples))


def test_embedding_without_speech_is_that_of_silence(encoder, reference):
    noise = (1e-3 * np.random.default_rng(0).standard_normal(480)).astype(np.float32)
    embedding = encoder.embed(noise)
    assert np.isfinite(embedding).all()
    np.testing.assert_array_equal(embedding, reference(noise))
    assert encoder.speech_seconds(noise) == 0


def test_embed_partials(encoder, speech):
    embedding, partials = encoder.embed_partials(speech)
    np.testing.assert_array_equal(embedding, encoder.embed(speech))
    # Windows of 1.6 s every 0.77 s of speech, the last one at least three quarters full.
    n_expected = 1 + (encoder.speech_seconds(speech) - 1.6) / 0.77
    assert partials.shape[1] == 256
    assert n_expected - 1 <= len(partials) <= n_expected + 1
    np.testing.assert_allclose(np.linalg.norm(partials, axis=1), 1, rtol=1e-5)
    mean = partials.mean(axis=0)
    np.testing.assert_allclose(embedding, mean / np.linalg.norm(mean), atol=1e-6)


def test_similarity(encoder, speech):
    first, second = encoder.embed(speech[:300_000]), encoder.embed(speech[300_000:])
    other = encoder.embed(deeper(speech))
    assert similarity(first, first) == pytest.approx(1, abs=1e-5)
    assert similarity(first, second) == similarity(second, first)
    assert isinstance(similarity(first, second), float)
    assert 0 <= similarity(first, other) < 0.8 < similarity(first, second) < 1


def test_the_level_does_not_matter_where_resemblyzer_raises_it(encoder, speech):
    quiet, quieter = 0.01 * speech[:120_000], 0.003 * speech[:120_000]
    assert similarity(encoder.embed(quiet), encoder.embed(quieter)) > 0.999


def test_speech_seconds_counts_speech_and_not_pauses(encoder, speech):
    pause = np.zeros(10 * 24_000, dtype=np.float32)
    spoken_s = encoder.speech_seconds(speech)
    assert 20 < spoken_s <= len(speech) / 24_000
    with_pauses = np.concatenate([pause, speech, pause])
    assert encoder.speech_seconds(with_pauses) == pytest.approx(spoken_s, abs=0.7)


@pytest.mark.parametrize(
    ("samples", "word"),
    [
        (np.zeros(0, np.float32), "shape"),
        (np.ones((2, 24_000), np.float32), "shape"),
        (np.full(24_000, np.nan, np.float32), "not finite"),
        (np.full(24_000, np.inf, np.float32), "not finite"),
        (np.zeros(24_000, np.float32), "digital silence"),
    ],
)
@pytest.mark.parametrize("method", ["embed", "embed_partials", "speech_seconds", "inspect"])
def test_audio_without_a_speaker_is_refused(encoder, method, samples, word):
    with pytest.raises(AudioError, match=word) as caught:
        getattr(encoder, method)(samples)
    assert str(caught.value).endswith(".")


def test_inspect_finds_nothing_wrong_with_one_speaker(encoder, speech):
    assert encoder.inspect(speech) == ()
    assert encoder.inspect(np.resize(speech, 60 * 24_000)) == ()
    for length_s in (2, 3, 5, 10):
        assert encoder.inspect(speech[: length_s * 24_000]) == ()


@pytest.mark.parametrize("share", [0.5, 0.25, 0.85])
def test_inspect_finds_two_speakers_one_after_the_other(encoder, speech, share):
    n_first = int(share * 15 * 24_000)
    joined = np.concatenate([speech[:n_first], deeper(speech)[: 15 * 24_000 - n_first]])
    (warning,) = encoder.inspect(joined)
    assert "more than one speaker" in warning
    assert warning.endswith(".")


def test_inspect_finds_two_speakers_in_turns(encoder, speech):
    turn = 4 * 24_000
    other = deeper(speech)
    turns = [part[i * turn : (i + 1) * turn] for i in range(3) for part in (speech, other)]
    assert len(encoder.inspect(np.concatenate(turns))) == 1


def test_inspect_needs_speech(encoder, speech):
    with pytest.raises(AudioError, match=r"Only 0\.\d s of speech was found"):
        encoder.inspect(speech[12_000:24_000])
    hiss = 1e-3 * np.random.default_rng(0).standard_normal(480).astype(np.float32)
    with pytest.raises(AudioError, match=r"Only 0\.0 s"):
        encoder.inspect(hiss)


def test_a_device_that_is_not_there():
    with pytest.raises(ModelError, match="'abacus'; use 'cpu'"):
        SpeakerEncoder("abacus")


def test_loading_is_quiet_and_importing_is_cheap():
    code = (
        "import sys, warnings\n"
        "import kvw.speaker\n"
        "assert 'torch' not in sys.modules and 'resemblyzer' not in sys.modules\n"
        "warnings.simplefilter('error', DeprecationWarning)\n"
        "warnings.filterwarnings('default', module='(?!resemblyzer)')\n"
        "assert kvw.speaker.SpeakerEncoder().device == 'cpu'\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert "ndimage" not in result.stderr


def test_embedding_raises_no_warning(encoder, speech):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.embed(speech[:72_000])


@pytest.mark.slow
@pytest.mark.skipif(not TRAIN.exists(), reason="the LibriSpeech clips are not here")
def test_the_rates_that_inspect_states(encoder):
    clips = [audio.load(path).audio for path in sorted(TRAIN.glob("*.flac"))]
    assert sum(bool(encoder.inspect(clip)) for clip in clips) <= 3
    long = [clip for clip in clips if len(clip) > 12 * 24_000][:60]
    found = [
        bool(encoder.inspect(np.concatenate([one[:144_000], other[-144_000:]])))
        for one, other in zip(long, long[7:] + long[:7], strict=True)
    ]
    assert np.mean(found) > 0.93


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_the_example_is_what_its_script_makes(tmp_path):
    for name in ("make_target.py", "target.txt"):
        shutil.copy(ROOT / "example" / name, tmp_path / name)
    subprocess.run([sys.executable, tmp_path / "make_target.py"], cwd=ROOT, check=True)
    made, shipped = audio.load(tmp_path / "target.wav").audio, audio.load(EXAMPLE).audio
    assert len(made) == len(shipped)
    np.testing.assert_allclose(made, shipped, atol=2e-3)

"""The score against KVoiceWalk's printed results, an independent computation and its limits."""

import json
import math
import re

import numpy as np
import pytest

from kvw import audio as audio_module
from kvw import features
from kvw.audio import Audio
from kvw.errors import SettingsError
from kvw.optimizers.base import Outcome
from kvw.score import (
    Embedding,
    Rejected,
    Score,
    Scorer,
    Weights,
    feature_similarity,
    harmonic_mean,
)
from tests import reference_features
from tests.conftest import SPEECH

# As printed under "Example Outputs" in the README.md of github.com/RobViren/kvoicewalk.
PRINTED = """
af_heart.pt          Target Sim: 0.709, Self Sim: 0.978, Feature Sim: 0.47, Score: 81.22
af_jessica.pt_if_sara.pt_0.10.pt Target Sim: 0.780, Self Sim: 0.973, Feature Sim: 0.34, Score: 84.20
Step:9371, Target Sim:0.917, Self Sim:0.971, Feature Sim:0.54, Score:92.99, Diversity:0.01
"""
NUMBERS = r"Target Sim: ?([\d.]+), Self Sim: ?([\d.]+), Feature Sim: ?([\d.]+), Score: ?([\d.]+)"

KVW_WEIGHTS = (0.48, 0.5, 0.02)


class StubEncoder:
    """Embeds audio as its first samples, and counts how often."""

    def __init__(self) -> None:
        self.n_calls = 0

    def embed(self, audio: Audio) -> Embedding:
        self.n_calls += 1
        embedding: Embedding = (audio[:256] / np.linalg.norm(audio[:256])).astype(np.float32)
        return embedding


def noise(seed: int) -> Audio:
    rng = np.random.default_rng(seed)
    return (0.1 * np.abs(rng.standard_normal(6000))).astype(np.float32)


@pytest.mark.parametrize("line", PRINTED.strip().splitlines())
def test_total_agrees_with_what_kvoicewalk_printed(line):
    numbers = re.search(NUMBERS, line)
    assert numbers is not None
    *parts, total = map(float, numbers.groups())
    assert harmonic_mean(parts, KVW_WEIGHTS) == pytest.approx(total, abs=0.05)


def test_harmonic_mean_of_equals_is_that_value():
    assert harmonic_mean([0.7, 0.7, 0.7], KVW_WEIGHTS) == pytest.approx(70)
    assert harmonic_mean([1, 1, 1], KVW_WEIGHTS) == 100


def test_harmonic_mean_of_two_is_twice_the_product_over_the_sum():
    assert harmonic_mean([0.6, 0.9], [1, 1]) == pytest.approx(100 * 2 * 0.54 / 1.5)


def test_harmonic_mean_lies_between_the_least_and_the_arithmetic_mean():
    rng = np.random.default_rng(0)
    for _ in range(500):
        values, weights = rng.uniform(0.001, 1, 3), rng.uniform(0, 1, 3)
        mean = harmonic_mean(values.tolist(), weights.tolist()) / 100
        assert values.min() - 1e-12 <= mean <= np.average(values, weights=weights) + 1e-12


def test_harmonic_mean_grows_with_each_value_that_counts():
    rng = np.random.default_rng(1)
    for _ in range(500):
        values = rng.uniform(0.001, 0.99, 3)
        for which in range(3):
            better = values.copy()
            better[which] *= 1.001
            assert harmonic_mean(better.tolist(), KVW_WEIGHTS) > harmonic_mean(
                values.tolist(), KVW_WEIGHTS
            )


def test_harmonic_mean_depends_on_the_ratios_of_weights_alone():
    assert harmonic_mean([0.5, 0.9, 0.3], [4.8, 5.0, 0.2]) == pytest.approx(
        harmonic_mean([0.5, 0.9, 0.3], KVW_WEIGHTS)
    )


@pytest.mark.parametrize("value", [0.0, -0.3])
def test_one_value_of_nothing_makes_nothing_of_all(value):
    assert harmonic_mean([value, 0.9, 0.9], KVW_WEIGHTS) == 0
    # The limit from above, not a jump.
    assert harmonic_mean([1e-9, 0.9, 0.9], KVW_WEIGHTS) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, -1.0, 0.5])
def test_what_weighs_nothing_does_not_count(value):
    assert harmonic_mean([0.8, 0.6, value], [0.5, 0.5, 0]) == harmonic_mean([0.8, 0.6], [1, 1])


def test_same_features_are_wholly_similar():
    features = {"a": 1.0, "b": -2.0, "c": 0.0}
    assert feature_similarity(features, features) == 1


def test_feature_similarity_is_the_plain_formula_where_that_is_sound():
    rng = np.random.default_rng(2)
    for _ in range(200):
        target = rng.normal(size=20)
        value = target * (1 + rng.normal(size=20))
        plain = (100 - sum(abs((v - t) / t) for v, t in zip(value, target, strict=True))) / 100
        names = [f"f{i}" for i in range(20)]
        actual = feature_similarity(
            dict(zip(names, value.tolist(), strict=True)),
            dict(zip(names, target.tolist(), strict=True)),
        )
        assert plain > 0.01
        assert actual == pytest.approx(plain, rel=1e-12)


def similarity_of_penalty(penalty: float) -> float:
    """The feature similarity where the relative differences sum up to `penalty`."""
    return feature_similarity({"a": 1.0 + penalty}, {"a": 1.0})


def test_floor_meets_the_line_in_value_and_slope():
    step = 1e-4
    above, at, below = (similarity_of_penalty(99 + d) for d in (-step, 0, step))
    assert at == pytest.approx(0.01, rel=1e-9)
    slope = -step / 100
    assert at - above == pytest.approx(slope, rel=1e-3)
    assert below - at == pytest.approx(slope, rel=1e-3)


def test_feature_similarity_falls_with_every_difference_and_stays_above_its_floor():
    penalties = np.concatenate([np.linspace(0, 150, 3001), np.geomspace(151, 1e9, 500)])
    similarities = [similarity_of_penalty(p) for p in penalties]
    assert np.all(np.diff(similarities) < 0)
    assert min(similarities) > 0.005
    assert similarities[0] == 1


@pytest.mark.parametrize("target", [1e-300, 5e-324])
def test_feature_next_to_nothing_in_the_target_is_no_division_by_zero(target):
    similarity = feature_similarity({"a": 1e300}, {"a": target})
    assert 0.005 <= similarity <= 0.0051


def test_feature_of_nothing_in_the_target_costs_less_than_one():
    def difference(value: float) -> float:
        return 100 - 100 * feature_similarity({"a": value}, {"a": 0.0})

    assert difference(0.0) == 0
    assert difference(1.0) == pytest.approx(0.5)
    assert difference(-1.0) == pytest.approx(0.5)
    magnitudes = np.geomspace(1e-6, 1e6, 200)
    differences = [difference(m) for m in magnitudes]
    assert np.all(np.diff(differences) > 0)
    assert max(differences) < 1
    assert difference(1e-9) == pytest.approx(0, abs=1e-8)


def test_a_mean_that_only_rounding_keeps_from_zero_counts_as_zero():
    """Digital silence at both ends: the slopes' true mean is 0, and any other is far from it."""
    padded = np.pad(audio_module.load(SPEECH).audio[: 24_000 * 3], 24_000)
    target = features.extract(padded)
    assert 0 <= abs(target["mfcc1_delta_mean"]) < 1e-6 * target["mfcc1_delta_std"]
    candidate = target | {"mfcc1_delta_mean": 0.03}
    assert feature_similarity(candidate, target) == pytest.approx(1 - 0.03 / 1.03 / 100, abs=1e-6)
    assert feature_similarity(target, target) == 1
    # A mean that is small, but no rounding, is divided by, as KVoiceWalk does.
    small = target | {"mfcc1_delta_mean": 1e-3 * target["mfcc1_delta_std"]}
    twice = small | {"mfcc1_delta_mean": 2 * small["mfcc1_delta_mean"]}
    assert feature_similarity(twice, small) == pytest.approx(0.99)


def test_feature_similarity_wants_the_same_features():
    with pytest.raises(ValueError, match="only one has b, c"):
        feature_similarity({"a": 1.0, "b": 1.0}, {"a": 1.0, "c": 1.0})


@pytest.mark.parametrize(
    "weights", [(0, 0, 0), (-0.1, 1, 1), (math.nan, 1, 1), (1, math.inf, 1), (1, 1, -1e-9)]
)
def test_impossible_weights_are_refused(weights):
    with pytest.raises(SettingsError, match="0 or more"):
        Weights(*weights)


def test_default_weights_are_kvoicewalks():
    weights = Weights()
    assert (weights.target, weights.stability, weights.features) == KVW_WEIGHTS


def test_scores_survive_json():
    score = Score(91.5, 0.91, 0.97, 1 / 3)
    assert Score.from_dict(json.loads(json.dumps(score.to_dict()))) == score
    assert score.parts == {"target": 0.91, "stability": 0.97, "features": 1 / 3}


def test_scores_and_rejections_are_outcomes():
    outcomes: list[Outcome] = [
        Score(91.5, 0.91, 0.97, 0.3),
        Rejected("below 0.98 of the best target similarity", 0.6),
        Rejected("no speech"),
    ]
    assert [outcome.total for outcome in outcomes] == [91.5, None, None]
    assert [outcome.parts.get("target") for outcome in outcomes] == [0.91, 0.6, None]
    assert outcomes[2].parts == {}


def test_target_scores_full_marks_against_itself():
    target = noise(0)
    scorer = Scorer(target, StubEncoder())
    embedding = scorer.embed(target)
    score = scorer.score(target, embedding, embedding)
    assert score.total == pytest.approx(100, abs=1e-4)
    assert score.total <= 100
    assert score.features == 1
    assert scorer.target_similarity(embedding) == pytest.approx(1, abs=1e-6)
    assert scorer.target_similarity(embedding) <= 1
    np.testing.assert_array_equal(scorer.target_embedding, embedding)


def test_every_audio_is_embedded_once():
    encoder = StubEncoder()
    scorer = Scorer(noise(0), encoder)
    for seed in (1, 3):
        audio, other = noise(seed), noise(seed + 1)
        embedding = scorer.embed(audio)
        scorer.target_similarity(embedding)
        scorer.score(audio, embedding, scorer.embed(other))
    assert encoder.n_calls == 1 + 2 * 2


def test_parts_come_from_the_right_audio():
    """Features from the first utterance alone, stability from both, target from the first."""
    target, audio, other = noise(0), noise(1), noise(2)
    scorer = Scorer(target, StubEncoder())
    first, second = scorer.embed(audio), scorer.embed(other)
    score = scorer.score(audio, first, second)
    assert score.target == pytest.approx(float(first @ scorer.target_embedding))
    assert score.stability == pytest.approx(float(first @ second))
    assert scorer.score(audio, first, first).features == score.features
    assert scorer.score(other, first, second).features != score.features


@pytest.mark.parametrize(
    ("weights", "part"),
    [((1, 0, 0), "target"), ((0, 1, 0), "stability"), ((0, 0, 1), "features")],
)
def test_weights_choose_what_counts(weights, part):
    scorer = Scorer(noise(0), StubEncoder(), Weights(*weights))
    audio, other = noise(1), noise(2)
    score = scorer.score(audio, scorer.embed(audio), scorer.embed(other))
    assert score.total == pytest.approx(100 * score.parts[part])


def test_scores_stay_within_their_bounds_for_any_sound():
    encoder = StubEncoder()
    scorer = Scorer(noise(0), encoder)
    rng = np.random.default_rng(3)
    sounds = [
        1e-3 + np.zeros(6000),
        rng.standard_normal(6000),
        np.sin(np.arange(6000) / 10) + 1e-6,
        -noise(0),
        np.eye(1, 6000, 5)[0],
    ]
    for sound in sounds:
        audio = sound.astype(np.float32)
        embedding = scorer.embed(audio)
        score = scorer.score(audio, embedding, embedding)
        assert 0 <= score.total <= 100
        assert -1 <= score.target <= 1
        assert -1 <= score.stability <= 1
        assert 0.005 <= score.features <= 1


@pytest.mark.skipif(not SPEECH.exists(), reason="the example recording is not there")
def test_score_equals_an_independent_computation(encoder):
    """Resemblyzer by itself, the features one by one, and the formula as it was published."""
    from resemblyzer import VoiceEncoder, preprocess_wav

    recording = audio_module.load(SPEECH).audio
    # A target, and as the candidate the same speaker, faster and higher, so that all parts differ.
    third = len(recording) // 3
    target, audio, other = (recording[i * third : (i + 1) * third] for i in range(3))
    audio, other = sped_up(audio, 1.2), sped_up(other, 1.2)

    scorer = Scorer(target, encoder)
    score = scorer.score(audio, scorer.embed(audio), scorer.embed(other))

    voice_encoder = VoiceEncoder("cpu", verbose=False)
    embeddings = [
        voice_encoder.embed_utterance(preprocess_wav(wav, source_sr=24000))
        for wav in (target, audio, other)
    ]
    value, goal = (reference_features.extract(wav) for wav in (audio, target))
    penalty = sum(abs((value[name] - goal[name]) / goal[name]) for name in goal)
    similarity = (100 - penalty) / 100
    if similarity < 0.01:
        similarity = 0.005 + 0.000025 / (0.015 - similarity)
    target_similarity = np.inner(embeddings[1], embeddings[0])
    stability = np.inner(embeddings[1], embeddings[2])
    total = 100 / (0.48 / target_similarity + 0.5 / stability + 0.02 / similarity)

    assert score.target == pytest.approx(target_similarity, abs=1e-5)
    assert score.stability == pytest.approx(stability, abs=1e-5)
    assert score.features == pytest.approx(similarity, rel=1e-3)
    assert score.total == pytest.approx(total, abs=0.01)
    assert score.target < 0.99
    assert score.features < 0.9


def sped_up(audio: Audio, factor: float) -> Audio:
    import soxr

    resampled: Audio = soxr.resample(audio, 24000 * factor, 24000)
    return resampled

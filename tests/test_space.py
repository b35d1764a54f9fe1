"""Spaces against linear algebra written out another way."""

import numpy as np
import pytest
import torch

from kvw.errors import VoiceError
from kvw.space import FullSpace, MixtureSpace, OffsetSpace
from kvw.voice import SHAPE, Voice


def make_voices(n: int, seed: int = 0) -> list[Voice]:
    """Voices of rank 5 around a common row trend, as the stock voices are."""
    generator = torch.Generator().manual_seed(seed)
    trend = torch.linspace(1, 0.2, SHAPE[0]).reshape(-1, 1, 1)
    directions = torch.randn(5, 256, generator=generator)
    return [
        Voice(f"v{i}", trend + torch.randn(5, generator=generator) @ directions * 0.1)
        for i in range(n)
    ]


def test_a_one_hot_mixture_is_the_voice_to_the_bit():
    voices = make_voices(4)
    decoded = MixtureSpace(voices).decode(np.eye(4))
    assert all(torch.equal(d, v.tensor) for d, v in zip(decoded, voices, strict=True))


def test_a_mixture_is_the_midpoint_plus_alpha_times_half_the_difference():
    a, b = (voice.tensor.double() for voice in make_voices(2))
    for alpha in (-1.5, -0.3, 0.0, 0.7, 1.5):
        weights = np.array([[(1 - alpha) / 2, (1 + alpha) / 2]])
        [decoded] = MixtureSpace(make_voices(2)).decode(weights)
        expected = (a + b) / 2 + alpha * (b - a) / 2
        torch.testing.assert_close(decoded.double(), expected, rtol=0, atol=1e-6)


def test_mixture_encode_inverts_decode():
    space = MixtureSpace(make_voices(3))
    weights = np.array([0.2, 1.1, -0.4])
    voice = Voice("m", space.decode(weights)[0])
    np.testing.assert_allclose(space.encode(voice), weights, atol=1e-5)


def test_the_origin_of_the_offset_space_is_the_base_to_the_bit():
    voices = make_voices(8)
    space = OffsetSpace(voices[3], voices, 24)
    assert torch.equal(space.decode(np.zeros((1, space.dim)))[0], voices[3].tensor)


def test_offset_components_are_those_of_the_covariance_and_one_unit_is_one_deviation():
    voices = make_voices(30)
    space = OffsetSpace(voices[0], voices, 3)
    means = np.stack([v.tensor.numpy().astype(float).mean(axis=(0, 1)) for v in voices])
    variances, vectors = np.linalg.eigh(np.cov(means.T))
    for index in range(3):
        step = np.zeros(3)
        step[index] = 1.0
        moved = space.decode(step[None])[0] - voices[0].tensor
        offset = moved[0, 0].double().numpy()
        # Every row moves by the same offset, along an eigenvector, by its standard deviation.
        assert float((moved - moved[0]).abs().max()) < 1e-6
        assert np.linalg.norm(offset) == pytest.approx(np.sqrt(variances[-1 - index]), rel=1e-3)
        cosine = offset @ vectors[:, -1 - index] / np.linalg.norm(offset)
        assert abs(cosine) == pytest.approx(1, abs=1e-4)


def test_the_stock_voices_have_unit_variance_in_the_offset_space():
    voices = make_voices(30)
    space = OffsetSpace(voices[0], voices, 5)
    encoded = np.stack([space.encode(v) for v in voices])
    np.testing.assert_allclose(encoded.std(axis=0, ddof=1), 1, rtol=1e-4)


def test_offset_encode_inverts_decode():
    voices = make_voices(10)
    space = OffsetSpace(voices[0], voices, 5)
    x = np.array([0.5, -1.2, 0.1, 2.0, -0.7])
    np.testing.assert_allclose(space.encode(Voice("m", space.decode(x)[0])), x, atol=1e-4)


def test_the_offset_space_has_no_more_dimensions_than_the_voices_span():
    voices = make_voices(4)
    assert OffsetSpace(voices[0], voices, 24).dim == 3
    assert OffsetSpace(voices[0], make_voices(30), 24).dim == 5
    with pytest.raises(VoiceError, match="two different stock voices"):
        OffsetSpace(voices[0], [voices[0], voices[0]], 24)


def test_a_unit_of_the_full_space_is_the_populations_deviation():
    voices = make_voices(6)
    space = FullSpace(voices[1], voices)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((1, space.dim))
    moved = space.decode(x)[0] - voices[1].tensor
    deviation = torch.stack([v.tensor for v in voices]).std(dim=0)  # as KVoiceWalk computes it
    expected = torch.from_numpy(x.reshape(SHAPE)) * deviation
    torch.testing.assert_close(moved.double(), expected.double(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(space.encode(Voice("m", space.decode(x)[0])), x[0], atol=1e-3)

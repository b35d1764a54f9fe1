"""The synthesizer against the kokoro package's own forward, and the ways to a model."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from kokoro import KModel, KPipeline

from kvw.errors import ModelError, TextError, VoiceError
from kvw.synth import models
from kvw.synth.network import random_network
from kvw.synth.synthesizer import Synthesizer
from kvw.text import Phonemes
from kvw.voice import SHAPE, Voice, save

HELLO = Phonemes("Hello there.", ("həlˈO ðˈɛɹ.",), "test", "a")
TWO = Phonemes("Hello. There.", ("həlˈO.", "ðˈɛɹ ɪt ɪz."), "test", "a")


def own_forward(network: KModel, phonemes: str, voice: torch.Tensor, seed: int) -> np.ndarray:
    """What the kokoro package says, by its own pipeline."""
    torch.manual_seed(seed)
    return KPipeline.infer(network, phonemes, voice).audio.numpy()


def small_config() -> dict:
    """A full decoder is hard-coded in its width; the narrow one can be as small as we like."""
    config = models.kokoro_config()
    config |= {"hidden_dim": 64, "n_layer": 2, "trunk": 48}
    config["plbert"] |= {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 64}
    config["plbert"] |= {"num_attention_heads": 2}
    config["istftnet"] |= {"upsample_initial_channel": 32}
    return config


def random_voices(n: int) -> torch.Tensor:
    return 0.2 * torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("source", ["builtin", "random"])
def test_it_says_what_kokoros_own_forward_says(source, builtin, stock):
    if source == "builtin":
        network, voices = builtin.network, torch.stack([v.tensor for v in stock[:3]])
    else:
        network, voices = random_network(small_config()), random_voices(3)
    synthesizer = Synthesizer(network)
    spoken = synthesizer.speak(voices, synthesizer.prepare(HELLO), seed=5)
    for audio, voice in zip(spoken, voices, strict=True):
        expected = own_forward(network, HELLO.chunks[0], voice, seed=5)
        np.testing.assert_allclose(audio, expected, rtol=0, atol=1e-5)
        assert np.abs(audio).max() > 1e-3


@pytest.mark.slow
def test_it_says_what_kokoros_own_forward_says_at_full_size():
    network = random_network(models.kokoro_config())
    assert models.n_parameters(network) / 1e6 == pytest.approx(81.8, abs=0.05)
    synthesizer = Synthesizer(network)
    [voice] = random_voices(1)
    [audio] = synthesizer.speak(voice[None], synthesizer.prepare(HELLO), seed=5)
    np.testing.assert_allclose(
        audio, own_forward(network, HELLO.chunks[0], voice, seed=5), rtol=0, atol=1e-5
    )
    # Random weights, but a natural rate: between 40 and 200 ms a phoneme.
    assert 0.04 < len(audio) / 24_000 / len(HELLO.chunks[0]) < 0.2


def test_a_voice_sounds_the_same_whatever_is_spoken_beside_it(synthesizer, stock):
    voices = torch.stack([v.tensor for v in stock[:3]])
    utterance = synthesizer.prepare(TWO)
    together = synthesizer.speak(voices, utterance, seed=0)
    backwards = synthesizer.speak(voices.flip(0), utterance, seed=0)[::-1]
    alone = [synthesizer.speak(voice[None], utterance, seed=0)[0] for voice in voices]
    for a, b, c in zip(together, alone, backwards, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_the_seed_decides_the_noise_and_leaves_the_callers_random_state_alone(synthesizer, stock):
    utterance = synthesizer.prepare(HELLO)
    voices = stock[0].tensor[None]
    before = torch.get_rng_state()
    first, again, other = (synthesizer.speak(voices, utterance, s)[0] for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(first, again)
    assert len(other) == len(first)
    assert np.abs(other - first).max() > 0


def test_only_the_row_of_the_phoneme_count_is_heard(synthesizer, stock):
    utterance = synthesizer.prepare(HELLO)
    row = len(HELLO.chunks[0]) - 1
    noisy = torch.randn(SHAPE)
    noisy[row] = stock[0].tensor[row]
    [clean] = synthesizer.speak(stock[0].tensor[None], utterance, 0)
    [same] = synthesizer.speak(noisy[None], utterance, 0)
    np.testing.assert_array_equal(clean, same)
    [other] = synthesizer.speak(stock[1].tensor[None], utterance, 0)
    assert len(other) != len(clean) or np.abs(other - clean).max() > 0.01


def test_chunks_follow_each_other(synthesizer, stock):
    voices = stock[0].tensor[None]
    [both] = synthesizer.speak(voices, synthesizer.prepare(TWO), 0)
    parts = [Phonemes(chunk, (chunk,), TWO.g2p, TWO.lang_code) for chunk in TWO.chunks]
    lengths = [len(synthesizer.speak(voices, synthesizer.prepare(p), 0)[0]) for p in parts]
    assert len(both) == sum(lengths)


def test_speech_comes_in_whole_frames_of_25_ms_and_speed_shortens_it(synthesizer, stock):
    utterance = synthesizer.prepare(HELLO)
    normal, fast = (
        len(synthesizer.speak(stock[0].tensor[None], utterance, 0, speed)[0]) for speed in (1, 2)
    )
    assert normal % 600 == fast % 600 == 0
    assert fast / normal == pytest.approx(0.5, abs=0.12)  # durations are rounded to frames


def test_phonemes_that_the_model_does_not_know_are_an_error(synthesizer):
    with pytest.raises(TextError, match="phonemes that the model knows"):
        synthesizer.prepare(Phonemes("x", ("ЖЖЖ",), "test", "a"))


def test_a_random_network_speaks_at_a_natural_rate():
    network = random_network(small_config()).requires_grad_(False)
    odds = math.exp(float(network.predictor.duration_proj.linear_layer.bias[0]))
    assert 50 * odds / (1 + odds) == pytest.approx(3)


# The ways to a model.


def test_the_built_in_model_and_its_voices_are_shipped(builtin, stock):
    assert builtin.id == "builtin"
    assert len(stock) == 28
    assert all(voice.model == "builtin" for voice in stock)
    assert all(float((v.tensor - v.tensor[0]).abs().max()) == 0 for v in stock)
    assert not any(p.requires_grad for p in builtin.network.parameters())


def test_the_shipped_voice_files_are_the_models_own(stock):
    from tests.conftest import ROOT

    folder = ROOT / "voices" / "builtin"
    files = models.stock_voices(models.load("builtin"), folder)
    assert [v.name for v in files] == [v.name for v in stock]
    assert all(torch.equal(a.tensor, b.tensor) for a, b in zip(files, stock, strict=True))


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """Neither a network nor a cache."""

    def missing(*_, **__):
        raise LocalEntryNotFoundError("nothing cached")

    monkeypatch.setattr(models, "hf_hub_download", missing)
    monkeypatch.setattr(models, "snapshot_download", missing)
    monkeypatch.setattr(models, "hub_is_reachable", lambda: False)


def test_auto_falls_back_to_the_built_in_model_with_one_notice(no_hub):
    said: list[str] = []
    assert models.load("auto", notice=said.append).id == "builtin"
    assert said == [models.BUILTIN_NOTICE]


def test_kokoro_without_a_hub_is_one_sentence(no_hub):
    with pytest.raises(ModelError, match="neither on this machine") as caught:
        models.load("kokoro")
    assert "\n" not in str(caught.value)


def test_a_folder_with_the_built_in_model_is_the_built_in_model(tmp_path):
    shutil.copytree(models._BUILTIN_FOLDER, tmp_path / "copy")
    assert models.load(str(tmp_path / "copy")).id == "builtin"


def test_a_folder_with_another_model_has_its_own_voices(tmp_path):
    from safetensors.torch import save_file

    config = small_config()
    network = random_network(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    [tensor] = random_voices(1)
    save(Voice("af_own", tensor), tmp_path / "voices" / "af_own.pt")
    model = models.load(str(tmp_path))
    assert model.id.startswith("custom-")
    assert [(v.name, v.model) for v in model.voices()] == [("af_own", model.id)]
    synthesizer = Synthesizer(model.network)
    [audio] = synthesizer.speak(tensor[None], synthesizer.prepare(HELLO), 0)
    np.testing.assert_allclose(
        audio, own_forward(network, HELLO.chunks[0], tensor, 0), rtol=0, atol=1e-5
    )


@pytest.mark.slow
def test_a_folder_with_kokoros_files_goes_through_kokoros_own_loader(tmp_path):
    """Full-size random weights in the form that Kokoro-82M is published in."""
    config = models.kokoro_config()
    network = random_network(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    published = {name: child.state_dict() for name, child in network.named_children()}
    # Published with the prefix that data-parallel training leaves.
    published = {
        name: {f"module.{key}": value for key, value in state.items()}
        for name, state in published.items()
    }
    torch.save(published, tmp_path / models.WEIGHTS)
    [tensor] = random_voices(1)
    save(Voice("af_own", tensor), tmp_path / "voices" / "af_own.pt")
    model = models.load(str(tmp_path))
    assert model.id == models.KOKORO
    assert [v.model for v in model.voices()] == [models.KOKORO]
    for name, value in network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], value), name


def write(path, content):
    path.write_text(content)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: write(path, "x"), "is a file"),
        (lambda path: path.mkdir(), "no config.json"),
        (lambda path: (path.mkdir(), write(path / "config.json", "{}")), "0 .pth files"),
        (
            lambda path: (
                path.mkdir(),
                write(path / "config.json", "{}"),
                write(path / "model.safetensors", "x"),
            ),
            "do not make one",
        ),
        (
            lambda path: (
                path.mkdir(),
                write(path / "config.json", json.dumps(models.kokoro_config())),
                write(path / "kokoro-v1_0.pth", "x"),
            ),
            "cannot be loaded",
        ),
    ],
)
def test_what_is_no_model_is_one_sentence(tmp_path, prepare, said):
    path = tmp_path / "model"
    prepare(path)
    with pytest.raises(ModelError, match=said) as caught:
        models.load(str(path))
    assert "\n" not in str(caught.value)


def test_voices_of_another_model_are_refused(stock):
    with pytest.raises(VoiceError, match="would speak rubbish"):
        models.owned(stock, models.KOKORO)


def test_a_voice_is_found_by_name_path_and_blend(stock, tmp_path):
    a, b = stock[0], stock[1]
    assert models.find_voice(a.name, lambda: stock) is a
    mixed = models.find_voice(f"{a.name}(2)+{b.name}(1)", lambda: stock)
    torch.testing.assert_close(mixed.tensor, (2 * a.tensor + b.tensor) / 3)
    save(a, tmp_path / "mine.pt")
    assert torch.equal(models.find_voice(str(tmp_path / "mine.pt"), lambda: stock).tensor, a.tensor)
    with pytest.raises(VoiceError, match=a.name):
        models.find_voice(a.name[:-1] + "x", lambda: stock)


def test_a_network_has_the_published_names_of_kokoros_parts():
    names = {name for name, _ in random_network(small_config()).named_children()}
    assert names == {"bert", "bert_encoder", "predictor", "text_encoder", "decoder"}

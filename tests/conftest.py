"""What many tests share: the built-in model, loaded once, and where things lie."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # small operations on few cores: more threads only wait for each other

ROOT = Path(__file__).parent.parent
SPEECH = ROOT / "example" / "target.wav"


@pytest.fixture(scope="session")
def builtin():
    """The shipped model."""
    from kvw.synth import models

    return models.load("builtin")


@pytest.fixture(scope="session")
def stock(builtin):
    """Its stock voices."""
    return builtin.voices()


@pytest.fixture(scope="session")
def synthesizer(builtin):
    """Speaks with the shipped model."""
    from kvw.synth.synthesizer import Synthesizer

    return Synthesizer(builtin.network)


@pytest.fixture(scope="session")
def phonemizer():
    """American English."""
    from kvw.text import Phonemizer

    return Phonemizer("a")


@pytest.fixture(scope="session")
def encoder():
    """Resemblyzer, on the CPU."""
    from kvw.speaker import SpeakerEncoder

    return SpeakerEncoder()

"""Text and voices in, audio out: one synthesizer over all networks of Kokoro's architecture.

What does not depend on the voice (phonemes, BERT, text encoder) is computed once for an utterance.
Knows Kokoro's forward; knows nothing of where networks and voices come from, nor of scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from kokoro import KModel
from numpy.typing import NDArray

from kvw.audio import SAMPLE_RATE_HZ
from kvw.errors import TextError
from kvw.text import Phonemes


@dataclass(frozen=True)
class Chunk:
    """A piece of at most 510 phonemes with what its text alone decides.

    Attributes:
        phonemes: the characters; their number selects the voice's row.
        ids: (1, n + 2) int64, with the boundary token on either side.
        bert: (1, hidden, n + 2), BERT's output after its projection.
        text: (1, hidden, n + 2), the text encoder's output.
    """

    phonemes: str
    ids: torch.Tensor
    bert: torch.Tensor
    text: torch.Tensor


@dataclass(frozen=True)
class Utterance:
    """A text that is ready to be spoken by any voice."""

    phonemes: Phonemes
    chunks: tuple[Chunk, ...]


class Synthesizer:
    """Speaks with one network.

    Seeded: the harmonic source draws its phases and noise from the seed given with each call, the
    same for every voice, so that two voices differ by themselves alone.
    """

    # Fixed by the upsampling rates: 10 * 6 * 5 samples a half-frame of 12.5 ms.
    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, network: KModel):
        self._network = network
        self._device = next(network.parameters()).device

    @torch.inference_mode()
    def prepare(self, phonemes: Phonemes) -> Utterance:
        """The part of the synthesis that no voice changes.

        Raises:
            TextError: the network has no token for any phoneme of a chunk.
        """
        return Utterance(phonemes, tuple(self._prepare_chunk(chunk) for chunk in phonemes.chunks))

    def _prepare_chunk(self, phonemes: str) -> Chunk:
        network = self._network
        known = [token for token in map(network.vocab.get, phonemes) if token is not None]
        if not known:
            raise TextError(
                f"Expected phonemes that the model knows, got {phonemes!r}; use another text"
            )
        ids = torch.tensor([[0, *known, 0]], device=self._device)
        lengths, mask = self._whole(ids)
        bert = network.bert_encoder(network.bert(ids, attention_mask=(~mask).int()))
        text = network.text_encoder(ids, lengths, mask)
        return Chunk(phonemes, ids, bert.transpose(-1, -2), text)

    @staticmethod
    def _whole(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Length (1,) and padding mask (1, n) of a single, unpadded item."""
        return (
            torch.tensor([ids.shape[1]], device=ids.device),
            torch.zeros_like(ids, dtype=torch.bool),
        )

    @torch.inference_mode()
    def speak(
        self, voices: torch.Tensor, utterance: Utterance, seed: int, speed: float = 1.0
    ) -> list[NDArray[np.float32]]:
        """The utterance in each voice.

        Args:
            voices: (n, 510, 1, 256) float32.
            utterance: from `prepare` of this synthesizer.
            seed: of the harmonic source's noise; each voice is spoken with the same.
            speed: of speech, 1 is the voice's own.

        Returns:
            n waveforms (samples,) float32, 24 kHz, nominally within [-1, 1]. The chunks of a long
            text follow each other without a pause, as Kokoro's own pipeline gives them.
        """
        return [self._speak_one(voice, utterance.chunks, seed, speed) for voice in voices]

    def _speak_one(
        self, voice: torch.Tensor, chunks: Sequence[Chunk], seed: int, speed: float
    ) -> NDArray[np.float32]:
        voice = voice.to(self._device)
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            audio = [self._speak_chunk(voice[len(c.phonemes) - 1], c, speed) for c in chunks]
        joined: NDArray[np.float32] = torch.cat(audio).float().cpu().numpy()
        return joined

    def _speak_chunk(self, style: torch.Tensor, chunk: Chunk, speed: float) -> torch.Tensor:
        """KModel.forward_with_tokens, after the part that `prepare` has done."""
        network = self._network
        timbre, prosody = style[:, :128], style[:, 128:]
        lengths, mask = self._whole(chunk.ids)
        d = network.predictor.text_encoder(chunk.bert, prosody, lengths, mask)
        x, _ = network.predictor.lstm(d)
        duration = torch.sigmoid(network.predictor.duration_proj(x)).sum(dim=-1) / speed
        n_frames = torch.round(duration).clamp(min=1).long().squeeze(0)
        # Frame -> phoneme. The package multiplies by a 0/1 matrix, which selects the same columns.
        index = torch.repeat_interleave(torch.arange(len(n_frames), device=d.device), n_frames)
        f0, energy = network.predictor.F0Ntrain(d.transpose(-1, -2)[:, :, index], prosody)
        audio: torch.Tensor = network.decoder(chunk.text[:, :, index], f0, energy, timbre)
        return audio.reshape(-1)

"""Trains the built-in model on a training file.

    python tools/builtin/train.py --data training.safetensors --checkpoint training.pt
    torchrun --nproc_per_node 2 tools/builtin/train.py --data ... --checkpoint ...

Started again with the same flags, it goes on from the checkpoint and ends where an uninterrupted
run would have: every step draws its clips and its noise from (seed, step, process).

Knows the network's modules and the losses; knows nothing of how the training file was made.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import torch
import torch.distributed as dist
from corpus import FLITE, FRAME_SAMPLES, LIBRISPEECH, SAMPLE_RATE_HZ, WARPED, Clip, load
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from kvw.files import replacing
from kvw.synth.network import Network

_BUILTIN = Path(__file__).parents[2] / "kvw" / "synth" / "builtin"

_EMBEDDING = 256
# The first half of a style is timbre, for the decoder; the second is prosody, for the predictor.
_HALF_STYLE = 128

# How often each source is drawn.
_SOURCE_WEIGHTS = {LIBRISPEECH: 0.62, FLITE: 0.23, WARPED: 0.15}
# Of each clip at most so many tokens; the decoder speaks 0.9 s of them, F0 and energy cover 3 s.
_MAX_TOKENS = 90
_DECODER_FRAMES = 36
_PROSODY_FRAMES = 120

_N_FFTS = (2048, 1024, 512, 256)
_MEL_N_FFT = 1024
_N_MELS = 80
_LOSS_WEIGHTS = {"audio": 1.0, "duration": 0.3, "f0": 0.5, "energy": 0.5}
# Brings F0 near the size of the other losses.
_F0_UNIT_HZ = 20.0

# In standard deviations of the training embeddings: one clip shows a speaker only roughly.
_EMBEDDING_NOISE = 0.3
_STYLE_NOISE = 0.02

_WARMUP_STEPS = 100
# The cosine ends at this share of the peak learning rate.
_LAST_RATE = 0.03
_MAX_GRADIENT = 5.0
_AVERAGE_DECAY = 0.999


@dataclass(frozen=True)
class Window:
    """Consecutive frames of each clip in a batch.

    Attributes:
        token: (b, t) int64, the position of the token that each frame belongs to.
        f0_hz, energy: (b, 2 t) float32.
    """

    token: torch.Tensor
    f0_hz: torch.Tensor
    energy: torch.Tensor

    def to(self, device: torch.device) -> "Window":
        """The same on that device."""
        return Window(self.token.to(device), self.f0_hz.to(device), self.energy.to(device))


@dataclass(frozen=True)
class Batch:
    """Clips cut to a common form.

    Attributes:
        tokens: (b, n) int64, padded with 0.
        n_tokens: (b,) int64; stays on the CPU, where packed sequences want it.
        n_frames: (b, n) float32, the length of each token, padded with 0.
        embedding: (b, 256) float32.
        spoken: the frames that the decoder speaks.
        audio: (b, 600 t) float32, what it should say there.
        prosody: the frames that F0 and energy are predicted for.
    """

    tokens: torch.Tensor
    n_tokens: torch.Tensor
    n_frames: torch.Tensor
    embedding: torch.Tensor
    spoken: Window
    audio: torch.Tensor
    prosody: Window

    def to(self, device: torch.device) -> "Batch":
        """The same on that device."""
        return Batch(
            self.tokens.to(device),
            self.n_tokens,
            self.n_frames.to(device),
            self.embedding.to(device),
            self.spoken.to(device),
            self.audio.to(device),
            self.prosody.to(device),
        )


class Sampler:
    """Draws batches: a source by its weight, then one of its clips, then parts of it."""

    def __init__(self, clips: Sequence[Clip], batch_size: int):
        self._sources = [
            [clip for clip in clips if clip.source == source] for source in _SOURCE_WEIGHTS
        ]
        weights = np.array(list(_SOURCE_WEIGHTS.values()))
        weights[[not source for source in self._sources]] = 0.0
        self._weights = weights / weights.sum()
        self._batch_size = batch_size

    def draw(self, random: np.random.Generator) -> Batch:
        """A batch; the same for the same state of `random`."""
        sources = random.choice(len(self._sources), self._batch_size, p=self._weights)
        parts = []
        for source in sources:
            clips = self._sources[source]
            parts.append(_cut(clips[random.integers(len(clips))], random))
        shortest = min(int(part.n_frames.sum()) for part in parts)
        spoken, starts = _windows(parts, min(_DECODER_FRAMES, shortest), random)
        prosody, _ = _windows(parts, min(_PROSODY_FRAMES, shortest), random)
        n_samples = FRAME_SAMPLES * spoken.token.shape[1]
        audio = [
            part.audio[FRAME_SAMPLES * start :][:n_samples]
            for part, start in zip(parts, starts, strict=True)
        ]
        return Batch(
            tokens=_pad([part.tokens for part in parts]).long(),
            n_tokens=torch.tensor([len(part.tokens) for part in parts]),
            n_frames=_pad([part.n_frames for part in parts]).float(),
            embedding=torch.tensor(np.stack([part.embedding for part in parts])),
            spoken=spoken,
            audio=torch.tensor(np.stack(audio)).float() / 32767,
            prosody=prosody,
        )


def _cut(clip: Clip, random: np.random.Generator) -> Clip:
    """The clip, or _MAX_TOKENS consecutive tokens of it."""
    n_spare = len(clip.tokens) - _MAX_TOKENS
    if n_spare <= 0:
        return clip
    first = int(random.integers(n_spare + 1))
    tokens = slice(first, first + _MAX_TOKENS)
    start, end = int(clip.n_frames[:first].sum()), int(clip.n_frames[: tokens.stop].sum())
    halves = slice(2 * start, 2 * end)
    return Clip(
        clip.name,
        clip.speaker,
        clip.source,
        clip.tokens[tokens],
        clip.n_frames[tokens],
        clip.f0_hz[halves],
        clip.energy[halves],
        clip.audio[FRAME_SAMPLES * start : FRAME_SAMPLES * end],
        clip.embedding,
    )


def _windows(
    parts: Sequence[Clip], n_frames: int, random: np.random.Generator
) -> tuple[Window, list[int]]:
    """`n_frames` consecutive frames of each part, and the frame where each begins."""
    starts, tokens, f0_hz, energy = [], [], [], []
    for part in parts:
        of_frame = np.repeat(np.arange(len(part.tokens)), part.n_frames)
        start = int(random.integers(len(of_frame) - n_frames + 1))
        starts.append(start)
        tokens.append(of_frame[start : start + n_frames])
        halves = slice(2 * start, 2 * (start + n_frames))
        f0_hz.append(part.f0_hz[halves])
        energy.append(part.energy[halves])
    window = Window(*(torch.tensor(np.stack(rows)) for rows in (tokens, f0_hz, energy)))
    return window, starts


def _pad(rows: Sequence[np.ndarray[Any, Any]]) -> torch.Tensor:
    tensors = [torch.tensor(row) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True)


class Style(nn.Module):
    """From a speaker embedding to a style: W ((embedding - mean) / std) + b."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: torch.Tensor, std: torch.Tensor):
        super().__init__()
        self.linear = nn.Linear(_EMBEDDING, 2 * _HALF_STYLE)
        nn.init.normal_(self.linear.weight, std=0.02)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Style (b, 256) of embeddings (b, 256), with noise on both: training alone uses this."""
        z = (embedding - self.mean) / self.std
        style = self.linear(z + _EMBEDDING_NOISE * torch.randn_like(z))
        noisy: torch.Tensor = style + _STYLE_NOISE * torch.randn_like(style)
        return noisy


class SpectralLoss(nn.Module):
    """Distance of two waveforms by their spectra at several resolutions.

    For each FFT size: the mean absolute difference of log magnitudes and the spectral convergence
    (as in Parallel WaveGAN, Yamamoto et al., 2020), and at one size the former of log mel spectra.
    """

    mel: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        mel = librosa.filters.mel(sr=SAMPLE_RATE_HZ, n_fft=_MEL_N_FFT, n_mels=_N_MELS)
        self.register_buffer("mel", torch.tensor(mel))
        for n_fft in _N_FFTS:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft))

    def forward(self, audio: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Distance () of waveforms (b, samples)."""
        loss = audio.new_zeros(())
        for n_fft in _N_FFTS:
            ours, theirs = self._magnitude(audio, n_fft), self._magnitude(target, n_fft)
            loss = loss + 0.5 * (ours.log() - theirs.log()).abs().mean()
            loss = loss + 0.5 * (ours - theirs).norm() / theirs.norm()
            if n_fft == _MEL_N_FFT:
                loss = loss + 2.0 * (self._log_mel(ours) - self._log_mel(theirs)).abs().mean()
        return loss

    def _magnitude(self, audio: torch.Tensor, n_fft: int) -> torch.Tensor:
        window = self.get_buffer(f"window_{n_fft}")
        spectrum = torch.stft(audio, n_fft, n_fft // 4, n_fft, window, return_complex=True)
        return spectrum.abs().clamp_min(1e-5)

    def _log_mel(self, magnitude: torch.Tensor) -> torch.Tensor:
        return (self.mel @ magnitude).clamp_min(1e-4).log()


class Trainee(nn.Module):
    """The network with the map from speaker embeddings to its styles: all that is trained."""

    def __init__(self, network: Network, style: Style):
        super().__init__()
        self.network = network
        self.style = style

    def losses(self, batch: Batch, spectral: SpectralLoss) -> dict[str, torch.Tensor]:
        """The losses () of a batch, by the keys of _LOSS_WEIGHTS.

        True durations, F0 and energy drive the decoder, so that its audio lies on the target's.
        """
        network, predictor = self.network, self.network.predictor
        positions = torch.arange(batch.tokens.shape[1])[None]
        padding = (positions >= batch.n_tokens[:, None]).to(batch.tokens.device)
        style = self.style(batch.embedding)
        timbre, prosody = style[:, :_HALF_STYLE], style[:, _HALF_STYLE:]

        bert = network.bert(batch.tokens, attention_mask=(~padding).int())
        hidden = network.bert_encoder(bert).transpose(-1, -2)
        encoded = predictor.text_encoder(hidden, prosody, batch.n_tokens, padding)

        packed = nn.utils.rnn.pack_padded_sequence(
            encoded, batch.n_tokens, batch_first=True, enforce_sorted=False
        )
        recurrent, _ = nn.utils.rnn.pad_packed_sequence(predictor.lstm(packed)[0], batch_first=True)
        logits = predictor.duration_proj(recurrent)

        frames = _select(encoded.transpose(-1, -2), batch.prosody.token)
        f0_hz, energy = predictor.F0Ntrain(frames, prosody)

        text = network.text_encoder(batch.tokens, batch.n_tokens, padding)
        audio = network.decoder(
            _select(text, batch.spoken.token), batch.spoken.f0_hz, batch.spoken.energy, timbre
        )
        return {
            "audio": spectral(audio.squeeze(1)[..., : batch.audio.shape[-1]], batch.audio),
            "duration": _duration_loss(logits[~padding], batch.n_frames[~padding]),
            "f0": functional.smooth_l1_loss(f0_hz / _F0_UNIT_HZ, batch.prosody.f0_hz / _F0_UNIT_HZ),
            "energy": functional.smooth_l1_loss(energy, batch.prosody.energy),
        }


def _select(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """From features of tokens (b, c, n) to those of frames (b, c, t), by each frame's token."""
    return tokens.gather(2, index[:, None].expand(-1, tokens.shape[1], -1))


def _duration_loss(logits: torch.Tensor, n_frames: torch.Tensor) -> torch.Tensor:
    """Of logits (m, max_dur) whose k-th says whether a token lasts longer than k frames."""
    steps = torch.arange(logits.shape[-1], device=logits.device)
    longer = (steps < n_frames[:, None]).float()
    predicted = torch.sigmoid(logits).sum(-1)
    error = (predicted - longer.sum(-1)).abs().mean()
    return error + 5.0 * functional.binary_cross_entropy_with_logits(logits, longer)


class Averages:
    """Exponential averages of a module's weights: smoother than where the last step ended."""

    def __init__(self, module: nn.Module):
        self.weights = {name: t.detach().clone() for name, t in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Takes in the weights after `step` (from 1); early ones are forgotten quickly."""
        decay = min(_AVERAGE_DECAY, step / (step + 19))
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                self.weights[name].lerp_(tensor, 1 - decay)
            else:
                self.weights[name].copy_(tensor)


@dataclass(frozen=True)
class Team:
    """The processes that train together, each on its own batches, and this one's place in them."""

    rank: int
    size: int

    @classmethod
    def join(cls, device: torch.device) -> "Team":
        """As torchrun's environment says; alone without it."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size > 1:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
            return cls(dist.get_rank(), size)
        return cls(0, 1)

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Makes the gradients of all processes the same."""
        if self.size == 1:
            return
        # BERT's pooler is never used, in any process, and has none.
        gradients = [p.grad for p in parameters if p.grad is not None]
        joined = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(joined)
        joined /= self.size
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, mean in zip(gradients, torch.split(joined, sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))


class Progress:
    """Means over the steps since the last line of the log."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._n_steps = 0
        self._started = time.monotonic()

    def add(self, values: Mapping[str, torch.Tensor]) -> None:
        """Takes in one step's values."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.item()
        self._n_steps += 1

    def line(self) -> str:
        """The means, and the seconds that a step took."""
        means = [f"{name} {total / self._n_steps:.3f}" for name, total in self._sums.items()]
        seconds = (time.monotonic() - self._started) / self._n_steps
        return "  ".join([*means, f"{seconds:.2f} s"])


def learning_rate(peak: float, step: int, n_steps: int) -> float:
    """Of the step after `step` others: a short rise, then a cosine down to a small share."""
    rise = min(1.0, (step + 1) / _WARMUP_STEPS)
    fall = 0.5 * (1 + math.cos(math.pi * step / n_steps))
    return peak * rise * (_LAST_RATE + (1 - _LAST_RATE) * fall)


def new_trainee(config: Mapping[str, Any], clips: Sequence[Clip]) -> Trainee:
    """Random weights, and a style map that is normalised by the clips."""
    embeddings = torch.tensor(np.stack([clip.embedding for clip in clips]))
    mean, std = embeddings.mean(0), embeddings.std(0, correction=0) + 1e-3
    return Trainee(Network(config), Style(mean, std))


def trained(folder: Path, config: Mapping[str, Any]) -> Trainee:
    """The model of a folder as export.py writes it."""
    style = load_file(folder / "speaker_to_style.safetensors")
    trainee = Trainee(Network(config), Style(style["style.mean"], style["style.std"]))
    trainee.network.load_state_dict(load_file(folder / "model.safetensors"))
    linear = {"weight": style["style.weight"], "bias": style["style.bias"]}
    trainee.style.linear.load_state_dict(linear)
    return trainee


def save_checkpoint(
    path: Path,
    trainee: Trainee,
    averages: Averages,
    optimizer: torch.optim.Optimizer,
    config: Mapping[str, Any],
    step: int,
) -> None:
    """Tensors, numbers and texts only: torch.load reads it with weights_only."""
    state = {
        "weights": trainee.state_dict(),
        "averages": averages.weights,
        "optimizer": optimizer.state_dict(),
        "config": json.dumps(config),
        "step": step,
    }
    with replacing(path) as temporary:
        torch.save(state, temporary)


def main() -> None:
    """Reads the flags and trains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="training file of prepare.py")
    parser.add_argument("--checkpoint", type=Path, required=True, help="goes on from it if there")
    parser.add_argument("--config", type=Path, default=_BUILTIN / "config.json")
    parser.add_argument("--init", type=Path, help=f"begin with a trained model, such as {_BUILTIN}")
    parser.add_argument(
        "--steps", type=int, default=15_000, help="in all, those before a resume too"
    )
    parser.add_argument("--stop_at", type=int, help="save and end at this step, to go on later")
    parser.add_argument("--batch", type=int, default=5, help="clips a step and process")
    parser.add_argument("--learning_rate", type=float, default=7e-4, help="at its peak")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--log_every", type=int, default=50, help="steps")
    parser.add_argument("--save_every", type=int, default=500, help="steps")
    arguments = parser.parse_args()

    local = os.environ.get("LOCAL_RANK", "0")
    device = torch.device(f"cuda:{local}" if arguments.device == "cuda" else "cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)  # one process a core; more threads only wait for each other
    team = Team.join(device)

    config = json.loads(arguments.config.read_text(encoding="utf-8"))
    clips = load(arguments.data)
    torch.manual_seed(arguments.seed)  # the same first weights in every process
    if arguments.init is None:
        trainee = new_trainee(config, clips)
        n_earlier = 0
    else:
        config = json.loads((arguments.init / "config.json").read_text(encoding="utf-8"))
        trainee = trained(arguments.init, config)
        n_earlier = config.get("steps", 0)
    trainee.to(device).train()
    parameters = list(trainee.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=arguments.learning_rate, betas=(0.8, 0.99), weight_decay=1e-2
    )
    averages = Averages(trainee)
    step = 0
    if arguments.checkpoint.exists():
        state = torch.load(arguments.checkpoint, map_location="cpu", weights_only=True)
        trainee.load_state_dict(state["weights"])
        averages.weights = {name: t.to(device) for name, t in state["averages"].items()}
        optimizer.load_state_dict(state["optimizer"])
        config, step = json.loads(state["config"]), state["step"]
        n_earlier = config["steps"] - step
    sampler = Sampler(clips, arguments.batch)
    spectral = SpectralLoss().to(device)

    last = min(arguments.steps, arguments.stop_at or arguments.steps)
    progress = Progress()
    while step < last:
        rate = learning_rate(arguments.learning_rate, step, arguments.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        random = np.random.default_rng([arguments.seed, step, team.rank])
        torch.manual_seed(int(random.integers(2**63)))
        losses = trainee.losses(sampler.draw(random).to(device), spectral)
        optimizer.zero_grad()
        weighted = [_LOSS_WEIGHTS[name] * loss for name, loss in losses.items()]
        torch.autograd.backward(torch.stack(weighted).sum())
        team.average_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT)
        optimizer.step()
        step += 1
        averages.update(trainee, step)

        progress.add({**losses, "gradient": norm})
        if step % arguments.log_every == 0 or step == last:
            if team.rank == 0:
                print(f"step {step} of {arguments.steps}  {progress.line()}", flush=True)
            progress = Progress()
        if team.rank == 0 and (step % arguments.save_every == 0 or step == last):
            config["steps"] = n_earlier + step
            save_checkpoint(arguments.checkpoint, trainee, averages, optimizer, config, step)
    if team.size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

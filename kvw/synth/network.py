"""Networks of Kokoro's architecture that the kokoro package cannot build by itself.

`Network` is a KModel with random weights: full size, or with the built-in model's narrow decoder,
whose widths the package hard-codes. Its forward is KModel's own. Knows no files.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from kokoro import KModel
from kokoro.istftnet import AdainResBlk1d, Decoder, Generator
from kokoro.modules import CustomAlbert, ProsodyPredictor, TextEncoder
from torch import nn
from torch.nn.utils import weight_norm
from transformers import AlbertConfig

from kvw.text import quiet_kokoro

# Width of the decoder's shortcut from the text encoder; the package has 64.
_SHORTCUT = 32
# A natural speaking rate and pitch, for networks with random weights: about 3 frames of 25 ms a
# phoneme, and a fundamental that the harmonic source takes for voiced speech.
_FRAMES_PER_PHONEME = 3.0
_F0_HZ = 150.0


class NarrowDecoder(nn.Module):
    """kokoro.istftnet.Decoder with the width of its trunk as a parameter.

    The package's decoder fixes the trunk at 1024 channels and its output at 512. This one has
    `trunk` channels, two residual blocks instead of three before the upsampling one, and gives the
    generator `upsample_initial_channel` channels.
    """

    def __init__(self, dim_in: int, style_dim: int, trunk: int, **istftnet: Any):
        super().__init__()
        width = trunk + 2 + _SHORTCUT
        out = istftnet["upsample_initial_channel"]
        self.encode = AdainResBlk1d(dim_in + 2, trunk, style_dim)
        self.decode = nn.ModuleList(
            [
                AdainResBlk1d(width, trunk, style_dim),
                AdainResBlk1d(width, trunk, style_dim),
                AdainResBlk1d(width, out, style_dim, upsample=True),
            ]
        )
        self.F0_conv = weight_norm(nn.Conv1d(1, 1, 3, stride=2, padding=1))
        self.N_conv = weight_norm(nn.Conv1d(1, 1, 3, stride=2, padding=1))
        self.asr_res = nn.Sequential(weight_norm(nn.Conv1d(dim_in, _SHORTCUT, 1)))
        self.generator = Generator(style_dim, **istftnet)

    def forward(
        self, asr: torch.Tensor, F0_curve: torch.Tensor, N: torch.Tensor, s: torch.Tensor
    ) -> torch.Tensor:
        """Audio (b, 1, 600 t) of text (b, dim_in, t), F0 and energy (b, 2 t), timbre (b, style)."""
        # F0 in hundreds of Hz: near the size of the other inputs, which the trunk is trained with.
        F0 = self.F0_conv(F0_curve.unsqueeze(1) / 100)
        energy = self.N_conv(N.unsqueeze(1))
        x = self.encode(torch.cat([asr, F0, energy], dim=1), s)
        shortcut = self.asr_res(asr)
        for block in self.decode:
            x = block(torch.cat([x, shortcut, F0, energy], dim=1), s)
        audio: torch.Tensor = self.generator(x, s, F0_curve)
        return audio


class Network(KModel):  # type: ignore[misc]  # the package has no types
    """A KModel of `config`'s sizes with random weights; "trunk" in it asks for a narrow decoder."""

    def __init__(self, config: Mapping[str, Any]):
        # Not KModel.__init__, which loads a checkpoint, from the hub where none is given.
        nn.Module.__init__(self)
        self.repo_id = "none"
        self.vocab = config["vocab"]
        self.bert = CustomAlbert(AlbertConfig(vocab_size=config["n_token"], **config["plbert"]))
        self.bert_encoder = nn.Linear(self.bert.config.hidden_size, config["hidden_dim"])
        self.context_length = self.bert.config.max_position_embeddings
        self.predictor = ProsodyPredictor(
            style_dim=config["style_dim"],
            d_hid=config["hidden_dim"],
            nlayers=config["n_layer"],
            max_dur=config["max_dur"],
            dropout=config["dropout"],
        )
        self.text_encoder = TextEncoder(
            channels=config["hidden_dim"],
            kernel_size=config["text_encoder_kernel_size"],
            depth=config["n_layer"],
            n_symbols=config["n_token"],
        )
        if "trunk" in config:
            self.decoder = NarrowDecoder(
                config["hidden_dim"], config["style_dim"], config["trunk"], **config["istftnet"]
            )
        else:
            self.decoder = Decoder(
                dim_in=config["hidden_dim"],
                style_dim=config["style_dim"],
                dim_out=config["n_mels"],
                **config["istftnet"],
            )


def random_network(config: Mapping[str, Any], seed: int = 0) -> Network:
    """A network that speaks noise at a natural rate: for tests and benchmarks.

    Same shapes and same cost as a trained one. Two biases are set so that a phoneme lasts about
    75 ms and the harmonic source runs; left at random, a phoneme would last 25 frames.
    """
    with quiet_kokoro(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(config)
        network.eval()
    odds = _FRAMES_PER_PHONEME / (config["max_dur"] - _FRAMES_PER_PHONEME)
    with torch.no_grad():
        network.predictor.duration_proj.linear_layer.bias.fill_(math.log(odds))
        network.predictor.F0_proj.bias.fill_(_F0_HZ)
    return network

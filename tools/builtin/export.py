"""Makes the shipped model of a checkpoint: weights, configuration, style map and stock voices.

    python tools/builtin/export.py --checkpoint training.pt --data training.safetensors --out FOLDER

Writes the files of kvw/synth/builtin. The weights are the averaged ones, in half precision. A
voice of every LibriSpeech and flite speaker is tried on four sentences with pocketsphinx; the
stock voices are those that it understands best, thinned to the ones that lie farthest apart.
"""

import argparse
import functools
import json
import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from corpus import LIBRISPEECH, SAMPLE_RATE_HZ, WARPED, Clip, by_speaker, load
from numpy.typing import NDArray
from pocketsphinx import Decoder, get_model_path
from safetensors.torch import load_file, save_file

from kvw.files import replacing, write_json
from kvw.synth.network import Network

# Three of the Harvard sentences (IEEE, 1969, list 1) and a plain one.
_SENTENCES = (
    "the birch canoe slid on the smooth planks",
    "please call me tomorrow morning",
    "the juice of lemons makes fine punch",
    "these days a chicken leg is a rare dish",
)
_RECOGNISER_RATE_HZ = 16_000
_RECOGNISER_PEAK = 0.6
# Above it a voice's name says f, below it m: a rule for names, no knowledge about the speaker.
_HIGH_F0_HZ = 160.0


@dataclass(frozen=True)
class Speaker:
    """A speaker of the training file.

    Attributes:
        name: as in the clips.
        source: in words.
        embedding: (256,) float32, of unit norm, the mean over the clips.
        median_f0_hz: over the voiced half-frames of all clips.
    """

    name: str
    source: str
    embedding: NDArray[np.float32]
    median_f0_hz: float

    @classmethod
    def of(cls, name: str, clips: Sequence[Clip]) -> "Speaker":
        """The speaker of those clips."""
        embedding = np.mean([clip.embedding for clip in clips], axis=0)
        f0_hz = np.concatenate([clip.f0_hz for clip in clips])
        source = "LibriSpeech speaker" if clips[0].source == LIBRISPEECH else "flite"
        return cls(
            name,
            f"{source} {name}",
            embedding / np.linalg.norm(embedding),
            float(np.median(f0_hz[f0_hz > 0])),
        )

    @property
    def voice_name(self) -> str:
        """American English, f or m by pitch, the speaker's name: in the manner of Kokoro's."""
        return f"a{'f' if self.median_f0_hz > _HIGH_F0_HZ else 'm'}_{self.name}"


def word_errors(truth: str, heard: str) -> tuple[int, int]:
    """Edits from the words of one text to those of the other, and the first one's words."""
    expected, got = truth.split(), heard.split()
    row = list(range(len(got) + 1))
    for i, word in enumerate(expected, start=1):
        above, row = row, [i]
        for j, other in enumerate(got, start=1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (word != other)))
    return row[-1], len(expected)


class Listener:
    """Speaks the sentences in a style and has pocketsphinx write down what it hears."""

    def __init__(self, folder: Path):
        from misaki.espeak import EspeakG2P  # seconds to import

        torch.set_num_threads(1)
        self._network = load_network(folder)
        g2p = EspeakG2P(language="en-us")
        self._tokens = {sentence: self._tokenise(g2p(sentence)[0]) for sentence in _SENTENCES}
        models = Path(get_model_path()) / "en-us"
        self._recogniser = Decoder(
            hmm=str(models / "en-us"),
            lm=str(models / "en-us.lm.bin"),
            dict=str(models / "cmudict-en-us.dict"),
            loglevel="FATAL",
        )

    def _tokenise(self, phonemes: str) -> torch.Tensor:
        vocab = self._network.vocab
        return torch.tensor([[0, *(vocab[p] for p in phonemes if p in vocab), 0]])

    def word_error(self, style: torch.Tensor) -> float:
        """Word error rate (0 is none; may pass 1) of a style (256,) over all sentences."""
        n_errors = n_words = 0
        for sentence, tokens in self._tokens.items():
            torch.manual_seed(0)
            audio, _ = self._network.forward_with_tokens(tokens, style[None], 1.0)
            errors, words = word_errors(sentence, self._heard(audio.numpy()))
            n_errors, n_words = n_errors + errors, n_words + words
        return n_errors / n_words

    def _heard(self, audio: NDArray[np.float32]) -> str:
        audio = soxr.resample(audio, SAMPLE_RATE_HZ, _RECOGNISER_RATE_HZ)
        audio = audio * (_RECOGNISER_PEAK / np.abs(audio).max())
        # Else what it hears depends on what it heard before: it adapts to the channel.
        self._recogniser.reinit_feat()
        self._recogniser.start_utt()
        samples = (audio * 32767).astype(np.int16).tobytes()
        self._recogniser.process_raw(samples, full_utt=True)
        self._recogniser.end_utt()
        hypothesis = self._recogniser.hyp()
        return hypothesis.hypstr if hypothesis else ""


@functools.cache
def _listener(folder: Path) -> Listener:
    """One in each process."""
    return Listener(folder)


def _word_error(style: NDArray[np.float32], folder: Path) -> float:
    return _listener(folder).word_error(torch.from_numpy(style))


def load_network(folder: Path) -> Network:
    """The exported network, in single precision."""
    network = Network(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    network.load_state_dict(load_file(folder / "model.safetensors"))
    network.eval().requires_grad_(False)
    return network


def write_model(state: Mapping[str, Any], folder: Path) -> dict[str, torch.Tensor]:
    """Writes weights, configuration and style map of a checkpoint; returns the style map."""
    network: dict[str, torch.Tensor] = {}
    style: dict[str, torch.Tensor] = {}
    for name, tensor in state["averages"].items():
        part, _, rest = name.partition(".")
        (network if part == "network" else style)[rest] = tensor
    style_map = {
        "style.weight": style["linear.weight"].float().contiguous(),
        "style.bias": style["linear.bias"].float().contiguous(),
        "style.mean": style["mean"].float().contiguous(),
        "style.std": style["std"].float().contiguous(),
    }
    half = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in network.items()
    }
    with replacing(folder / "model.safetensors") as temporary:
        save_file(half, temporary)
    with replacing(folder / "speaker_to_style.safetensors") as temporary:
        save_file(style_map, temporary)
    write_json(folder / "config.json", json.loads(state["config"]))
    return style_map


def style_of(speaker: Speaker, style_map: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The style (256,) that the model was taught for the speaker."""
    z = (torch.from_numpy(speaker.embedding) - style_map["style.mean"]) / style_map["style.std"]
    return style_map["style.weight"] @ z + style_map["style.bias"]


def spread(speakers: Sequence[Speaker], n: int) -> list[Speaker]:
    """At most `n` speakers, far apart: the most central one, then ever the farthest from those."""
    if not speakers:
        return []
    embeddings = np.stack([speaker.embedding for speaker in speakers])
    picked = [int((embeddings @ embeddings.mean(axis=0)).argmax())]
    while len(picked) < min(n, len(speakers)):
        picked.append(int((embeddings @ embeddings[picked].T).max(axis=1).argmin()))
    return [speakers[i] for i in picked]


def main() -> None:
    """Reads the flags, writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="of train.py")
    parser.add_argument("--data", type=Path, required=True, help="training file of prepare.py")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--max_word_error", type=float, default=0.57, help="of a stock voice")
    parser.add_argument("--n_each", type=int, default=13, help="real speakers of high, of low F0")
    parser.add_argument(
        "--always", nargs="*", default=["slt", "rms"], help="speakers whose voices are kept anyway"
    )
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()

    state = torch.load(arguments.checkpoint, map_location="cpu", weights_only=True)
    style_map = write_model(state, arguments.out)

    clips = [clip for clip in load(arguments.data) if clip.source != WARPED]
    speakers = [Speaker.of(name, own) for name, own in by_speaker(clips).items()]
    styles = [style_of(speaker, style_map).numpy() for speaker in speakers]
    # Spawned, not forked: the workers run torch, which does not bear a fork.
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        listen = functools.partial(_word_error, folder=arguments.out)
        errors = dict(zip([s.name for s in speakers], pool.map(listen, styles), strict=True))
    print(f"word error over {len(errors)} speakers: median {np.median(list(errors.values())):.2f}")

    real = [speaker for speaker in speakers if speaker.source.startswith("LibriSpeech")]
    clear = [speaker for speaker in real if errors[speaker.name] <= arguments.max_word_error]
    stock = [
        *spread([s for s in clear if s.median_f0_hz > _HIGH_F0_HZ], arguments.n_each),
        *spread([s for s in clear if s.median_f0_hz <= _HIGH_F0_HZ], arguments.n_each),
        *(speaker for speaker in speakers if speaker.name in arguments.always),
    ]
    if not stock:
        raise SystemExit(
            f"Expected voices with a word error of at most {arguments.max_word_error}, but the "
            f"best has {min(errors.values()):.2f}; train longer or raise --max_word_error"
        )
    voices = {speaker.voice_name: style_of(speaker, style_map) for speaker in stock}
    with replacing(arguments.out / "voices.safetensors") as temporary:
        save_file(voices, temporary)
    about = {
        speaker.voice_name: {
            "median_f0_hz": round(speaker.median_f0_hz, 1),
            "word_error": round(errors[speaker.name], 2),
            "source": speaker.source,
        }
        for speaker in stock
    }
    write_json(arguments.out / "voices.json", about)
    for name, facts in about.items():
        print(f"{name}: {facts}")


if __name__ == "__main__":
    main()

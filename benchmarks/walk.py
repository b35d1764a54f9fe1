"""What a step of the walk costs, part by part, and what 200 steps gain.

    uv run python -m benchmarks.walk cost            built-in model, and full size if memory allows
    uv run python -m benchmarks.walk gain SPEECH     SPEECH holds one folder of recordings a speaker

`cost` times KVW's own evaluation of one candidate with KVoiceWalk's two texts: synthesis, speaker
embedding, features. Full size is Kokoro-82M's architecture with random weights: same shapes, same
cost, no speech. `gain` makes a voice for every speaker, seed and space, from the speaker's longest
recording, and then scores it on sentences that the search never saw, beside the best stock voice
(floor) and the speaker's other recordings (ceiling). Every run is a run folder below --out: what
is finished is not done again, so the benchmark can be interrupted.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kvw import audio, engine, features, text, voice
from kvw.run import Run
from kvw.settings import Settings
from kvw.speaker import SpeakerEncoder, similarity
from kvw.synth import models
from kvw.synth.network import random_network
from kvw.synth.synthesizer import Synthesizer
from kvw.voice import SHAPE

# Sentences that no search has seen: a few, some dozen and well over a hundred phonemes. From the
# Harvard sentences (IEEE Recommended Practice for Speech Quality Measurements, 1969).
HELD_OUT = (
    "Glue the sheet.",
    "The birch canoe slid on the smooth planks, and the juice of lemons makes fine punch.",
    "It is easy to tell the depth of a well. Four hours of steady work faced us. A large size in "
    "stockings is hard to sell. The boy was there when the sun rose. A rod is used to catch pink "
    "salmon. The source of the huge river is the clear spring.",
)
N_REPEATS = 5


def machine() -> str:
    """What the figures were measured on."""
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} on "
        f"{torch.get_num_threads()} threads, {datetime.now(UTC):%Y-%m-%d}"
    )


# --- Cost --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Seconds of one candidate's evaluation, by part, and of the audio it made."""

    name: str
    audio_s: float
    synthesis_s: float
    embedding_s: float
    features_s: float

    @property
    def total_s(self) -> float:
        """Of the whole evaluation."""
        return self.synthesis_s + self.embedding_s + self.features_s


def cost(name: str, synthesizer: Synthesizer, tensor: torch.Tensor, n_repeats: int) -> Cost:
    """The median of a few evaluations, after one to warm up."""
    phonemizer = text.Phonemizer("a")
    utterances = [
        synthesizer.prepare(phonemizer.phonemize(words))
        for words in (text.DEFAULT_TARGET_TEXT, text.DEFAULT_OTHER_TEXT)
    ]
    encoder = SpeakerEncoder()
    taken: list[tuple[float, float, float]] = []
    audio_s = 0.0
    for _ in range(n_repeats + 1):
        started = time.perf_counter()
        spoken = [synthesizer.speak(tensor[None], u, seed=0)[0] for u in utterances]
        synthesised = time.perf_counter()
        for one in spoken:
            encoder.embed(one)
        embedded = time.perf_counter()
        features.extract(spoken[0])
        ended = time.perf_counter()
        taken.append((synthesised - started, embedded - synthesised, ended - embedded))
        audio_s = sum(len(one) for one in spoken) / audio.SAMPLE_RATE_HZ
    parts = [statistics.median(column) for column in zip(*taken[1:], strict=True)]
    return Cost(name, audio_s, *parts)


def report_cost(costs: Sequence[Cost]) -> str:
    """A table in Markdown."""
    rows = [
        "| model | speech | synthesis | embedding | features | one candidate |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in costs:
        parts = [
            f"{seconds:.2f} s ({seconds / one.total_s:.0%})"
            for seconds in (one.synthesis_s, one.embedding_s, one.features_s)
        ]
        rows.append(
            f"| {one.name} | {one.audio_s:.1f} s | {' | '.join(parts)} | {one.total_s:.2f} s |"
        )
    return "\n".join(rows)


def run_cost(n_repeats: int, full_size: bool) -> str:
    """Measures and reports both models."""
    builtin = models.load("builtin")
    costs = [cost("built-in", Synthesizer(builtin.network), builtin.voices()[0].tensor, n_repeats)]
    if full_size:
        network = random_network(models.kokoro_config()).requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        tensor = 0.2 * torch.randn(SHAPE, generator=generator)
        costs.append(
            cost("full size, random weights", Synthesizer(network), tensor, min(n_repeats, 2))
        )
    return f"{report_cost(costs)}\n\n{machine()}"


# --- Gain --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gain:
    """What one run gained, on its own texts and on sentences it never saw."""

    speaker: str
    space: str
    seed: int
    score_before: float
    score_after: float
    target_before: float
    target_after: float
    held_out_floor: float
    held_out: float
    ceiling: float
    seconds: float


def speakers(folder: Path) -> Iterator[tuple[str, Path, list[Path]]]:
    """Name, longest recording and other recordings of every speaker."""
    for one in sorted(path for path in folder.iterdir() if path.is_dir()):
        recordings = sorted(path for path in one.iterdir() if path.suffix in {".flac", ".wav"})
        recordings.sort(key=lambda path: -len(audio.load(path).audio))
        yield one.name, recordings[0], recordings[1:]


class HeldOut:
    """Similarity of a voice to a speaker on sentences that no search has seen."""

    def __init__(self, encoder: SpeakerEncoder):
        self._encoder = encoder
        self._synthesizer = Synthesizer(models.load("builtin").network)
        phonemizer = text.Phonemizer("a")
        self._utterances = [
            self._synthesizer.prepare(phonemizer.phonemize(words)) for words in HELD_OUT
        ]

    def similarity(self, tensor: torch.Tensor, target: NDArray[np.float32]) -> float:
        """The mean over the sentences, each compared with the target's embedding (256,)."""
        spoken = [self._synthesizer.speak(tensor[None], u, seed=0)[0] for u in self._utterances]
        return statistics.mean(similarity(self._encoder.embed(one), target) for one in spoken)


def gain(
    held_out: HeldOut,
    encoder: SpeakerEncoder,
    speaker: tuple[str, Path, list[Path]],
    settings: Settings,
    out: Path,
) -> Gain:
    """One run, made, finished or only read, and what it gained."""
    name, recording, others = speaker
    run_name = f"{name}_{settings.space}_{settings.seed}"
    folder = out / run_name
    if (folder / "journal.jsonl").is_file():
        engine.resume_voice(folder, {})
    else:
        named = settings.model_copy(update={"target_audio": recording, "output_name": run_name})
        engine.make_voice(named, out=out)
    summary = json.loads((folder / "summary.json").read_text())
    target = encoder.embed(audio.load(recording).audio)
    stock = {one.name: one for one in models.load("builtin").voices()}
    with Run.open(folder) as run:
        ranked = run.of_phase("rank")
    best_stock = max(range(len(ranked)), key=lambda i: ranked[i].outcomes[0].parts["target"])
    floor = stock[sorted(stock)[best_stock]]
    embeddings = [encoder.embed(audio.load(path).audio) for path in others]
    return Gain(
        name,
        settings.space,
        settings.seed,
        summary["before"]["total"],
        summary["after"]["total"],
        summary["before"]["target"],
        summary["after"]["target"],
        held_out.similarity(floor.tensor, target),
        held_out.similarity(voice.load(folder / "best.pt").tensor, target),
        statistics.mean(similarity(one, target) for one in embeddings),
        summary["elapsed_s"],
    )


def report_gain(gains: Sequence[Gain]) -> str:
    """A table in Markdown, with the mean of each space below."""
    rows = [
        "| speaker | space | seed | score | target similarity | held out: best stock voice "
        "| held out: after | ceiling | time |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in gains:
        rows.append(
            f"| {one.speaker} | {one.space} | {one.seed} "
            f"| {one.score_before:.1f} → {one.score_after:.1f} "
            f"| {one.target_before:.3f} → {one.target_after:.3f} "
            f"| {one.held_out_floor:.3f} | {one.held_out:.3f} | {one.ceiling:.3f} "
            f"| {one.seconds:.0f} s |"
        )
    for space in sorted({one.space for one in gains}):
        ours = [one for one in gains if one.space == space]

        def mean(read: Callable[[Gain], float], ours: Sequence[Gain] = ours) -> float:
            return statistics.mean(read(one) for one in ours)

        rows.append(
            f"| mean of {len(ours)} | {space} | "
            f"| {mean(lambda g: g.score_before):.1f} → {mean(lambda g: g.score_after):.1f} "
            f"| {mean(lambda g: g.target_before):.3f} → {mean(lambda g: g.target_after):.3f} "
            f"| {mean(lambda g: g.held_out_floor):.3f} | {mean(lambda g: g.held_out):.3f} "
            f"| {mean(lambda g: g.ceiling):.3f} | {mean(lambda g: g.seconds):.0f} s |"
        )
    return "\n".join(rows)


def run_gain(
    speech: Path, spaces: Sequence[str], seeds: Sequence[int], steps: int, out: Path
) -> str:
    """Makes, resumes or reads all runs, and reports what is there."""
    encoder = SpeakerEncoder()
    held_out = HeldOut(encoder)
    gains = []
    for seed in seeds:
        for space in spaces:
            for speaker in speakers(speech):
                settings = Settings.create(
                    {"model": "builtin", "space": space, "seed": seed, "step_limit": steps}
                    # The recordings' words are not known: the default text, for all alike.
                    | {"target_text": text.DEFAULT_TARGET_TEXT}
                )
                gains.append(gain(held_out, encoder, speaker, settings, out))
                print(report_gain(gains[-1:]).splitlines()[2], flush=True)
    return f"{report_gain(gains)}\n\nBuilt-in model, {steps} steps. {machine()}"


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=None, help="of torch; default: its own")
    commands = parser.add_subparsers(dest="command", required=True)
    of_cost = commands.add_parser("cost")
    of_cost.add_argument("--repeats", type=int, default=N_REPEATS)
    of_cost.add_argument("--builtin_only", action="store_true")
    of_gain = commands.add_parser("gain")
    of_gain.add_argument("speech", type=Path)
    of_gain.add_argument("--spaces", nargs="+", default=["offset", "full"])
    of_gain.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    of_gain.add_argument("--steps", type=int, default=200)
    of_gain.add_argument("--out", type=Path, default=Path("out/benchmark"))
    given = parser.parse_args()
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    if given.command == "cost":
        print(run_cost(given.repeats, not given.builtin_only))
    else:
        print(run_gain(given.speech, given.spaces, given.seeds, given.steps, given.out))


if __name__ == "__main__":
    main()

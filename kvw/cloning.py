"""The main job's phases, one after another, over parts that are ready.

    start        the voice that was named, where one was
    rank         every stock voice against the target
    interpolate  on and beyond the lines between the best of them, where asked for
    mean         the mean of the best of them
    walk         from the best of all these

Knows how the phases hang together and which files a run leaves behind; knows nothing of where
models, voices and recordings come from, nor of terminals.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kvw import __version__, audio, voice
from kvw.errors import RunError
from kvw.files import write_json
from kvw.objective import Evaluation, Objective, VoiceObjective
from kvw.optimizers import Optimizer, Outcome, Proposals, Walk
from kvw.run import Run
from kvw.score import Scorer
from kvw.search import Best, Clock, Step, search
from kvw.settings import Settings
from kvw.space import FullSpace, MixtureSpace, OffsetSpace, Space
from kvw.synth.synthesizer import Synthesizer, Utterance
from kvw.voice import Voice

Vectors = NDArray[np.float64]

# KVoiceWalk's interpolation: the midpoint plus alpha times half the difference.
ALPHAS = tuple(round(tenth / 10, 1) for tenth in range(-15, 16))
# Two weight vectors nearer than this are one voice.
_SAME_WEIGHTS_DECIMALS = 9


class Observer:
    """Watches a job; this one keeps quiet."""

    def notice(self, message: str) -> None:
        """Something the user should know, in one sentence."""

    def phase(
        self, name: str, n_generations: int, time_limit_s: float | None, clock: Clock
    ) -> None:
        """A phase begins; it has at most that many generations, the run that much time."""

    def step(self, step: Step) -> None:
        """A generation ended."""

    def evaluating(self, is_evaluating: bool) -> None:
        """A generation's evaluation begins, or has ended.

        In between, and only there, a KeyboardInterrupt drops what is under way and nothing else.
        """

    def wants_to_stop(self) -> bool:
        """Asked before every generation: whether to end early, and keep what was found."""
        return False


@dataclass(frozen=True)
class Parts:
    """What a job works with: settings made objects."""

    settings: Settings
    model_id: str
    stock: Sequence[Voice]
    starting_voice: Voice | None
    synthesizer: Synthesizer
    utterances: Sequence[Utterance]
    scorer: Scorer


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        run: the folder's path, with best.pt and best.wav in it.
        model_id: the model that the voice belongs to.
        start_name, start: the voice that the walk began with, and its score.
        best: the score of the voice that it ended with.
        n_steps, n_accepted: of the walk.
        n_evaluations: candidates of all phases, rejected ones included.
        elapsed_s: of work, interruptions left out.
        ended: "step limit", "time limit" or "interrupted".
    """

    run: Run
    model_id: str
    start_name: str
    start: Outcome
    best: Outcome
    n_steps: int
    n_accepted: int
    n_evaluations: int
    elapsed_s: float
    ended: str


class _Watched(Objective):
    """An objective whose evaluations an observer is told of."""

    def __init__(self, objective: Objective, observer: Observer):
        self._objective = objective
        self._observer = observer

    def evaluate(self, x: Vectors, best: Outcome | None) -> list[Evaluation]:
        """What the objective says."""
        self._observer.evaluating(True)
        try:
            return self._objective.evaluate(x, best)
        finally:
            self._observer.evaluating(False)


class Cloning:
    """One run of the main job, new or resumed."""

    def __init__(self, parts: Parts, run: Run, clock: Clock, observer: Observer):
        self._parts = parts
        self._run = run
        self._clock = clock
        self._observer = observer
        self._spaces: dict[str, Space] = {}
        self._best: Best | None = None
        self._saved: Best | None = None
        self._start: Best | None = None
        self._interrupted = False

    def work(self) -> Result:
        """All phases, then the last files and the summary.

        A KeyboardInterrupt ends the phases early; what was found is kept.

        Raises:
            RunError: it was interrupted before one voice had a score.
        """
        try:
            self._phases()
        except KeyboardInterrupt:
            self._interrupted = True
            # It may have come between a generation's line in the journal and its telling: what is
            # in the journal counts. Nothing is evaluated from here on.
            self._run.reload()
            self._phases()
        if self._best is None:
            raise RunError(
                f"No voice has a score yet; go on with --resume {self._run.folder}"
                if self._interrupted
                else "Expected at least one voice that can be heard, and none could; "
                "use other stock voices or another model"
            )
        self._save(self._best, None)
        result = self._result(self._best)
        self._summarise(result)
        return result

    # The phases.

    def _phases(self) -> None:
        settings, stock = self._parts.settings, self._parts.stock
        given = self._parts.starting_voice
        self._best = None
        if given is not None:
            self._propose("start", MixtureSpace([given]), [np.ones(1)])
        if given is None or settings.space == "full":
            self._propose("rank", MixtureSpace(stock), list(np.eye(len(stock))))
        if given is None:
            if settings.interpolate_start:
                self._interpolate()
            self._mean()
        start = self._start = self._start_of_walk()
        if start is None:
            return
        base = Voice("base", self._decode(start)[0])
        space = self._walk_space(base)
        self._best = Best("walk", np.zeros(space.dim), start.outcome)
        walk = Walk(np.zeros(space.dim), _total(start.outcome))
        self._follow("walk", space, walk, settings.step_limit)

    def _interpolate(self) -> None:
        """Every pair of the best stock voices, on a grid of alphas; the best of each is kept."""
        stock = self._parts.stock
        space = MixtureSpace(stock)
        scored = self._scored("rank")
        members = [int(np.argmax(weights)) for weights in self._population("rank")]
        pairs = list(itertools.combinations(members, 2))
        proposals = [
            weights
            for a, b in pairs
            for alpha in ALPHAS
            if _key(weights := _interpolated(len(stock), a, b, alpha)) not in scored
        ]
        self._propose("interpolate", space, proposals)
        scored = self._scored("interpolate")
        for a, b in pairs:
            tried = [
                (outcome.total, alpha, weights)
                for alpha in ALPHAS
                if (outcome := scored.get(_key(weights := _interpolated(len(stock), a, b, alpha))))
                and outcome.total is not None
            ]
            if tried:
                total, alpha, weights = max(tried, key=lambda one: one[0])
                self._save_interpolated(stock[a], stock[b], alpha, total, space.decode(weights)[0])

    def _save_interpolated(
        self, a: Voice, b: Voice, alpha: float, total: float, tensor: torch.Tensor
    ) -> None:
        sign = "m" if alpha < 0 else "p"
        name = voice.safe_name(f"{a.name}_to_{b.name}_{sign}{abs(round(alpha * 10)):02d}")
        provenance = {"voices": [a.name, b.name], "alpha": alpha, "score": {"total": total}}
        path = self._run.folder / "interpolated" / f"{name}.pt"
        voice.save(Voice(name, tensor, model=self._parts.model_id, provenance=provenance), path)

    def _mean(self) -> None:
        """The mean of the population, where KVoiceWalk starts; scored like all others."""
        population = self._population("rank", "interpolate")
        if len(population) == 0:
            return
        mean = population.mean(axis=0)
        # The mean of one is that one, that of two their midpoint: these may have a score already.
        proposals = [] if _key(mean) in self._scored("rank", "interpolate") else [mean]
        self._propose("mean", MixtureSpace(self._parts.stock), proposals)

    def _population(self, *phases: str) -> Vectors:
        """Weights (n, voices) of these phases' best by target similarity, best first."""
        heard = [
            (outcome.parts["target"], key)
            for key, outcome in self._scored(*phases).items()
            if "target" in outcome.parts
        ]
        heard.sort(key=lambda one: -one[0])  # stable: equals stay in the order of the journal
        limit = self._parts.settings.population_limit
        return _stack([np.array(key) for _, key in heard[:limit]], len(self._parts.stock))

    def _scored(self, *phases: str) -> dict[tuple[float, ...], Outcome]:
        """Outcomes of these phases' mixtures in the journal, by their weights."""
        return {
            _key(x): outcome
            for phase in phases
            for generation in self._run.of_phase(phase)
            if generation.x is not None
            for x, outcome in zip(generation.x, generation.outcomes, strict=True)
        }

    def _start_of_walk(self) -> Best | None:
        """The voice that was named, or the best so far; None where nothing has a score yet."""
        given = self._parts.starting_voice
        if given is None:
            return self._best
        for generation in self._run.of_phase("start"):
            if generation.outcomes[0].total is None:
                raise RunError(
                    f"Expected a starting voice that can be heard, and what {given.name} speaks is "
                    "silent or not finite; use another"
                )
            return Best("start", np.ones(1), generation.outcomes[0])
        return None

    def _walk_space(self, base: Voice) -> Space:
        settings, stock = self._parts.settings, self._parts.stock
        if settings.space == "offset":
            return OffsetSpace(base, stock, settings.components)
        population = self._population("rank", "interpolate")
        if len(population) < 2:  # one voice has no deviation: take that of all
            return FullSpace(base, stock)
        tensors = MixtureSpace(stock).decode(population)
        return FullSpace(base, [Voice("population", tensor) for tensor in tensors])

    def _propose(self, phase: str, space: Space, x: Sequence[Vectors]) -> None:
        """Scores the vectors (dim,) given, one after another."""
        self._follow(phase, space, Proposals(_stack(x, space.dim)), len(x))

    def _follow(self, phase: str, space: Space, optimizer: Optimizer, limit: int) -> None:
        """Runs one phase and keeps the best candidate as it changes."""
        self._spaces[phase] = space
        settings = self._parts.settings
        objective = VoiceObjective(
            space,
            self._parts.synthesizer,
            self._parts.scorer,
            self._parts.utterances,
            settings.seed,
        )
        self._observer.phase(phase, limit, settings.time_limit, self._clock)
        for step in search(
            phase,
            space.name,
            optimizer,
            _Watched(objective, self._observer),
            self._run,
            seed=settings.seed,
            clock=self._clock,
            best=self._best,
            max_generations=limit,
            stop=self._is_over,
        ):
            self._best = step.best
            if step.best is not None and not step.replayed:
                self._save(step.best, step.product)
                if step.improved and phase == "walk" and settings.keep == "improvements":
                    name = f"{self._run.folder.name}_step_{step.n_done:06d}"
                    self._write(step.best, step.product, Path("improvements", name), name)
            self._observer.step(step)

    def _is_over(self) -> bool:
        """Whether to evaluate nothing more."""
        self._interrupted = self._interrupted or self._observer.wants_to_stop()
        limit = self._parts.settings.time_limit
        # One candidate is always evaluated: there must be something to give back.
        return self._interrupted or (
            limit is not None and bool(self._run.generations) and self._clock.elapsed_s() >= limit
        )

    # What a run leaves behind.

    def _decode(self, best: Best) -> torch.Tensor:
        return self._spaces[best.phase].decode(best.x)

    def _voice(self, best: Best, name: str) -> Voice:
        settings = self._parts.settings
        score = {"total": best.outcome.total, **best.outcome.parts}
        provenance: dict[str, Any] = {
            "target": str(settings.target_audio),
            "score": score,
            "phase": best.phase,
            "space": self._spaces[best.phase].name,
            "seed": settings.seed,
            "settings": settings.to_dict(),
            "kvw": __version__,
        }
        return Voice(name, self._decode(best)[0], self._parts.model_id, provenance)

    def _speak(self, found: Voice) -> NDArray[np.float32]:
        seed = self._parts.settings.seed
        return self._parts.synthesizer.speak(found.tensor[None], self._parts.utterances[0], seed)[0]

    def _save(self, best: Best, product: object) -> None:
        """best.pt, best.json and best.wav, unless they are there already."""
        if best is not self._saved:
            self._write(best, product, Path("best"), self._run.folder.name)
            self._saved = best

    def _write(self, best: Best, product: object, stem: Path, name: str) -> None:
        """Tensor, provenance and audio of a candidate; spoken anew where it is not `product`."""
        found = self._voice(best, name)
        spoken = product if isinstance(product, np.ndarray) else self._speak(found)
        path = self._run.folder / stem
        voice.save(found, path.with_suffix(".pt"))
        audio.save(path.with_suffix(".wav"), spoken)

    def _result(self, best: Best) -> Result:
        start = self._start or best
        walk = self._run.of_phase("walk")
        bar = _total(start.outcome)
        n_accepted = 0
        for generation in walk:
            total = max(_total(outcome) for outcome in generation.outcomes)
            if total > bar:
                bar, n_accepted = total, n_accepted + 1
        settings = self._parts.settings
        limited = len(walk) >= settings.step_limit
        ended = "step limit" if limited else "interrupted" if self._interrupted else "time limit"
        return Result(
            run=self._run,
            model_id=self._parts.model_id,
            start_name=self._name_of(start),
            start=start.outcome,
            best=best.outcome,
            n_steps=len(walk),
            n_accepted=n_accepted,
            n_evaluations=sum(len(g.outcomes) for g in self._run.generations),
            elapsed_s=self._clock.elapsed_s(),
            ended=ended,
        )

    def _name_of(self, best: Best) -> str:
        """What a person would call the voice that the walk started from."""
        if best.phase == "start" and self._parts.starting_voice is not None:
            return self._parts.starting_voice.name
        if best.phase == "mean":
            return "the mean of the best stock voices"
        weights = {v.name: w for v, w in zip(self._parts.stock, best.x, strict=True) if w}
        if len(weights) == 1:
            return next(iter(weights))
        return " ".join(f"{weight:+.2f} {name}" for name, weight in weights.items())

    def _summarise(self, result: Result) -> None:
        def as_dict(outcome: Outcome) -> dict[str, float | None]:
            return {"total": outcome.total, **outcome.parts}

        write_json(
            self._run.folder / "summary.json",
            {
                "target": str(self._parts.settings.target_audio),
                "model": result.model_id,
                "voice": "best.pt",
                "audio": "best.wav",
                "before": {"voice": result.start_name, **as_dict(result.start)},
                "after": as_dict(result.best),
                "steps": result.n_steps,
                "accepted": result.n_accepted,
                "evaluations": result.n_evaluations,
                "elapsed_s": round(result.elapsed_s, 1),
                "ended": result.ended,
                "audition": audition(self._run),
            },
        )


def audition(run: Run) -> str:
    """The command that speaks with a run's best voice."""
    return f'--test_voice {run.folder / "best.pt"} --target_text "Any text you like."'


def _total(outcome: Outcome) -> float:
    return -np.inf if outcome.total is None else outcome.total


def _interpolated(n: int, a: int, b: int, alpha: float) -> Vectors:
    """Weights (n,) of the midpoint of voices a and b plus alpha times half their difference."""
    weights = np.zeros(n)
    weights[a], weights[b] = (1 - alpha) / 2, (1 + alpha) / 2
    return weights


def _key(weights: Vectors) -> tuple[float, ...]:
    return tuple(np.round(weights, _SAME_WEIGHTS_DECIMALS) + 0.0)  # + 0.0: no negative zero


def _stack(rows: Sequence[Vectors], dim: int) -> Vectors:
    return np.array(rows, dtype=np.float64).reshape(-1, dim)

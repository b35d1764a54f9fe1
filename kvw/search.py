"""The search loop: ask, evaluate, tell, write down.

One loop for every optimizer and every kind of candidate. A run that was interrupted is first told
its journal: nothing is evaluated again. Then it goes on, as if nothing had happened.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvw.objective import Objective
from kvw.optimizers import Optimizer, Outcome
from kvw.run import Generation, Run

Vectors = NDArray[np.float64]


class Clock:
    """How long a run has worked: before it was interrupted, and since."""

    def __init__(self, before_s: float = 0.0):
        self._started = time.monotonic() - before_s

    def elapsed_s(self) -> float:
        """Seconds of work so far."""
        return time.monotonic() - self._started


@dataclass(frozen=True)
class Best:
    """The best candidate so far and the phase whose space its vector belongs to."""

    phase: str
    x: Vectors
    outcome: Outcome


@dataclass(frozen=True)
class Step:
    """One generation of the loop, for those who watch or keep.

    Attributes:
        generation: its line in the journal.
        n_done: how many generations of this phase are done.
        best: the best candidate so far, of this phase or an earlier one.
        improved: whether this generation found it.
        product: what the objective made of the best candidate; None unless this generation found
            it and evaluated it just now.
        replayed: whether the generation was read from the journal.
    """

    generation: Generation
    n_done: int
    best: Best | None
    improved: bool
    product: object
    replayed: bool


def search(
    phase: str,
    space: str,
    optimizer: Optimizer,
    objective: Objective,
    run: Run,
    *,
    seed: int,
    clock: Clock,
    best: Best | None = None,
    max_generations: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Searches until the optimizer has nothing left, the limit is reached, or `stop` says so.

    Args:
        phase: name in the journal; each phase of a run has its own.
        space: name of the space, for the journal.
        optimizer: proposes.
        objective: judges.
        run: keeps the journal, and what is in it already.
        seed: the random generator of the run's generation g is seeded by (seed, g).
        clock: tells how long the run has worked.
        best: the best candidate of earlier phases.
        max_generations: of this phase, those in the journal included.
        stop: asked before every generation that would be evaluated.

    Yields:
        A step for every generation, those from the journal first.
    """
    done = run.of_phase(phase)
    n_done = 0
    while True:
        replayed = n_done < len(done)
        number = done[n_done].number if replayed else len(run.generations)
        if not replayed and ((max_generations is not None and n_done >= max_generations) or stop()):
            break
        recorded = done[n_done].x if replayed else None
        x = optimizer.ask(np.random.default_rng([seed, number])) if recorded is None else recorded
        if len(x) == 0:
            break
        products: Sequence[object] = [None] * len(x)
        if replayed:
            generation = done[n_done]
        else:
            evaluations = objective.evaluate(x, None if best is None else best.outcome)
            products = [evaluation.product for evaluation in evaluations]
            outcomes = [evaluation.outcome for evaluation in evaluations]
            generation = run.append(phase, space, x, outcomes, clock.elapsed_s())
        optimizer.tell(x, generation.outcomes)
        n_done += 1
        winner = _winner(generation.outcomes, best)
        if winner is not None:
            best = Best(phase, x[winner], generation.outcomes[winner])
        product = None if winner is None else products[winner]
        yield Step(generation, n_done, best, winner is not None, product, replayed)


def _winner(outcomes: Sequence[Outcome], best: Best | None) -> int | None:
    """Index of the highest score, where that is above the best so far; the first of equals."""
    bar = -np.inf if best is None or best.outcome.total is None else best.outcome.total
    winner = None
    for index, outcome in enumerate(outcomes):
        if outcome.total is not None and outcome.total > bar:
            winner, bar = index, outcome.total
    return winner

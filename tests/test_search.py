"""The loop on a problem without voices: what a run keeps, and that resuming changes nothing."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from kvw.objective import Evaluation, Objective
from kvw.optimizers import Outcome, Proposals, Walk
from kvw.run import Recorded, Run
from kvw.search import Best, Clock, Step, search


class Sphere(Objective):
    """-|x - 1|^2; candidates with a large first coordinate are rejected."""

    def __init__(self, pause_s: float = 0.0):
        self.n_evaluated = 0
        self._pause_s = pause_s

    def evaluate(self, x: np.ndarray, best: Outcome | None) -> list[Evaluation]:
        self.n_evaluated += len(x)
        time.sleep(self._pause_s)
        return [Evaluation(self._judge(row), f"product of {row[0]!r}") for row in x]

    @staticmethod
    def _judge(x: np.ndarray) -> Recorded:
        if x[0] > 0.5:
            return Recorded(None, {"target": 0.1}, "too far")
        return Recorded(-float(((x - 1) ** 2).sum()), {"target": 0.5})


def best_of(step: Step) -> Best:
    assert step.best is not None
    return step.best


def walk_through(run: Run, n: int, objective: Objective | None = None, dim: int = 4) -> list[Step]:
    walk = Walk(np.zeros(dim), -float(dim))
    return list(
        search(
            "walk",
            f"sphere-{dim}",
            walk,
            objective or Sphere(),
            run,
            seed=3,
            clock=Clock(run.elapsed_s),
            max_generations=n,
        )
    )


def journal_without_times(run: Run) -> list[tuple[object, ...]]:
    return [
        (g.number, g.phase, g.space, g.outcomes, None if g.x is None else g.x.tobytes())
        for g in run.generations
    ]


@pytest.mark.parametrize("dim", [4, 5000])  # 5000: too long for the journal
def test_a_resumed_search_equals_an_uninterrupted_one(tmp_path, dim):
    with Run.create(tmp_path, "whole", {}) as whole:
        steps = walk_through(whole, 60, dim=dim)
    for cut in (1, 17, 59):
        with Run.create(tmp_path, "parts", {}) as parts:
            walk_through(parts, cut, dim=dim)
        with Run.open(parts.folder) as again:
            objective = Sphere()
            resumed = walk_through(again, 60, objective, dim=dim)
            assert objective.n_evaluated == 60 - cut  # nothing is evaluated twice
            assert journal_without_times(again) == journal_without_times(whole)
        assert [step.replayed for step in resumed] == [True] * cut + [False] * (60 - cut)
        np.testing.assert_array_equal(best_of(resumed[-1]).x, best_of(steps[-1]).x)
        assert best_of(resumed[-1]).outcome == best_of(steps[-1]).outcome


def test_the_best_of_a_walk_never_falls_and_is_the_journals_highest(tmp_path):
    with Run.create(tmp_path, "speaker", {}) as run:
        steps = walk_through(run, 80)
    totals = [best_of(step).outcome.total or -np.inf for step in steps]
    assert totals == sorted(totals)
    journalled = [g.outcomes[0].total for g in run.generations if g.outcomes[0].total is not None]
    assert totals[-1] == max(journalled)
    improved = [step for step in steps if step.improved]
    assert all(step.product == f"product of {best_of(step).x[0]!r}" for step in improved)
    assert all(step.product is None for step in steps if not step.improved)


def test_a_later_phase_keeps_the_best_of_an_earlier_one(tmp_path):
    def two_phases(run: Run, n: int) -> list[Step]:
        def follow(phase: str, optimizer: Proposals, best: Best | None = None) -> list[Step]:
            clock = Clock()
            return list(
                search(phase, "a", optimizer, Sphere(), run, seed=0, clock=clock, best=best)
            )

        rows = np.array([[0.2, 0.9], [0.4, 1.0]])
        first = follow("rank", Proposals(rows))
        return follow("next", Proposals(np.zeros((n, 2))), first[-1].best)

    with Run.create(tmp_path, "speaker", {}) as run:
        steps = two_phases(run, 3)
        assert {best_of(step).phase for step in steps} == {"rank"}
        assert not any(step.improved for step in steps)
        assert [g.number for g in run.generations] == [0, 1, 2, 3, 4]
        assert [step.replayed for step in two_phases(run, 4)] == [True, True, True, False]


def test_it_stops_when_told_to(tmp_path):
    with Run.create(tmp_path, "speaker", {}) as run:
        steps = list(
            search(
                "walk",
                "s",
                Walk(np.zeros(2), -2.0),
                Sphere(),
                run,
                seed=0,
                clock=Clock(),
                stop=lambda: len(run.generations) >= 5,
            )
        )
    assert len(steps) == 5


def test_the_clock_goes_on_from_where_a_run_was():
    clock = Clock(100.0)
    assert 100.0 <= clock.elapsed_s() < 101.0


def test_a_search_killed_at_any_moment_loses_at_most_the_step_under_way(tmp_path):
    """SIGKILL, several times over one run, then the journal of a run that was left in peace."""
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        import numpy as np
        from kvw.optimizers import Walk
        from kvw.run import Run
        from kvw.search import Clock, search
        from tests.test_search import Sphere

        folder = Path(sys.argv[1])
        run = Run.open(folder) if folder.exists() else Run.create(folder.parent, folder.name, {})
        walk = Walk(np.zeros(4), -4.0)
        objective = Sphere(pause_s=0.005)
        for step in search("walk", "sphere-4", walk, objective, run, seed=3, clock=Clock()):
            if not step.replayed:
                print(step.n_done, flush=True)
        """
    )
    folder = tmp_path / "killed"
    root = Path(__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": str(root)}
    seen = 0
    for n_more in (5, 12, 30):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        ) as process:
            assert process.stdout is not None
            for _ in range(n_more):
                line = process.stdout.readline()
                seen = int(line)
            process.send_signal(signal.SIGKILL)
        with Run.open(folder) as run:
            # All that was announced is there, and nothing that could not have been done since.
            assert seen <= len(run.generations)
    with Run.open(folder) as run, Run.create(tmp_path, "whole", {}) as whole:
        walk_through(run, 120)
        walk_through(whole, 120)
        assert journal_without_times(run) == journal_without_times(whole)

"""Optimizers against closed forms, and the contract that the search loop relies on."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from kvw.optimizers import Optimizer, Proposals, Walk


@dataclass
class Judged:
    total: float | None
    parts: dict[str, float] = field(default_factory=dict)


def sphere(x: np.ndarray) -> float:
    return -float(((x - 1) ** 2).sum())


def climb(optimizer: Optimizer, n_generations: int, seed: int = 0) -> list[np.ndarray]:
    asked = []
    for generation in range(n_generations):
        x = optimizer.ask(np.random.default_rng([seed, generation]))
        if len(x) == 0:
            break
        optimizer.tell(x, [Judged(sphere(row)) for row in x])
        asked.append(x)
    return asked


SEARCHERS: dict[str, Callable[[], Optimizer]] = {
    "walk": lambda: Walk(np.zeros(6), sphere(np.zeros(6))),
}


@pytest.fixture(params=SEARCHERS)
def make(request) -> Callable[[], Optimizer]:
    return SEARCHERS[request.param]


def test_it_improves_on_a_sphere(make):
    asked = np.concatenate(climb(make(), 400))
    best = max(sphere(x) for x in asked)
    assert best > 0.5 * sphere(np.zeros(6))  # both are negative: half the distance is gone


def test_the_same_seed_gives_the_same_candidates_and_another_gives_others(make):
    first, second, other = (np.concatenate(climb(make(), 30, seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(first, other)


def test_asking_changes_nothing(make):
    asked_once, asked_twice = make(), make()
    for generation in range(20):
        asked_twice.ask(np.random.default_rng(99))
        pair = [o.ask(np.random.default_rng([0, generation])) for o in (asked_once, asked_twice)]
        np.testing.assert_array_equal(*pair)
        for optimizer, x in zip((asked_once, asked_twice), pair, strict=True):
            optimizer.tell(x, [Judged(sphere(row)) for row in x])


def test_telling_a_journal_leads_to_where_it_had_been(make):
    """What resuming a run rests on."""
    whole = climb(make(), 40)
    resumed = make()
    for x in whole[:25]:
        resumed.tell(x, [Judged(sphere(row)) for row in x])
    for generation in range(25, 40):
        x = resumed.ask(np.random.default_rng([0, generation]))
        np.testing.assert_array_equal(x, whole[generation])
        resumed.tell(x, [Judged(sphere(row)) for row in x])


def test_it_survives_rejected_candidates(make):
    optimizer = make()
    for generation in range(50):
        x = optimizer.ask(np.random.default_rng([0, generation]))
        assert np.isfinite(x).all()
        judged = [Judged(None if generation % 3 else sphere(row)) for row in x]
        optimizer.tell(x, judged)


def test_proposals_are_given_one_by_one_and_end():
    rows = np.arange(6.0).reshape(3, 2)
    asked = climb(Proposals(rows), 10)
    np.testing.assert_array_equal(np.concatenate(asked), rows)
    assert [len(x) for x in asked] == [1, 1, 1]


def test_a_walks_step_is_normal_noise_times_a_uniform_length():
    walk = Walk(np.full(20_000, 3.0), 0.0)
    lengths = []
    for generation in range(200):
        noise = walk.ask(np.random.default_rng([5, generation]))[0] - 3.0
        lengths.append(noise.std())
        assert abs(noise.mean()) < 5 * lengths[-1] / np.sqrt(20_000)
        kurtosis = (noise**4).mean() / noise.var() ** 2
        assert kurtosis == pytest.approx(3, abs=0.3)  # that of the normal distribution
    # U(0.01, 0.15): limits, mean and standard deviation.
    assert 0.0095 < min(lengths) < 0.02
    assert 0.14 < max(lengths) < 0.152
    assert np.mean(lengths) == pytest.approx(0.08, abs=0.01)
    assert np.std(lengths) == pytest.approx(0.14 / np.sqrt(12), rel=0.15)


def test_a_walk_moves_only_to_higher_scores():
    walk = Walk(np.zeros(3), 10.0)
    generator = np.random.default_rng(0)
    here = np.zeros(3)
    for total in (9.0, 10.0, None, 11.0, 10.5, 12.0):
        x = walk.ask(generator)
        assert np.abs(x[0] - here).max() < 1.0  # a step from where it stands
        walk.tell(x, [Judged(total)])
        if total is not None and total >= 11.0 and total != 10.5:
            here = x[0]
    far = walk.ask(np.random.default_rng(1))[0] - here
    again = Walk(here, 12.0).ask(np.random.default_rng(1))[0] - here
    np.testing.assert_allclose(far, again)

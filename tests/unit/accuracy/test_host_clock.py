"""Best-of timing with a clock that the test moves."""

import pytest

from npusim.accuracy.host_clock import LEAST_ROUNDS, MOST_REPEATS, MOST_ROUNDS, SAMPLE_S, Timing, best_of


class World:
    """A clock, and tasks that move it."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def clock(self):
        return self.now

    def task(self, name, seconds):
        def run():
            self.calls.append(name)
            self.now += seconds(len(self.calls)) if callable(seconds) else seconds

        return run


def test_a_steady_task_takes_what_it_takes():
    world = World()
    (timing,) = best_of([world.task("a", 1e-3)], 0.0, world.clock, world.clock)
    assert timing.best_s == pytest.approx(1e-3)
    assert timing.spread == pytest.approx(0.0)
    assert timing.samples == LEAST_ROUNDS


def test_quick_tasks_are_repeated_and_slow_ones_are_not():
    world = World()
    best_of([world.task("quick", SAMPLE_S / 49.5), world.task("slow", 10 * SAMPLE_S)], 0.0, world.clock, world.clock)
    # One run to warm up and one to choose the repeats, then every round a warm one and the sample.
    assert world.calls.count("quick") == 2 + LEAST_ROUNDS * (1 + 50)
    assert world.calls.count("slow") == 2 + LEAST_ROUNDS * 2


def test_a_clock_that_sees_nothing_ends_too():
    world = World()
    (timing,) = best_of([world.task("free", 0.0)], 1.0, world.clock, world.clock)
    assert timing.best_s > 0
    assert timing.samples == MOST_ROUNDS
    assert len(world.calls) <= 2 + MOST_ROUNDS * (1 + MOST_REPEATS)


def test_tasks_take_turns():
    world = World()
    best_of([world.task("a", 1.0), world.task("b", 1.0)], 0.0, world.clock, world.clock)
    assert world.calls == ["a"] * 2 + ["b"] * 2 + ["a", "a", "b", "b"] * LEAST_ROUNDS


def test_the_budget_ends_the_rounds():
    world = World()
    (timing,) = best_of([world.task("a", 1.0)], 20.0, world.clock, world.clock)
    assert timing.samples == 10  # two seconds a round, the two first runs among the twenty
    (timing,) = best_of([world.task("a", 1e-3)], 1e9, world.clock, world.clock)
    assert timing.samples == MOST_ROUNDS


def test_the_best_is_the_undisturbed_sample():
    world = World()
    (timing,) = best_of([world.task("a", lambda n: 1.0 if n == 6 else 3.0)], 0.0, world.clock, world.clock)
    assert timing == Timing(1.0, 3.0, LEAST_ROUNDS)
    assert timing.spread == pytest.approx(2.0)

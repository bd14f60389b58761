"""Search in spaces too large for a grid, by Optuna: NSGA-II for several objectives, TPE for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from npusim.errors import InputError, Problem
from npusim.sizing.plan import Values

if TYPE_CHECKING:
    from npusim.sizing.sizes import Candidate

_WORST = 1e30  # an objective without a value


def search(
    space: dict[str, Values], judged: Callable[[dict[str, Any]], Candidate], objectives: tuple[str, ...], trials: int,
    seed: int, progress: Callable[[int, int], None] | None,
) -> tuple[list[Candidate], str]:  # fmt: skip
    """Judges ``trials`` designs of a space; every parameter is the position in its list of values.

    Returns:
        (designs that were judged, each once, in the order of the trials; name of the method).

    Raises:
        InputError: Optuna is not installed, or a number of trials out of range.
    """
    try:
        import optuna
    except ImportError:
        problem = Problem(
            "a space this large needs Optuna",
            "--vary",
            allowed="at most 2000 designs",
            hint="pip install 'npusim[dse]'",
        )
        raise InputError(problem) from None
    from npusim.sizing.sizes import costs

    if not 1 <= trials <= 1_000_000:
        raise InputError(Problem(f"{trials} trials", "--trials", allowed="1 to 1000000"))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    several = len(objectives) > 1
    sampler: Any
    if several:
        sampler = optuna.samplers.NSGAIISampler(seed=seed, population_size=40)
    else:
        sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(directions=["minimize"] * len(objectives), sampler=sampler)
    seen: dict[tuple[int, ...], Candidate] = {}

    def objective(trial: Any) -> Any:
        places = tuple(trial.suggest_int(name, 0, len(values) - 1) for name, values in space.items())
        if places not in seen:
            parameters = {name: values[i] for (name, values), i in zip(space.items(), places, strict=True)}
            seen[places] = judged(parameters)
        verdict = seen[places].verdict
        trial.set_constraint("violated", float(len(verdict.violated)))
        values = [_WORST if value != value else value for value in costs(verdict, objectives)]
        if progress:
            progress(trial.number + 1, trials)
        return values if several else values[0]

    study.optimize(objective, n_trials=trials)
    return list(seen.values()), "nsga2" if several else "tpe"

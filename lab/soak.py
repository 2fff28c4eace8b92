"""`make soak`: many experiments of the fault laboratory, a line each; ends with 1 if anything was lost or came twice.

`SEEDS` is how many seeds to try (5), each at several rates, `MINUTES` how long to go on instead. `SEED` chooses one;
`RATE` and `DROP`, the shares of spoilt requests and of events that never become visible, choose one experiment.
`VERBOSE=1` prints what the check runs complained of.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from .command import INTERRUPTED, INTERRUPTED_CODE, begin_command
from .errors import LabError
from .experiment import run_experiment

# Shares of spoilt requests and of events that never become visible.
EXPERIMENTS = ((0.0, 0.0), (0.1, 0.0), (0.3, 0.0), (0.6, 0.0), (0.1, 0.1), (0.3, 0.3))
DEFAULT_SEEDS = 5
HIGHEST_SEED = 999_999


def main() -> int:
    """Run the experiments and return the exit code: 0, 1 if something was lost, came twice or went wrong, 130."""
    begin_command()
    try:
        return _soak(os.environ)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return INTERRUPTED_CODE


def _soak(environment: Mapping[str, str]) -> int:
    experiments = failures = 0
    for seed, rate, drop_rate in _plan(environment):
        outcome = run_experiment(seed, rate, drop_rate)
        print(outcome.line(), flush=True)
        if environment.get("VERBOSE"):
            print(*(f"  {line}" for line in outcome.complaints), sep="\n", flush=True)
        if not outcome.is_exact:
            print(outcome.details(), flush=True)
            failures += 1
        experiments += 1
    print(f"{experiments} experiments, {failures} with something lost or twice")
    return 1 if failures else 0


def _plan(environment: Mapping[str, str]) -> Iterator[tuple[int, float, float]]:
    """Seeds with both shares, until the number of seeds or the minutes are used up."""
    shares: Sequence[tuple[float, float]] = EXPERIMENTS
    if environment.get("RATE") or environment.get("DROP"):
        shares = [(_number(environment, "RATE", 0.0), _number(environment, "DROP", 0.0))]
    deadline = time.monotonic() + 60 * _number(environment, "MINUTES", 0.0) if environment.get("MINUTES") else None
    left = 1.0 if environment.get("SEED") else _number(environment, "SEEDS", DEFAULT_SEEDS)
    while left > 0 or (deadline is not None and not environment.get("SEED")):
        left -= 1
        seed = int(_number(environment, "SEED", random.SystemRandom().randint(1, HIGHEST_SEED)))
        for rate, drop_rate in shares:
            if deadline is not None and time.monotonic() >= deadline:
                return
            yield seed, rate, drop_rate


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name) or str(default)
    try:
        return float(text)
    except ValueError:
        raise LabError(f"{name} is {text!r}, but should be a number.") from None


if __name__ == "__main__":
    sys.exit(main())

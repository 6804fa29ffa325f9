"""Measures, prints a table, and fails when a limit is exceeded: ``python -m bench [--json]``."""

import argparse
import json
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.calls import CAN_BE_PINNED, one_processor
from tests.support.postgres import embedded_postgres

HOLD = "getconn/putconn"
"""The cycle that the limits of acquire and release are about."""
CALL = "execute" if CAN_BE_PINNED else "execute, answered at once"
"""What the limits of driver calls are about: the real call, where that can be timed (see `bench.calls`)."""
DEADLINE = 120.0
"""Seconds for one configuration; it takes about ten."""
TRIES = 3
"""Runs of one configuration that is over its limit."""


@dataclass(frozen=True)
class Case:
    """One configuration, and what something may cost in it, in bare recorded spans.

    Attributes:
        worker: the module that measures.
        measured: what of all that it measures the limit is about.
        configuration: the worker's name for it.
        title: a name for people.
        limit: what makes the benchmark fail.
        goal: what it should be.
    """

    worker: str
    measured: str
    configuration: str
    title: str
    limit: float
    goal: float


HOLDS = [
    Case("bench.worker", HOLD, "recorded", "everything on, recorded", 2.2, 1.25),
    Case("bench.worker", HOLD, "unsampled", "in an unsampled trace", 0.5, 0.25),
    Case("bench.worker", HOLD, "no_sdk", "without an SDK", 0.4, 0.2),
]
CALLS = [
    Case("bench.calls", CALL, "recorded", "everything on, recorded", 0.2, 0.15),
    Case("bench.calls", CALL, "unsampled", "in an unsampled trace", 0.2, 0.15),
    Case("bench.calls", CALL, "no_sdk", "without an SDK", 0.2, 0.15),
]


@dataclass(frozen=True)
class Result:
    """What one configuration cost."""

    case: Case
    ratios: dict[str, float]
    added: dict[str, float]
    microseconds: dict[str, float]

    @property
    def ratio(self) -> float:
        """What the instrumentation adds to what the limit is about, in bare recorded spans."""
        return self.ratios[self.case.measured]

    @property
    def verdict(self) -> str:
        """One word for people, or a few."""
        if self.ratio > self.case.limit:
            return "OVER THE LIMIT"
        return "goal met" if self.ratio <= self.case.goal else "within the limit"


def measure(case: Case, dsn: str) -> Result:
    """Run one configuration in a process of its own, because global providers are set once for ever.

    Raises:
        subprocess.CalledProcessError: it failed; its message is on stderr.
        subprocess.TimeoutExpired: it did not end.
    """
    command = [sys.executable, "-m", case.worker, case.configuration, dsn]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=True, timeout=DEADLINE)
    figures: dict[str, Any] = json.loads(done.stdout)
    return Result(case, figures["ratios"], figures["added"], figures["microseconds"])


def measure_within_limit(case: Case, dsn: str) -> Result:
    """Measure again what is over its limit: a neighbour on the machine makes it dearer, never cheaper."""
    results = [measure(case, dsn)]
    while results[-1].ratio > case.limit and len(results) < TRIES:
        results.append(measure(case, dsn))
    return min(results, key=lambda result: result.ratio)


def print_table(results: list[Result]) -> None:
    """Print the figures of one worker for people."""
    print(f"\n{results[0].case.measured:32}{'µs':>8}{'ratio':>8}{'limit':>8}{'goal':>8}  verdict")
    for result in results:
        case = result.case
        print(
            f"{case.title:32}{result.added[case.measured]:8.1f}{result.ratio:8.2f}"
            f"{case.limit:8.2f}{case.goal:8.2f}  {result.verdict}"
        )
    print("\nFor information: microseconds of a whole cycle (plain → instrumented), and the ratio")
    print(f"{'':32}" + "".join(f"{result.case.configuration:>24}" for result in results))
    bare = "".join(f"{result.microseconds['bare span']:24.1f}" for result in results)
    print(f"{'bare recorded span':32}{bare}")
    for name in results[0].ratios:
        cells = (
            f"{result.microseconds[name]:.1f} → {result.microseconds[f'{name} instrumented']:.1f}"
            f"  {result.ratios[name]:5.2f}"
            for result in results
        )
        print(f"{name:32}" + "".join(f"{cell:>24}" for cell in cells))


def as_json(results: list[Result]) -> str:
    """The same for programs."""
    cases = [
        asdict(result.case)
        | {"ratio": result.ratio, "verdict": result.verdict}
        | {"ratios": result.ratios, "added": result.added, "microseconds": result.microseconds}
        for result in results
    ]
    return json.dumps({"python": platform.python_version(), "cases": cases}, indent=2)


def main() -> int:
    """Measure every configuration; the exit status is 1 when one is over its limit."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    with embedded_postgres() as dsn:
        holds = [measure_within_limit(case, dsn) for case in HOLDS]
    with one_processor(), embedded_postgres() as dsn:
        calls = [measure_within_limit(case, dsn) for case in CALLS]
    if arguments.json:
        print(as_json(holds + calls))
    else:
        print("What otel-connleak adds, in microseconds and in bare recorded spans, to acquire and release")
        print("with psycopg_pool, and to a driver call of psycopg in an open transaction")
        print(f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}")
        print_table(holds)
        print_table(calls)
    return int(any(result.ratio > result.case.limit for result in holds + calls))


if __name__ == "__main__":
    sys.exit(main())

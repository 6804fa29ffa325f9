"""``python -m tests.corpus [PATTERN...]``: play the corpus, print how accurate the reports are.

Fails if they are not. A pattern such as ``exceptions.*`` chooses scenarios; ``--verbose`` shows what the
failing ones wrote to standard error.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from fnmatch import fnmatchcase
from typing import Final

from examples.otlp_receiver import OtlpReceiver
from tests.corpus.theatre import Theatre
from tests.corpus.truth import MARGIN, Scenario, load
from tests.corpus.verdict import Played, Verdict
from tests.support.postgres import embedded_postgres

_ROW: Final = "{:<18}{:>8}{:>10}{:>10}   {}"
_MOST_CONNECTIONS: Final = 200


def main() -> int:
    """Play, print, and return the exit code: 1 when anything was not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument(
        "patterns", nargs="*", default=["*"], help="which scenarios, for example exceptions.*"
    )
    parser.add_argument("--verbose", action="store_true", help="show the standard error of what fails")
    parser.add_argument("--list", action="store_true", help="list the scenarios and what they say")
    arguments = parser.parse_args()
    chosen = [each for each in load() if any(fnmatchcase(each.id, pattern) for pattern in arguments.patterns)]
    if arguments.list:
        print_list(chosen)
        return 0
    start = time.monotonic()

    told: set[str] = set()

    def tell(verdict: Verdict, played: Played) -> None:
        if verdict.scenario.id in told:
            print(f"{verdict.scenario.id}: played again, alone", flush=True)
        told.add(verdict.scenario.id)
        for fault in verdict.faults:
            print(f"{verdict.scenario.id}: {fault}", flush=True)
        if verdict.faults and arguments.verbose:
            print("    " + played.stderr.replace("\n", "\n    "), flush=True)

    with embedded_postgres(_MOST_CONNECTIONS) as dsn, OtlpReceiver() as receiver:
        verdicts = Theatre(dsn, receiver).play_all(chosen, tell)
    print_accuracy(verdicts)
    print(f"played in {time.monotonic() - start:.0f} s")
    return int(not verdicts or any(verdict.faults for verdict in verdicts))


def print_list(scenarios: list[Scenario]) -> None:
    """Print what each scenario is about."""
    for scenario in scenarios:
        print(f"{'LEAK   ' if scenario.is_leak else 'no leak'}  {scenario.id}: {scenario.says}")


def print_accuracy(verdicts: list[Verdict]) -> None:
    """Print the figures for people."""
    found = sum(verdict.found for verdict in verdicts)
    missed = sum(verdict.missed for verdict in verdicts)
    alarms = sum(verdict.false_alarms for verdict in verdicts)
    wrong = sum(verdict.blamed_wrong for verdict in verdicts)
    innocent = sum(not verdict.scenario.is_leak for verdict in verdicts)
    version = platform.python_version()
    print(f"Python {version}: {len(verdicts)} scenarios, {innocent} of which only look like leaks")
    print(f"  recall     {_percent(found, found + missed)}  ({found} of {found + missed} leaks reported)")
    print(f"  precision  {_percent(found, found + alarms)}  ({alarms} false alarms)")
    print(
        f"  blame      {_percent(found - wrong, found)}  ({found - wrong} of {found} on the right function)"
    )
    print("\nTime to report, beyond the grace or threshold where there is one, in ms")
    print(_ROW.format("evidence", "leaks", "median", "max", "limit").rstrip())
    times: dict[str, list[float]] = {}
    for verdict in verdicts:
        for evidence, late in verdict.times:
            times.setdefault(evidence, []).append(late * 1000)
    for evidence, values in sorted(times.items()):
        median, most = f"{statistics.median(values):.0f}", f"{max(values):.0f}"
        print(_ROW.format(evidence, len(values), median, most, f"{MARGIN * 1000:.0f}"))
    faulty = sum(bool(verdict.faults) for verdict in verdicts)
    print(f"\n{len(verdicts) - faulty} passed, {faulty} failed")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:6.1f} %" if whole else "     - %"


if __name__ == "__main__":
    sys.exit(main())

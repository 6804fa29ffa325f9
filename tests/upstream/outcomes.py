"""What came out of each test of a suite, and whether it is the same with us."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

type Outcomes = dict[str, str]
"""The outcome of each test, by its id."""
type Differences = dict[str, tuple[str, str]]
"""The outcomes without and with us, of the tests in which they differ."""

ABSENT = "absent"


def read(file: Path) -> Outcomes:
    """The outcomes that a run has written; none if it died before."""
    try:
        outcomes: Outcomes = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return outcomes


def differences(without: Outcomes, with_us: Outcomes) -> Differences:
    """The tests whose outcome differs, and those that ran only once."""
    return {
        test: (without.get(test, ABSENT), with_us.get(test, ABSENT))
        for test in sorted(without.keys() | with_us.keys())
        if without.get(test) != with_us.get(test)
    }


def lasting(found: Differences, rounds: list[tuple[Outcomes, Outcomes]]) -> Differences:
    """The differences that further rounds, without and with us, do not explain.

    Some tests depend on the machine's speed. One counts that differs in a further round too, and has with us
    an outcome that it never has without.
    """
    again: Differences = {}
    for test, (before, after) in found.items():
        without = [outcomes.get(test, ABSENT) for outcomes, _ in rounds]
        with_us = [outcomes.get(test, ABSENT) for _, outcomes in rounds]
        if without != with_us and not {after, *with_us} <= {before, *without}:
            again[test] = before, after
    return again


@dataclass
class Seen:
    """What our side says of a run with us: it must have seen something, and logged no error."""

    holds: int = 0
    leaks: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "Seen":
        """The sum over all processes of a run."""
        seen = cls()
        for file in folder.glob("*.json"):
            said = json.loads(file.read_text(encoding="utf-8"))
            seen.holds += said["holds"]
            seen.leaks += said["leaks"]
            seen.errors += said["errors"]
        return seen


@dataclass(frozen=True)
class Comparison:
    """The two runs of one suite.

    Attributes:
        different: tests that differ, also when they are run again.
        unsteady: the others, whose outcome is not always the same.
        known: tests that must differ; `Suite` says why.
    """

    suite: str
    without: Outcomes
    with_us: Outcomes
    different: Differences
    unsteady: Differences
    known: Differences
    seen: Seen
    seconds: tuple[float, float]

    @property
    def complaints(self) -> list[str]:
        """Why this comparison has failed; empty if it has not."""
        found = [
            f"{test}: {before} without, {after} with us" for test, (before, after) in self.different.items()
        ]
        if not any(outcome == "passed" for outcome in self.without.values()):
            found.append("no test has passed without us: the suite does not run here")
        if not self.seen.holds:
            found.append("no hold was seen: we were not there")
        return found + self.seen.errors


def table(comparisons: list[Comparison]) -> Iterator[str]:
    """The lines of a table with one row for each suite."""
    row = "{:<22} {:>6}  {:>16}  {:>16}  {:>11}  {:>8}  {:>6}  {:>6}  {:>11}"
    heads = "suite tests without with differences unsteady holds leaks seconds".split()
    yield row.format(*heads)
    yield row.format("", "", "pass/fail/skip", "pass/fail/skip", "", "", "", "", "")
    for it in comparisons:
        yield row.format(
            it.suite,
            len(it.without.keys() | it.with_us.keys()),
            _counts(it.without),
            _counts(it.with_us),
            len(it.different),
            len(it.unsteady),
            it.seen.holds,
            len(it.seen.leaks),
            f"{it.seconds[0]:.0f} + {it.seconds[1]:.0f}",
        )


def _counts(outcomes: Outcomes) -> str:
    counts = Counter(outcomes.values())
    return f"{counts['passed']}/{counts['failed'] + counts['error']}/{counts['skipped'] + counts['xfailed']}"

# ruff: noqa: INP001 - this folder is on the module search path of the runs
"""Writes the outcome of each test down: a pytest plugin, and a result class for unittest."""

import json
import os
import unittest
from pathlib import Path
from typing import Any

# A test has several phases, and maybe subtests: the worst outcome counts.
_RANK = ("passed", "skipped", "xfailed", "failed", "error")
_outcomes: dict[str, str] = {}


def note(test: str, outcome: str) -> None:
    """Note an outcome of a test."""
    _outcomes[test] = max(outcome, _outcomes.get(test, "passed"), key=_RANK.index)


def write() -> None:
    """Write all outcomes into the file that the run wants them in."""
    Path(os.environ["UPSTREAM_OUTCOMES"]).write_text(json.dumps(_outcomes), encoding="utf-8")


def pytest_runtest_logreport(report: Any) -> None:
    """Pytest has run one phase of a test."""
    outcome = report.outcome
    if hasattr(report, "wasxfail"):
        outcome = "xfailed" if report.skipped else "failed"
    elif outcome == "failed" and report.when != "call":
        outcome = "error"
    note(report.nodeid, outcome)


def pytest_collectreport(report: Any) -> None:
    """Pytest has collected a file."""
    if report.failed:
        note(report.nodeid, "error")


def pytest_sessionfinish() -> None:
    """Pytest ends."""
    write()


class NotingResult(unittest.TextTestResult):
    """Notes the outcomes of unittest."""

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's
        """A test has passed."""
        super().addSuccess(test)
        note(test.id(), "passed")

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        """A test has failed."""
        super().addFailure(test, err)
        note(test.id(), "failed")

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        """A test has raised."""
        super().addError(test, err)
        note(test.id(), "error")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        """A test was skipped."""
        super().addSkip(test, reason)
        note(test.id(), "skipped")

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        """A test has failed as it should."""
        super().addExpectedFailure(test, err)
        note(test.id(), "xfailed")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        """A test should have failed."""
        super().addUnexpectedSuccess(test)
        note(test.id(), "failed")

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:  # noqa: N802
        """A part of a test is over."""
        super().addSubTest(test, subtest, err)
        note(test.id(), "passed" if err is None else "failed")

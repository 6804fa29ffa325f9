"""What was reported, as it leaves the process: one `Report` for each log event; and that nothing was."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk._logs import ReadableLogRecord

from otel_connleak import function_stats, open_holds
from tests.support.telemetry import Telemetry
from tests.support.waiting import wait_until

GRACE = 0.1
"""The grace in most tests, in seconds."""
NEVER = 600.0
"""A grace or threshold that no test lives to see."""
_MARGIN = 0.05


@dataclass(frozen=True)
class Report:
    """One log event ``connleak.leak`` or ``connleak.recovered``."""

    attributes: Mapping[str, Any]
    seconds: float
    """When it was emitted, since the epoch."""

    @property
    def id(self) -> str:
        """The leak's id."""
        return str(self.attributes["connleak.id"])

    @property
    def function(self) -> str:
        """The function to blame, without its package."""
        module, _, name = str(self.attributes["code.function.name"]).rpartition(".shop.")
        return name if module else str(self.attributes["code.function.name"])

    @property
    def evidence(self) -> set[str]:
        """What was observed."""
        return set(self.attributes["connleak.evidence"])

    @property
    def certainty(self) -> str:
        """Whether somebody could still release it."""
        return str(self.attributes["connleak.certainty"])


class Reports:
    """Reads the reports of a process that is instrumented with a `Telemetry` of a test's own."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.telemetry = telemetry

    def leaks(self) -> list[Report]:
        """All leaks so far."""
        return [_report(record) for record in self.telemetry.events("connleak.leak")]

    def recoveries(self) -> list[Report]:
        """All claims withdrawn so far."""
        return [_report(record) for record in self.telemetry.events("connleak.recovered")]

    def leak(self) -> Report:
        """Wait for a leak, and for whatever was observed with it: there must be no second one."""
        wait_until(self.leaks, "a leak")
        self.settle()
        (leak,) = self.leaks()
        return leak

    def recovery(self) -> Report:
        """Wait until a claim is withdrawn: there must be no second one."""
        wait_until(self.recoveries, "a recovery")
        self.settle()
        (recovery,) = self.recoveries()
        return recovery

    def none(self, after: float = GRACE) -> None:
        """Nothing is reported, also not when ``after`` seconds and a margin have passed from now.

        A wait for something that must not happen. When it is over, whatever is due by then has been judged.
        """
        assert [(leak.function, leak.evidence) for leak in self.leaks()] == []
        self.no_more(after)

    def no_more(self, after: float = GRACE) -> None:
        """Nothing is reported beyond what has been; waits as `none` does."""
        before = len(self.leaks())
        time.sleep(after + _MARGIN)
        self.settle()
        assert [(leak.function, leak.evidence) for leak in self.leaks()[before:]] == []

    def settle(self) -> None:
        """Wait until whatever was observed and is due has been judged and reported."""
        assert self.telemetry.tracer_provider.force_flush()

    def hold_names(self) -> list[str]:
        """The names of the hold spans that have ended, without the word."""
        return [span.name.removeprefix("hold ") for span in self.telemetry.spans("hold")]


def _report(record: ReadableLogRecord) -> Report:
    log = record.log_record
    return Report(dict(log.attributes or {}), (log.timestamp or 0) / 1e9)


def acquired() -> int:
    """How many holds of connections there have been."""
    return sum(stats.acquired for stats in function_stats())


def held() -> int:
    """How many holds of connections there are."""
    return sum(hold.resource == "connection" for hold in open_holds())

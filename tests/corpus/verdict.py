"""Compares what a scenario reported with the truth about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.corpus.truth import MARGIN, Expected, Scenario


@dataclass(frozen=True, slots=True)
class Reported:
    """One report, as it left the process; ``seconds`` since the epoch."""

    id: str
    function: str
    evidence: tuple[str, ...]
    certainty: str
    resource: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a scenario.

    Attributes:
        reports: the leak events.
        recovered: the ids of the claims that were withdrawn.
        facts: when each fact happened, in seconds since the epoch.
        stderr: everything that was written there; our log lines among it.
        returncode: exit code of the process.
    """

    reports: tuple[Reported, ...]
    recovered: tuple[str, ...]
    facts: Mapping[str, float]
    stderr: str
    returncode: int


@dataclass(slots=True)
class Verdict:
    """How well a scenario was told.

    Attributes:
        scenario: the scenario.
        found: expected leaks that were reported, whoever was blamed.
        missed: expected leaks that were not.
        false_alarms: reports that are about no leak.
        blamed_wrong: found, but another function was blamed.
        times: seconds from the fact to the report beyond what must pass, by the evidence.
        faults: everything that is not as it should be, in words.
        late: those of the faults that are only about the time.
    """

    scenario: Scenario
    found: int = 0
    missed: int = 0
    false_alarms: int = 0
    blamed_wrong: int = 0
    times: list[tuple[str, float]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    @property
    def only_late(self) -> bool:
        """Whether nothing but the time of a report is at fault: it may have been the machine's."""
        return bool(self.faults) and self.faults == self.late


def judge(scenario: Scenario, played: Played) -> Verdict:
    """Compare what came of a scenario with the truth."""
    verdict = Verdict(scenario)
    if played.returncode != 0 or "Traceback" in played.stderr or "otel-connleak failed" in played.stderr:
        verdict.faults.append(f"it did not run as it should: exit code {played.returncode}")
    pairs, missed, alarms = _match(scenario, list(played.reports))
    verdict.found, verdict.missed, verdict.false_alarms = len(pairs), len(missed), len(alarms)
    for expected, report in pairs:
        _compare(verdict, expected, report, played)
    verdict.faults += [f"missed: {each.function} ({', '.join(each.evidence)})" for each in missed]
    verdict.faults += [f"false alarm: {each.function} ({', '.join(each.evidence)})" for each in alarms]
    known = {report.id for expected, report in pairs if expected.recovers}
    verdict.faults += [
        f"withdrawn, but should not be: {each}" for each in played.recovered if each not in known
    ]
    for function in scenario.spared:
        if not any(f"{function} (" in line for line in played.stderr.splitlines() if "at exit" in line):
            verdict.faults.append(f"not listed at exit: {function}")
    return verdict


def _match(
    scenario: Scenario, reports: list[Reported]
) -> tuple[list[tuple[Expected, Reported]], list[Expected], list[Reported]]:
    """Which report is about which leak: by function; what is left over on both sides is blamed wrong."""
    pairs: list[tuple[Expected, Reported]] = []
    missed: list[Expected] = []
    for expected in scenario.leaks:
        report = next((each for each in reports if _is_blamed(scenario, expected, each)), None)
        if report is None:
            missed.append(expected)
        else:
            reports.remove(report)
            pairs.append((expected, report))
    while missed and reports:
        pairs.append((missed.pop(0), reports.pop(0)))
    return pairs, missed, reports


def _is_blamed(scenario: Scenario, expected: Expected, report: Reported) -> bool:
    return report.function in (
        expected.function,
        f"tests.corpus.scenarios.{scenario.theme}.{expected.function}",
    )


def _compare(verdict: Verdict, expected: Expected, report: Reported, played: Played) -> None:
    faults, scenario = verdict.faults, verdict.scenario
    if not _is_blamed(scenario, expected, report):
        verdict.blamed_wrong += 1
        faults.append(f"blamed {report.function}, not {expected.function}")
    if not set(expected.evidence) <= set(report.evidence):
        faults.append(f"evidence {report.evidence}, without all of {expected.evidence}")
    if (report.certainty, report.resource) != (expected.certainty, expected.resource):
        faults.append(f"{report.certainty} {report.resource}, not {expected.certainty} {expected.resource}")
    if expected.recovers and report.id not in played.recovered:
        faults.append(f"{expected.function} gave it back late, and the claim was not withdrawn")
    fact = played.facts.get("exit" if expected.after == "exit" else expected.fact)
    if fact is None:
        faults.append(f"the scenario did not say when the fact {expected.fact!r} happened")
        return
    late = report.seconds - fact - scenario.delay(expected)
    verdict.times.append((expected.evidence[0], late))
    if late > MARGIN:
        verdict.late.append(f"{expected.function}: reported {late * 1000:.0f} ms later than it could be")
        faults.append(verdict.late[-1])

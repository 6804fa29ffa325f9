"""Plays scenarios side by side, each in a process of its own under the real launcher."""

from __future__ import annotations

import itertools
import re
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from examples.otlp_receiver import OtlpReceiver
from tests.corpus.truth import GRACE, GRACE_VARIABLE, Scenario
from tests.corpus.verdict import Played, Reported, Verdict, judge
from tests.support.launcher import (
    DISABLED,
    FRAMEWORKS,
    LAUNCHER,
    Finished,
    Launched,
    environment,
    exporting_to,
)
from tests.support.postgres import fresh_schema

SIDE_BY_SIDE: Final = 6
"""Scenarios at a time: they wait nearly all of their time."""
AGAIN: Final = 2
"""How often a scenario with a late report is played once more."""
_FACT: Final = re.compile(r"^fact (\S+) ([\d.]+)$", re.MULTILINE)
_PATIENCE: Final = 60.0
"""Seconds within which a scenario must have ended."""


class Theatre:
    """Plays scenarios.

    The start of a process is what costs processor time; the times to report would be the machine's and not
    ours if several started while others are played. So they start one at a time.

    Each has a schema of its own: what one writes, and what it locks, is nothing to the others.

    Args:
        dsn: connection string of the server.
        receiver: gets what the scenarios export; told apart by their service name.
    """

    def __init__(self, dsn: str, receiver: OtlpReceiver) -> None:
        self._dsn = dsn
        self._receiver = receiver
        self._door = threading.Lock()
        self._numbers = itertools.count(1)

    def play_all(
        self, scenarios: Iterable[Scenario], tell: Callable[[Verdict, Played], None] = lambda *_: None
    ) -> list[Verdict]:
        """Play all, several at a time; ``tell`` is told of each in its turn.

        One whose report was only late is played again when the others are over, and alone: what is late by
        our own doing is late then too. Its last verdict counts.
        """
        verdicts = []
        with ThreadPoolExecutor(SIDE_BY_SIDE) as executor:
            for scenario, played in executor.map(lambda each: (each, self.play(each)), scenarios):
                verdicts.append(judge(scenario, played))
                tell(verdicts[-1], played)
        return [self._alone(verdict, tell) for verdict in verdicts]

    def _alone(self, verdict: Verdict, tell: Callable[[Verdict, Played], None]) -> Verdict:
        for _ in range(AGAIN):
            if not verdict.only_late:
                break
            played = self.play(verdict.scenario)
            verdict = judge(verdict.scenario, played)
            tell(verdict, played)
        return verdict

    def play(self, scenario: Scenario) -> Played:
        """Play one, and wait until it has ended."""
        command = [str(LAUNCHER), sys.executable, "-m", "tests.corpus.play"]
        command += [scenario.theme, scenario.name, str(scenario.settle)]
        # A name of its own each time: what it exports when it is played again is told from what was before.
        service = f"{scenario.id} {next(self._numbers)}"
        with fresh_schema(self._dsn) as dsn:
            finished = self._launch(command, environment(**self._variables(scenario, service, dsn)))
        return self._played(service, finished)

    def _launch(self, command: list[str], env: Mapping[str, str]) -> Finished:
        self._door.acquire()
        try:
            with Launched(command, env) as launched:
                try:
                    launched.wait_for_output("^ready$", _PATIENCE)
                finally:
                    self._door.release()
                return launched.finish(_PATIENCE)
        except AssertionError as error:
            return Finished("", f"Traceback of the theatre: {error}", -1)

    def _variables(self, scenario: Scenario, service: str, dsn: str) -> dict[str, str]:
        return (
            exporting_to(self._receiver)
            | dict(scenario.env)
            | {
                "DSN": dsn,
                "OTEL_SERVICE_NAME": service,
                "OTEL_TRACES_EXPORTER": "none",
                "OTEL_METRICS_EXPORTER": "none",
                DISABLED: f"{FRAMEWORKS},flask,wsgi",  # no scenario uses them
                GRACE_VARIABLE: scenario.env.get(GRACE_VARIABLE, str(GRACE)),
                "OTEL_PYTHON_CONNLEAK_LIBRARY_MODULES": "tests.corpus.play,tests.corpus.stage",
            }
        )

    def _played(self, service: str, finished: Finished) -> Played:
        events = [log for log in self._receiver.logs if log.resource.get("service.name") == service]
        reports = []
        for event in events:
            if event.event_name == "connleak.leak":
                about = event.attributes
                evidence = about["connleak.evidence"]
                assert isinstance(evidence, tuple)
                reports.append(
                    Reported(
                        str(about["connleak.id"]),
                        str(about["code.function.name"]),
                        tuple(map(str, evidence)),
                        str(about["connleak.certainty"]),
                        str(about["connleak.resource"]),
                        event.time_ns / 1e9,
                    )
                )
        recovered = [
            str(event.attributes["connleak.id"])
            for event in events
            if event.event_name == "connleak.recovered"
        ]
        facts = {name: float(seconds) for name, seconds in _FACT.findall(finished.stdout)}
        return Played(tuple(reports), tuple(recovered), facts, finished.stderr, finished.returncode)

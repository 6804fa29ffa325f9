"""After ``os.fork`` each process answers for its own connections only."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from examples.otlp_receiver import OtlpReceiver
from examples.otlp_records import Span
from tests.support.launcher import APPS, Finished, environment, exporting_to, run
from tests.support.postgres import fresh_schema

EXPORT_AT_THE_END = {
    "OTEL_BSP_SCHEDULE_DELAY": "60000",
    "OTEL_BLRP_SCHEDULE_DELAY": "60000",
    "OTEL_METRIC_EXPORT_INTERVAL": "60000",
    "OTEL_BSP_MAX_QUEUE_SIZE": "50000",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "50000",
}
"""The exporters rest while the process forks.

Otherwise the child may inherit a lock that is locked, such as that of a module that `requests` imports
late, and wait for it for ever at its exit: seen once in 200 runs. That has nothing to do with us.
"""


@dataclass(frozen=True)
class Family:
    """A parent and a child that have ended, and the spans that they sent."""

    finished: Finished
    spans: list[Span]

    def pid(self, who: str) -> str:
        """The process id of "parent" or "child"."""
        found = re.search(rf"^{who} (\d+) ", self.finished.stdout, re.MULTILINE)
        assert found is not None
        return found[1]

    def leaks(self, who: str) -> list[str]:
        """What "parent" or "child" reported: the functions, in order."""
        pattern = rf"^{self.pid(who)} WARNING connection leak \(.*?\) \[\w+\]: __main__\.(\w+)"
        return re.findall(pattern, self.finished.stderr, re.MULTILINE)


@pytest.fixture(scope="module")
def family(postgres: str) -> Iterator[Family]:
    """Run the program once for all tests of this module."""
    with OtlpReceiver() as receiver, fresh_schema(postgres) as dsn:
        env = environment(DSN=dsn, OTEL_PYTHON_CONNLEAK_OVERDUE_AFTER="0.5") | exporting_to(receiver)
        env |= EXPORT_AT_THE_END
        finished = run(APPS / "forking.py", env=env)
        yield Family(finished, receiver.spans)


def test_both_end_well(family: Family) -> None:
    """Neither process fails, and nothing of ours does."""
    assert family.finished.returncode == 0
    assert "Traceback" not in family.finished.stderr
    assert f"child {family.pid('child')} ends with" in family.finished.stdout


def test_child_starts_without_holds(family: Family) -> None:
    """The child inherits no hold, while the parent keeps its own two."""
    assert f"child {family.pid('child')} inherits 0 holds" in family.finished.stdout
    assert f"parent {family.pid('parent')} holds 2" in family.finished.stdout


def test_child_reports_its_own(family: Family) -> None:
    """The child's watchdog reports the child's leaks, and never the parent's holds, which are older."""
    assert sorted(family.leaks("child")) == ["drop", "hold_until_reported"]


def test_parent_reports_its_own(family: Family) -> None:
    """The parent's watchdog goes on, and reports its own holds: two from one line are one log line."""
    assert family.leaks("parent") == ["parent"]


def test_each_span_is_sent_once(family: Family) -> None:
    """The child never ends a span of its parent, nor reports about one; its own arrive."""
    names = [span.name for span in family.spans if span.scope == "otel_connleak"]

    assert {name: names.count(name) for name in set(names)} | {"hold use_pool_forever": 0} == {
        "hold parent": 2,
        "leak parent": 2,
        "hold drop": 1,
        "leak drop": 1,
        "transaction drop": 1,
        "hold hold_until_reported": 1,
        "leak hold_until_reported": 1,
        "hold use_pool_forever": 0,
    }
    (in_child,) = [span for span in family.spans if span.name == "in the child"]
    (drop,) = [span for span in family.spans if span.name == "leak drop"]
    assert drop.parent_span_id == in_child.span_id

"""From evidence to leak: with a clock and ids of the test's own, and real memory to search."""

import threading
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from otel_connleak.claim import Leak
from otel_connleak.connection import Kind, PoolFigures, Transaction
from otel_connleak.hold import Certainty, Evidence
from tests.leaking import hold_while, kept, lose, release
from tests.support import toy
from tests.support.core import EPOCH, Core
from tests.support.toy import Connection, ToyPool

GRACE = 5.0


@pytest.fixture
def core() -> Iterator[Core]:
    """The core with default settings."""
    yield Core()
    toy.forget()
    kept.clear()


def test_within_the_grace_is_silent(core: Core) -> None:
    """A hold that is released within the grace is no leak, and leaves no claim behind."""
    hold = lose(core.pool)
    core.note(hold, Evidence.FUNCTION_EXITED)
    core.after(GRACE - 0.001)
    release(core.pool, hold)
    core.after(GRACE)

    assert (core.reports, core.recovered) == ([], [])
    assert core.leaks.next_deadline() is None


def test_after_the_grace_is_reported(core: Core) -> None:
    """The claim is due exactly a grace after the fact, and then it is a leak."""
    hold = lose(core.pool)
    core.note(hold, Evidence.FUNCTION_EXITED)

    assert core.leaks.next_deadline() == core.clock() + GRACE
    assert core.due[-1] == core.clock() + GRACE
    core.after(GRACE)
    assert core.reported == [("lose", "function_exited")]
    assert core.leaks.next_deadline() is None


def test_everything_a_leak_says(core: Core) -> None:
    """Each attribute of a leak, with the times at its detection."""
    hold = lose(core.pool)
    hold.statement = "SELECT * FROM customers WHERE name = 'secret'"
    hold.trace = 0x4BF92F3577B34DA6A3CE929D0E0E4736
    connection = hold.tracked()
    assert isinstance(connection, Connection)
    connection.transaction = Transaction.OPEN
    del connection  # otherwise this function could release it
    core.after(1.0)
    core.registry.called(hold, core.clock() - 0.25)
    core.note(hold, Evidence.TRACE_ENDED)
    core.note(hold, Evidence.THREAD_ENDED)
    core.after(GRACE)
    (leak,) = core.reports
    said: dict[str, Any] = {field.name: getattr(leak, field.name) for field in fields(Leak)}

    assert [frame.function for frame in said.pop("frames")][:2] == ["lose", "test_everything_a_leak_says"]
    assert said == {
        "id": f"{leak.fingerprint}-00000001",
        "fingerprint": leak.fingerprint,
        "function": "tests.leaking.lose",
        "short": "lose",
        "file": lose.__code__.co_filename,
        "line": lose.__code__.co_firstlineno + 2,
        "kind": Kind.CONNECTION,
        "evidence": (Evidence.THREAD_ENDED, Evidence.TRACE_ENDED),
        "certainty": Certainty.POSSIBLE,
        "pool": "orders",
        "figures": PoolFigures(used=1, maximum=5, waiting=0),
        "hint": "use `with`",
        "facts": toy.FACTS,
        "thread": threading.current_thread().name,
        "task": None,
        "trace": "4bf92f3577b34da6a3ce929d0e0e4736",
        "use_time": 6.0,
        "idle_time": 5.75,
        "calls": 1,
        "last_call_age": 5.0,
        "transaction": Transaction.OPEN,
        "writes": 0,
        "statement": "SELECT … FROM customers",
        "in_full": False,
        "detected": EPOCH + core.clock(),
        "occurrence": 1,
        "since": EPOCH + core.clock(),
        "hold": hold,
    }


def test_late_release_recovers_once(core: Core) -> None:
    """A release after the report withdraws it with the same id; the next hold of this place starts anew."""
    hold = lose(core.pool)
    core.note(hold, Evidence.FUNCTION_EXITED)
    core.after(GRACE)
    assert core.leaks.unreleased().total() == 1
    release(core.pool, hold)
    core.registry.released(hold)  # a listener that is told twice

    assert [leak.id for leak in core.recovered] == [leak.id for leak in core.reports]
    assert core.leaks.unreleased().total() == 0
    totals = hold.totals
    assert (totals.leaked, totals.recovered, totals.open) == (1, 1, 0)


def test_repeats_are_counted(core: Core) -> None:
    """Leaks of one place have one fingerprint, ids of their own, and a count since the first."""
    for _ in range(3):
        core.note(lose(core.pool), Evidence.FUNCTION_EXITED)
        core.after(GRACE)
    ids = [leak.id.removeprefix(leak.fingerprint) for leak in core.reports]

    assert len({leak.fingerprint for leak in core.reports}) == 1
    assert ids == ["-00000001", "-00000002", "-00000003"]
    assert [leak.occurrence for leak in core.reports] == [1, 2, 3]
    assert {leak.since for leak in core.reports} == {core.reports[0].detected}
    assert core.leaks.unreleased() == {("tests.leaking.lose", "orders", Kind.CONNECTION): 3}


def test_fingerprint_tells_sites_apart(core: Core) -> None:
    """Pool, function and evidence make the fingerprint; the process does not."""
    other = ToyPool(core.registry, "reports")
    core.note(lose(core.pool), Evidence.FUNCTION_EXITED)
    core.note(lose(other), Evidence.FUNCTION_EXITED)
    core.note(lose(core.pool), Evidence.TRACE_ENDED)
    core.after(GRACE)
    again = Core()
    again.note(lose(again.pool), Evidence.FUNCTION_EXITED)
    again.after(GRACE)

    assert len({leak.fingerprint for leak in core.reports}) == 3
    assert again.reports[0].fingerprint in {leak.fingerprint for leak in core.reports}


def test_strongest_evidence_comes_first(core: Core) -> None:
    """All that was observed until the report is in it, in the order of what it proves."""
    hold = lose(core.pool)
    core.note(hold, Evidence.FUNCTION_EXITED, Evidence.TRACE_ENDED, Evidence.TASK_ENDED)
    core.after(GRACE)

    assert core.reports[0].evidence == (
        Evidence.TASK_ENDED,
        Evidence.TRACE_ENDED,
        Evidence.FUNCTION_EXITED,
    )


def test_overdue_has_no_further_grace(core: Core) -> None:
    """The threshold is the grace: idle for so long, it is reported at once, also if its owner lives."""
    with toy.in_other_thread(lambda wait: hold_while(core, wait)):
        core.after(29.999)
        assert core.reports == []
        core.after(0.001)
        assert core.reported == [("hold_while", "overdue")]
    assert [leak.short for leak in core.recovered] == ["hold_while"]


def test_live_activation_defers_with_back_off(core: Core) -> None:
    """While somebody could still release it, it is looked at again after 1, 2, 4, 8, 16, 16 … graces."""
    with toy.in_other_thread(lambda wait: hold_while(core, wait)):
        (hold,) = core.registry.holds()
        core.note(hold, Evidence.TRACE_ENDED)
        waits = []
        for _ in range(7):
            due = core.leaks.next_deadline()
            assert due is not None
            waits.append(due - core.clock())
            core.clock.now = due
            core.leaks.work(due)
        assert core.reports == []
    assert waits == [GRACE * times for times in (1, 1, 2, 4, 8, 16, 16)]
    assert core.leaks.next_deadline() is None


@pytest.mark.parametrize("kind", [kind for kind in Evidence if kind is not Evidence.DROPPED])
def test_evidence_that_is_switched_off(kind: Evidence) -> None:
    """What is switched off is neither a claim nor named beside other evidence."""
    core = Core(evidence=[other for other in Evidence if other is not kind])
    hold = lose(core.pool)
    core.note(hold, kind)
    core.after(GRACE)
    assert core.reports == []
    other = Evidence.TASK_ENDED if kind is not Evidence.TASK_ENDED else Evidence.TRACE_ENDED
    core.note(hold, kind, other)
    core.after(GRACE)
    assert [leak.evidence for leak in core.reports] == [(other,)]
    toy.forget()


def test_ignored_functions_are_never_reported() -> None:
    """Neither while the process runs nor at its end."""
    core = Core(ignore="lose")
    hold = lose(core.pool)
    core.note(hold, Evidence.FUNCTION_EXITED, Evidence.OVERDUE)
    core.after(GRACE)

    assert core.leaks.at_exit() == []
    assert core.reports == []
    assert hold.totals.open == 1
    toy.forget()

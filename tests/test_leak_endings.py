"""How a claim can end other than in a report after the grace: singletons, drops, the process's end, races."""

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from otel_connleak.claim import Leak
from otel_connleak.collector import Collector
from otel_connleak.connection import Kind
from otel_connleak.hold import Certainty, Evidence, Outcome
from tests.leaking import drop, hold_while, keep, kept, lose, release
from tests.support import toy
from tests.support.core import Core
from tests.support.toy import ToyPool

GRACE = 5.0


@pytest.fixture
def core() -> Iterator[Core]:
    """The core with default settings."""
    yield Core()
    toy.forget()
    kept.clear()


def test_singleton_in_module_state(core: Core) -> None:
    """One connection that a module keeps is no leak; a second from the same place, while it idles, is one."""
    first, second = keep(core.pool), keep(core.pool)
    core.note(first, Evidence.FUNCTION_EXITED)
    core.after(GRACE)
    assert core.reports == []
    core.note(second, Evidence.FUNCTION_EXITED)
    core.after(GRACE)
    assert [leak.hold for leak in core.reports] == [second]


def test_singleton_that_was_replaced(core: Core) -> None:
    """When the first was released, or is busy, the next one is the singleton."""
    first, second, third = keep(core.pool), keep(core.pool), keep(core.pool)
    core.note(first, Evidence.FUNCTION_EXITED)
    core.after(GRACE)
    release(core.pool, first)
    core.note(second, Evidence.FUNCTION_EXITED)
    core.after(GRACE)
    second.busy_since = core.clock()
    core.note(third, Evidence.FUNCTION_EXITED)
    core.after(GRACE)

    assert core.reports == []


def test_singletons_of_two_pools(core: Core) -> None:
    """Each pool may have one."""
    other = ToyPool(core.registry, "reports")
    core.note(keep(core.pool), Evidence.FUNCTION_EXITED)
    core.note(keep(other), Evidence.FUNCTION_EXITED)
    core.after(GRACE)

    assert core.reports == []


@pytest.mark.parametrize("settings", [{"evidence": "overdue"}, {"ignore": "tests.leaking.drop"}])
def test_drop_that_is_not_reported_is_lost_all_the_same(settings: dict[str, str]) -> None:
    """Also without a report a dropped connection is no longer held, and its slot stays taken."""
    core = Core(**settings)
    hold = drop(core.pool)
    core.after(0.0)

    assert hold.outcome is Outcome.LOST
    assert (core.reports, core.registry.holds()) == ([], [])
    assert core.pool.record is not None
    assert core.pool.record.snapshot().used == 1


def test_dropped_is_reported_at_once(core: Core) -> None:
    """Without grace, as confirmed; a pool's slot stays lost."""
    hold = drop(core.pool)
    core.after(0.0)
    (leak,) = core.reports

    assert (leak.evidence, leak.certainty) == ((Evidence.DROPPED,), Certainty.CONFIRMED)
    assert hold.outcome is Outcome.LOST
    assert core.leaks.unreleased() == {("tests.leaking.drop", "orders", Kind.CONNECTION): 1}
    totals = hold.totals
    assert (totals.lost, totals.released, totals.open) == (1, 0, 0)


class AtWork(Collector):
    """A collection that is found at work so many times; a second passes each time that somebody looks."""

    def __init__(self, core: Core, times: float) -> None:
        super().__init__()
        self._core, self._times = core, times

    @property
    def at_work(self) -> bool:
        """Whether it is not over yet."""
        self._core.clock.now += 1.0
        self._times -= 1
        return self._times >= 0

    @at_work.setter
    def at_work(self, _value: bool) -> None:
        """Nobody tells it."""


def test_dropped_in_a_collection_that_goes_on(core: Core) -> None:
    """While finalizers run, one may still give the connection back: it is judged when they have."""
    core.dropped._collector = AtWork(core, times=2)
    hold = drop(core.pool)
    core.after(0.0)

    assert [leak.hold for leak in core.reports] == [hold]
    assert core.clock() == 103.0


def test_dropped_in_a_collection_that_never_ends(core: Core) -> None:
    """A finalizer that hangs does not hide what was dropped."""
    core.dropped._collector = AtWork(core, times=float("inf"))
    drop(core.pool)
    core.after(0.0)

    assert core.reported == [("drop", "dropped")]


def test_collector_tells() -> None:
    """Whoever is finalized in a collection finds the collector at work, and nobody afterwards."""
    before = list(gc.callbacks)  # hypothesis adds its own when the first property of the process runs
    collector, seen = Collector(), []

    class Dying:
        def __del__(self) -> None:
            seen.append(collector.at_work)

    collector.install()
    dying: Any = Dying()
    dying.itself = dying
    del dying
    gc.collect()
    assert (seen, collector.at_work) == ([True], False)
    collector.uninstall()
    collector.uninstall()
    assert gc.callbacks == before


def test_dropped_direct_connection_is_closed(core: Core) -> None:
    """Its server session ends with it: it is reported, but nothing is unreleased any more."""
    drop(ToyPool(core.registry, name=None))
    core.after(0.0)

    assert core.reported == [("drop", "dropped")]
    assert core.leaks.unreleased().total() == 0


def test_drop_after_the_report_is_no_second_report(core: Core) -> None:
    """A possible leak that is then dropped stays one leak, which can never recover."""
    hold = lose(core.pool)
    core.note(hold, Evidence.FUNCTION_EXITED)
    core.after(GRACE)
    toy.forget()
    core.after(GRACE)

    assert core.reported == [("lose", "function_exited")]
    assert core.recovered == []
    assert hold.outcome is Outcome.LOST
    assert list(hold.seen or ()) == [Evidence.FUNCTION_EXITED, Evidence.DROPPED]
    assert core.leaks.unreleased().total() == 1


def test_at_exit(core: Core) -> None:
    """Only what nobody could release is reported, once, however often the process is said to end."""
    lost, single = lose(core.pool), keep(core.pool)
    with toy.in_other_thread(lambda wait: hold_while(core, wait)):
        connection = core.pool.getconn()  # this very function could release it
        spared = core.leaks.at_exit()
        assert core.leaks.at_exit() == spared
        assert [hold.site.short for hold in spared] == ["keep", "hold_while", "test_at_exit"]
        core.pool.putconn(connection)

    assert core.reported == [("lose", "process_exited")]
    assert [leak.hold for leak in core.reports] == [lost]
    assert single.leak is None


def test_at_exit_names_what_was_observed_before(core: Core) -> None:
    """A claim whose grace is not over comes with its own evidence, then the end of the process."""
    core.note(lose(core.pool), Evidence.FUNCTION_EXITED)
    core.leaks.at_exit()
    core.after(GRACE)

    assert [leak.evidence for leak in core.reports] == [(Evidence.FUNCTION_EXITED, Evidence.PROCESS_EXITED)]


def test_release_while_it_is_reported(core: Core) -> None:
    """A release that overtakes the report withdraws it, after the report."""
    said: list[str] = []
    hold = lose(core.pool)

    def on_leak(leak: Leak) -> None:
        said.append("leak")
        release(core.pool, leak.hold)

    core.leaks.listen([on_leak], [lambda _: said.append("recovered")])
    core.note(hold, Evidence.FUNCTION_EXITED)
    core.after(GRACE)

    assert said == ["leak", "recovered"]
    assert core.leaks.unreleased().total() == 0


def test_two_threads_report_once(core: Core) -> None:
    """At a shutdown the watchdog may be at work on the very hold that is reported as still held."""
    hold = lose(core.pool)
    assert core.pool.record is not None
    once = iter([True])

    def meanwhile() -> tuple[None, None]:
        if next(once, False):
            thread = threading.Thread(target=core.leaks.at_exit)
            thread.start()
            thread.join()
        return None, None

    core.pool.record.figures = meanwhile
    core.note(hold, Evidence.FUNCTION_EXITED)
    core.after(GRACE)

    assert core.reported == [("lose", "function_exited")]


def test_report_that_fails_is_tried_again(core: Core, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be read of a hold costs one report, not the next."""
    hold = lose(core.pool)
    site, hold.site = hold.site, None  # type: ignore[assignment] # broken on purpose
    core.leaks._report(hold, Certainty.POSSIBLE, core.clock())
    hold.site = site
    core.note(hold, Evidence.FUNCTION_EXITED)
    core.after(GRACE)

    assert core.reported == [("lose", "function_exited")]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_listener_that_raises(core: Core, caplog: pytest.LogCaptureFixture) -> None:
    """The others are told all the same."""

    def broken(_leak: Leak) -> None:
        raise ZeroDivisionError

    core.leaks.listen([broken, core.reports.append], [broken, core.recovered.append])
    hold = lose(core.pool)
    core.note(hold, Evidence.FUNCTION_EXITED)
    core.after(GRACE)
    release(core.pool, hold)

    assert (len(core.reports), len(core.recovered)) == (1, 1)
    assert "ZeroDivisionError" in caplog.text


def test_memory_is_bounded(core: Core) -> None:
    """Only the last thousand leaks are kept to be read, and none of them keeps a connection."""
    for _ in range(1_010):
        drop(core.pool)
    core.after(0.0)

    assert len(core.reports) == 1_010
    assert len(core.leaks.reported()) == 1_000
    assert core.leaks.reported()[-1] is core.reports[-1]
    assert core.reports[0].hold.tracked() is None

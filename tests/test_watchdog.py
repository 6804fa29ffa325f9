"""The one background thread: it never wakes for nothing, and its work does not grow with what is open."""

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from otel_connleak.hold import Evidence
from otel_connleak.watchdog import Watchdog
from tests.support import toy
from tests.support.core import Core
from tests.support.waiting import wait_until

MANY = 100_000


class Source:
    """Deadlines that a test sets."""

    def __init__(self) -> None:
        self.deadline: float | None = None
        self.worked: list[float] = []

    def next_deadline(self) -> float | None:
        """The deadline."""
        return self.deadline

    def work(self, now: float) -> None:
        """What is due is done."""
        if self.deadline is not None and self.deadline <= now:
            self.deadline = None
            self.worked.append(now)


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    """A watchdog with the real clock."""
    watchdog = Watchdog(time.monotonic)
    yield watchdog
    watchdog.stop()


def asleep(watchdog: Watchdog) -> int:
    """Wait until everything that has arrived is handled; returns how often it had to wake until then."""
    done = threading.Event()
    watchdog.handle({threading.Event: lambda event: event.set()})
    watchdog.put(done)
    assert done.wait(10)
    return watchdog.wakes


def test_starts_with_the_first_deadline(watchdog: Watchdog) -> None:
    """A process that never acquires has no thread of ours; one thread serves everything."""
    assert "connleak" not in str(threading.enumerate())
    for _ in range(3):
        watchdog.due(time.monotonic() + 60)
    assert watchdog.running
    assert [thread.daemon for thread in threading.enumerate() if "connleak" in thread.name] == [True]


def test_no_wake_while_nothing_is_held(watchdog: Watchdog) -> None:
    """Without a deadline it sleeps without a timeout, as long as nothing arrives."""
    source = Source()
    watchdog.watch(source)
    watchdog.due(time.monotonic() + 60)
    before = asleep(watchdog)
    threading.Event().wait(0.3)  # nothing is waited for: a watchdog that polls wakes meanwhile

    assert asleep(watchdog) == before + 1


def test_later_deadlines_do_not_wake_it(watchdog: Watchdog) -> None:
    """It wakes for a deadline only if that is earlier than the one it sleeps for: on acquire, hardly ever."""
    source = Source()
    start = time.monotonic()
    source.deadline = start + 60
    watchdog.watch(source)
    watchdog.due(source.deadline)
    before = asleep(watchdog)
    for number in range(10_000):
        watchdog.due(start + 60 + number)

    assert asleep(watchdog) == before + 1


def test_wakes_of_short_holds(watchdog: Watchdog) -> None:
    """Holds that are over before it has looked do not wake it one by one."""
    core = Core()
    watchdog.watch(core.overdue, core.leaks)
    core.registry.clock = time.monotonic
    core.registry._due = watchdog.due
    looked = 100
    for _ in range(looked):
        for _ in range(10):
            core.pool.putconn(core.pool.getconn())
        asleep(watchdog)

    assert asleep(watchdog) - looked <= 3


def test_earlier_deadline_wakes_it(watchdog: Watchdog) -> None:
    """A nearer deadline is kept although it came later."""
    source = Source()
    watchdog.watch(source)
    source.deadline = time.monotonic() + 60
    watchdog.due(source.deadline)
    asleep(watchdog)
    source.deadline = wanted = time.monotonic() + 0.02
    watchdog.due(wanted)
    wait_until(lambda: source.worked, "the work that is due")

    assert source.worked[0] >= wanted


def test_facts_go_before_deadlines(watchdog: Watchdog) -> None:
    """What has arrived by the time of a deadline is handled first: a report has all of it."""
    busy, go_on = threading.Event(), threading.Event()
    seen: list[object] = []

    class Due(Source):
        def work(self, now: float) -> None:
            if self.deadline is not None:
                self.deadline = None
                seen.append("deadline")

    def handle(_: int) -> None:
        busy.set()
        assert go_on.wait(10)

    source = Due()
    watchdog.watch(source)
    watchdog.handle({str: seen.append, int: handle})
    watchdog.due(time.monotonic() + 60)
    asleep(watchdog)
    watchdog.put(1)
    assert busy.wait(10)
    source.deadline = time.monotonic()
    for fact in "abc":
        watchdog.put(fact)
    go_on.set()
    wait_until(lambda: "deadline" in seen, "the deadline")

    assert seen == ["a", "b", "c", "deadline"]


def test_messages_are_handled_by_type(watchdog: Watchdog) -> None:
    """In its own thread, in order; what nobody handles is dropped."""
    handled: list[Any] = []
    watchdog.handle({int: lambda number: handled.append((number, threading.current_thread().name))})
    watchdog.due(time.monotonic() + 60)
    for message in (1, "no handler for text", True, 2):
        watchdog.put(message)
    asleep(watchdog)

    assert handled == [(1, "otel-connleak-watchdog"), (2, "otel-connleak-watchdog")]


def test_work_that_fails(watchdog: Watchdog, caplog: pytest.LogCaptureFixture) -> None:
    """A handler, a timer or a source that raises is said once, and the others go on."""

    class Broken(Source):
        def work(self, now: float) -> None:
            raise ZeroDivisionError

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    source = Source()
    handled: list[int] = []
    watchdog.watch(Broken(), source)
    watchdog.handle({str: broken, int: handled.append})
    watchdog.after(time.monotonic(), broken)
    source.deadline = time.monotonic()
    watchdog.due(source.deadline)
    watchdog.put("text")
    watchdog.put(1)
    asleep(watchdog)

    assert len(source.worked) == 1
    assert handled == [1]
    assert {record.levelname for record in caplog.records} == {"ERROR"}
    assert all("ZeroDivisionError" in str(record.exc_info) for record in caplog.records)


def test_timers(watchdog: Watchdog) -> None:
    """Timers run in the order of their times, not before."""
    done: list[str] = []
    start = time.monotonic()

    def set_up(_: int) -> None:
        watchdog.after(start + 0.03, lambda: done.append("second"))
        watchdog.after(start + 0.02, lambda: done.append("first"))
        watchdog.after(start + 60, lambda: done.append("never"))

    watchdog.handle({int: set_up})
    watchdog.due(start + 60)
    watchdog.put(1)
    wait_until(lambda: len(done) == 2, "two timers")
    assert time.monotonic() >= start + 0.03
    assert done == ["first", "second"]


def test_stop_handles_what_arrived_before(watchdog: Watchdog) -> None:
    """Then it is over for good: a late deadline, of an acquire in another thread, starts no new thread."""
    handled: list[int] = []
    watchdog.handle({int: handled.append})
    watchdog.due(time.monotonic() + 60)
    for number in range(100):
        watchdog.put(number)
    watchdog.stop()
    watchdog.stop()
    assert handled == list(range(100))
    assert not watchdog.running
    watchdog.put(100)
    watchdog.due(time.monotonic() + 60)
    assert not watchdog.running
    watchdog.drain()
    assert handled == list(range(101))


def test_drain_in_the_calling_thread(watchdog: Watchdog) -> None:
    """At exit, what has arrived is handled here, and timers run at once."""
    names: list[str] = []

    def handle(_: int) -> None:
        watchdog.after(time.monotonic() + 60, lambda: names.append(threading.current_thread().name))

    watchdog.handle({int: handle})
    watchdog.put(1)
    watchdog.drain()
    assert names == [threading.current_thread().name]
    watchdog.drain()
    assert len(names) == 1


def test_after_fork_begins_anew(watchdog: Watchdog) -> None:
    """What was on its way in the parent is the parent's; the child's own thread starts when it is needed."""
    handled: list[int] = []
    watchdog.handle({int: handled.append})
    watchdog.put(1)
    watchdog.after(time.monotonic(), lambda: handled.append(2))
    watchdog.after_fork()
    assert not watchdog.running
    watchdog.drain()
    assert handled == []
    watchdog.due(time.monotonic() + 60)
    watchdog.put(3)
    asleep(watchdog)
    assert handled == [3]


def calls(function: Callable[[], object]) -> int:
    """How many calls the core makes in ``function``; the search through the heap does not count."""
    count = 0

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        module = str(frame.f_globals.get("__name__"))
        if event in ("call", "c_call") and module.startswith("otel_connleak."):
            count += not module.endswith((".reach", ".search", ".frames", ".native", ".callsite"))

    gc.collect()
    gc.disable()  # what it frees of other tests is not the work that is measured
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def hold_some(core: Core, count: int) -> None:
    """Acquire a number of connections that stay open."""
    for _ in range(count):
        toy.park(core.pool.getconn())


def test_work_does_not_grow_with_open_holds() -> None:
    """A wake with one claim due is as much work with 100,000 open holds as with ten."""
    work = []
    for open_holds in (10, 10, MANY):  # the first time some things are found out once for all
        core = Core()
        hold_some(core, open_holds)
        core.clock.now += 1.0
        hold_some(core, 1)
        (*_, newest) = core.registry.holds()

        def wake(core: Core = core) -> None:
            core.overdue.work(core.clock())
            core.leaks.work(core.clock())
            core.overdue.next_deadline()
            core.leaks.next_deadline()

        nothing_due = calls(wake)
        core.note(newest, Evidence.TRACE_ENDED)
        core.clock.now += 5.0
        one_due = calls(wake)
        assert [leak.hold for leak in core.reports] == [newest]
        work.append((nothing_due, one_due))
        toy.forget()

    assert work[1] == work[2]

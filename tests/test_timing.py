"""When a claim is judged: once nobody is left who could release, and never at the expense of the host."""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from otel_connleak.hold import Evidence, Hold
from otel_connleak.pending import Claims
from tests.leaking import lose
from tests.support import toy
from tests.support.core import Core
from tests.support.toy import Connection

GRACE = 5.0


@pytest.fixture
def core() -> Iterator[Core]:
    """The core with `sys.monitoring` switched on."""
    core = Core(overdue_after=1_000)
    with core.watching_exits():
        yield core
    toy.forget()


@contextmanager
def serving(core: Core, finish: Callable[[Any], None], go_on: threading.Event) -> Iterator[Hold]:
    """A thread that acquires in one function and goes on in another, with no way between them that is seen.

    The block begins when the second function has the connection, in a list. When ``go_on`` is set, it calls
    ``finish`` with that list, and exits.
    """
    given: list[Any] = []

    def acquire() -> None:
        given.append([core.pool.getconn()])

    def serve(wait: Callable[[], None]) -> None:
        held = given.pop()
        wait()
        assert go_on.wait(10)
        finish(held)

    def thread(wait: Callable[[], None]) -> None:
        toy.calls(acquire)
        toy.calls(lambda: serve(wait))

    with toy.in_other_thread(thread):
        (hold,) = core.registry.holds()
        yield hold
        go_on.set()


def test_exit_of_whoever_was_found(core: Core) -> None:
    """The claim is judged a grace after the exit of whatever could reach it, not a back-off later."""
    go_on = threading.Event()
    with serving(core, toy.park, go_on):
        for _ in range(6):
            core.after(16 * GRACE)
        assert core.reports == []
        core.clock.now += 1.0
        exited = core.clock()
    assert core.leaks.next_deadline() == exited + GRACE
    core.after(GRACE)
    assert [leak.short.rpartition(".")[2] for leak in core.reports] == ["acquire"]


def test_watch_ends_with_the_hold(core: Core) -> None:
    """An activation that could reach a hold is watched no longer than the hold is open."""
    with serving(core, lambda held: core.pool.putconn(held[0]), threading.Event()):
        core.after(GRACE)
        assert len(core.exits._reaching) == 1
    assert core.exits._reaching == {}
    assert core.reports == []
    assert core.leaks.next_deadline() is None


def test_coroutine_that_was_found(core: Core) -> None:
    """The same for a coroutine that waits."""

    async def request() -> None:
        own = [core.pool.getconn()]
        await Suspended()
        toy.park(own)

    coroutine: Any = request()
    coroutine.send(None)
    (hold,) = core.registry.holds()
    core.registry.move(hold, (hold.site, 0, None, hold.stack), blame=False)  # a framework has it
    frame = coroutine.cr_frame
    assert frame is not None
    core.exits.watch(hold, (id(frame), frame.f_code))
    del frame
    core.clock.now += 100
    with pytest.raises(StopIteration):
        coroutine.send(None)
    assert core.leaks.next_deadline() == core.clock() + GRACE


class Suspended:
    """What a coroutine waits for once."""

    def __await__(self) -> Generator[None]:
        yield


def test_overdue_ones_are_judged_together(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many holds that come of age at once take one search, not one each."""
    asked: list[int] = []
    who = core.leaks._who._reach.who

    def counted(targets: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(len(targets))
        return who(targets, *args, **kwargs)

    monkeypatch.setattr(core.leaks._who._reach, "who", counted)
    for _ in range(50):
        lose(core.pool)
    core.after(1_000)

    assert len(core.reports) == 50
    assert [count for count in asked if count] == [50]


def test_rest_after_a_search() -> None:
    """A second of processor time is paid back at a fifth of a processor, but for what was saved up before."""
    core = Core()
    spent = iter([0.0, 1.0, 1.0, 1.0])
    core.leaks._spent = lambda: next(spent)
    first, second = lose(core.pool), lose(core.pool)
    core.note(first, Evidence.TRACE_ENDED)
    core.clock.now += 0.5
    core.note(second, Evidence.TRACE_ENDED)
    core.after(GRACE - 0.5)
    assert [leak.hold for leak in core.reports] == [first]
    rests_until = core.clock() + 4.5
    assert core.leaks.next_deadline() == rests_until
    core.after(4.499)
    assert len(core.reports) == 1
    core.after(0.001)
    assert [leak.hold for leak in core.reports] == [first, second]
    toy.forget()


def test_no_rest_between_short_searches() -> None:
    """Two claims in a row are judged each at its time, when there has been rest enough before."""
    core = Core()
    spent = iter([0.0, 0.05, 0.05, 0.09])
    core.leaks._spent = lambda: next(spent)
    for _ in range(2):
        core.note(lose(core.pool), Evidence.TRACE_ENDED)
        core.clock.now += 0.01
    core.after(GRACE - 0.02)
    assert len(core.reports) == 1
    core.after(0.01)
    assert len(core.reports) == 2
    toy.forget()


def test_earliest_claim_wins(core: Core) -> None:
    """A hold has one claim; a later time does not put it off, an earlier one brings it forward."""
    claims = Claims()
    hold, other = lose(core.pool), lose(core.pool)
    claims.add(hold, 10.0, 1)
    claims.add(hold, 12.0, 2)
    claims.add(other, 11.0)
    assert claims.earliest() == 10.0
    claims.add(hold, 9.0)
    assert [(claim.when, claim.tries) for claim in claims.due(10.0)] == [(9.0, 0)]
    assert claims.due(10.5) == []
    claims.discard(other)
    assert claims.earliest() is None
    assert claims.due(100.0) == []


def test_claims_keep_nothing_for_long(core: Core) -> None:
    """What is noted and released again and again leaves nothing behind when its time has come."""
    for _ in range(1_000):
        connection = Connection()
        core.registry.acquire("toy", connection, None, core.pool._track)
        hold = core.pool.hold_of(connection)
        core.note(hold, Evidence.TRACE_ENDED)
        core.pool.putconn(connection)
    core.after(GRACE)

    assert core.leaks._claims._heap == []

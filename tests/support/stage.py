"""The core and its model side by side, what can be done to both, and how they are compared.

The threads of `tests.support.actors` are the application. All other threads, this one above all, are made
invisible: what a test runner reaches is nobody's business here, and there is a lot of it.
"""

import gc
import sys
import weakref
from collections import Counter
from collections.abc import Sequence
from types import FrameType
from typing import Any, ClassVar

from hypothesis.stateful import RuleBasedStateMachine, invariant

from otel_connleak import guard
from otel_connleak.hold import Certainty, Evidence, Outcome
from tests import acting
from tests.support import actors, toy
from tests.support.actors import Actor, ReusingPool
from tests.support.core import Core
from tests.support.model import Model
from tests.support.places import Activation, Conn, Stream
from tests.support.toy import Connection

GRACE = 5.0
NEVER = 1_000_000.0
MOST_THREADS = 3
POOLS = ("orders", "stock", None)
OTHERS = "[!t]*,tests.support,tests.test_*,tests.conftest,tests.leaking"
"""Modules that are not the application: all but `tests.acting`, for speed."""


def one[T](things: Sequence[T], choice: int) -> T:
    """One of some things."""
    return things[choice % len(things)]


class Stage(RuleBasedStateMachine):
    """Everything but the rules."""

    overdue_after: ClassVar[float] = 30.0

    def __init__(self) -> None:
        super().__init__()
        self.core = Core(library_modules=OTHERS, grace=GRACE, overdue_after=self.overdue_after)
        self.model = Model(GRACE, self.overdue_after)
        self.model.now = self.core.clock()
        self.pools = {name: ReusingPool(self.core.registry, name) for name in POOLS}
        self.known: dict[int, weakref.ref[Connection]] = {}
        self.actors: dict[int, Actor] = {}
        self.tops: dict[int, Activation] = {}
        self.threads = 0
        self.seen = 0
        self._current_frames = sys._current_frames
        sys._current_frames = self._frames_of_actors
        assert self.core.exits.install() is None
        guard.forget()
        gc.freeze()  # what was there before need not be looked at each time that it runs

    def _frames_of_actors(self) -> dict[int, FrameType]:
        ours = {actor.ident for actor in self.actors.values()}
        return {ident: frame for ident, frame in self._current_frames().items() if ident in ours}

    # --- what there is to choose from ----------------------------------------------------------------------

    def do(self, who: Activation, word: str, **about: Any) -> None:
        """Have an activation do something."""
        self.actors[who.thread].order(word, **about)

    def deed(self, who: Activation, deed: actors.Deed) -> None:
        """Have something done with what an activation has."""
        self.do(who, "do", deed=deed)

    def who(self, choice: int) -> Activation:
        """An activation that can do something: the innermost one of a thread."""
        return one(list(self.tops.values()), choice)

    def held(self, *, reported: bool = False) -> list[tuple[Activation, Conn]]:
        """What the innermost activations have, or only what has been reported of it."""
        return [
            (top, conn)
            for top in self.tops.values()
            for conn in self.model.conns
            if top in conn.places and (not reported or (conn.held is not None and conn.held.blamed))
        ]

    def lost(self) -> list[Conn]:
        """What is held, and is kept where nobody can reach it."""
        return [conn for conn in self.model.conns if conn.held is not None and "parked" in conn.places]

    def streams(self) -> list[tuple[Activation, Stream]]:
        """Their generators."""
        return [
            (top, stream)
            for top in self.tops.values()
            for stream in self.model.streams
            if stream.where is top
        ]

    def shelved(self) -> list[Conn]:
        """What is in the module."""
        return [conn for conn in self.model.conns if "shelf" in conn.places]

    # --- what can be done ----------------------------------------------------------------------------------

    def _activation(self, function: str, caller: Activation | None, thread: int) -> Activation:
        return Activation(function, caller, thread, acting.HIDES[function])

    def begin_thread(self, function: str) -> None:
        """A thread begins, in some function."""
        self.threads += 1
        self.tops[self.threads] = self._activation(function, None, self.threads)
        self.actors[self.threads] = Actor(acting.FUNCTIONS[function], self.known)

    def begin_call(self, caller: Activation, function: str) -> Activation:
        """A function calls another one; returns the activation."""
        self.do(caller, "call", function=function)
        called = self.tops[caller.thread] = self._activation(function, caller, caller.thread)
        return called

    def give_back(self, who: Activation, conns: list[Conn], streams: list[Stream]) -> None:
        """A function returns, with connections and generators."""
        baggage = actors.packs([conn.key for conn in conns], [stream.key for stream in streams])
        self.do(who, "return", baggage=baggage)
        self.exited(who, conns, streams)

    def fail(self, who: Activation, kept: bool) -> None:
        """A function fails; its traceback may be kept."""
        self.do(who, "raise", kept=kept)
        if kept:
            self.model.pin(who)
        self.exited(who, [], [])

    def exited(self, who: Activation, conns: list[Conn], streams: list[Stream]) -> None:
        """Tell the model of the end of an activation, and of a thread's that was its last."""
        self.model.exit(who, conns, streams)
        if who.caller is not None:
            self.tops[who.thread] = who.caller
        else:
            del self.tops[who.thread]
            self.actors.pop(who.thread).join()
            self.model.thread_ended(who.thread)

    def take(self, who: Activation, pool: str | None) -> Conn:
        """A function acquires."""
        conn = self.model.next_conn(pool)
        self.do(who, "acquire", key=conn.key, pool=self.pools[pool])
        self.model.acquire(conn, who.function, "acquire", who.thread, who)
        return conn

    def put_back(self, who: Activation, conn: Conn, times: int) -> None:
        """Whoever has a connection releases it."""
        self.deed(who, actors.releases(self.pools[conn.pool], conn.key, times))
        conn.places.remove(who)
        self.model.release(conn)

    def move_to(self, who: Activation, conn: Conn, place: str) -> None:
        """Whoever has a connection puts it somewhere else."""
        key = conn.key
        deeds: dict[str, actors.Deed] = {
            "parked": actors.moves(key, toy.park),
            "cycle": actors.moves(key, actors.tangle),
            "shelf": actors.moves(key, lambda connection: acting.shelf.update({key: connection})),
            "nowhere": actors.drops(key),
            "caller": actors.lends(key),
        }
        if place == "caller" and who.caller is None:
            return
        self.deed(who, deeds[place])
        conn.places.remove(who)
        if place == "caller" and who.caller is not None:
            conn.places.add(who.caller)
        elif place != "nowhere":
            conn.places.add(place)

    def wait(self, seconds: float) -> None:
        """Time passes; look at what was reported."""
        self.model.settle()
        self.core.pass_time(seconds)
        assert guard.failures() == {}, f"the core itself failed: {guard.failures()}"
        self.model.now = self.core.clock()
        self._check_reports()

    # --- the two must agree --------------------------------------------------------------------------------

    def _check_reports(self) -> None:
        """What was reported while time passed, and what was not."""
        model, reports = self.model, self.core.reports[self.seen :]
        self.seen = len(self.core.reports)
        by_number = {held.number: held for held in model.open()}
        for leak in reports:
            held = by_number.get(leak.hold.number)
            assert held is not None, f"reported although it is over, or the parent's: {leak}"
            assert not held.blamed, f"reported twice: {leak}"
            when = leak.hold.acquired + leak.use_time
            assert model.may_be_reported_at(held, when), f"a false alarm: {leak}, {held}"
            assert when <= model.must_be_reported_at(held), f"reported too late: {leak}, {held}"
            assert (leak.function, leak.pool) == held.totals
            assert (Evidence.DROPPED in leak.evidence) == held.conn.dead
            assert (leak.certainty is Certainty.CONFIRMED) == held.conn.dead
            held.blamed = leak.function
            model.counts[held.totals, "leaked"] += 1
        self._check_silence()
        model.bury()

    def _check_silence(self) -> None:
        silent = [held for held in self.model.open() if not held.blamed]
        late = [held for held in silent if self.model.must_be_reported_at(held) <= self.model.now]
        lost = [held for held in late if not held.shelved]
        assert not lost, f"never reported: {lost}"
        sites = [held.site for held in late]
        assert len(sites) == len(set(sites)), f"only one of a site may lie in a module: {late}"

    @invariant()
    def nothing_is_kept_alive(self) -> None:
        """A connection lives exactly as long as somebody has it."""
        self.model.settle()
        for conn in self.model.conns:
            assert (self.known[conn.key]() is None) == conn.dead, f"dead or alive: {conn}"

    @invariant()
    def the_same_is_open(self) -> None:
        """The open holds, and how full the pools are."""
        holds = self.core.registry.holds()
        assert [hold.number for hold in holds] == [held.number for held in self.model.open()]
        assert all(hold.outcome is Outcome.HELD for hold in holds)
        for name, pool in self.pools.items():
            if pool.record is not None:
                expected = self.figures(name)
                assert (pool.record.open, pool.record.lost) == (expected["held"], expected["lost"])

    def figures(self, pool: str | None) -> Counter[str]:
        """How many connections of a pool are held, lost, and so on."""
        return Counter(held.outcome for held in self.model.holds if held.conn.pool == pool)

    @invariant()
    def the_same_is_counted(self) -> None:
        """The totals of each function and pool."""
        counted = Counter(
            {
                ((totals.function, totals.pool), name): getattr(totals, name)
                for totals in self.core.registry.totals.all()
                for name in ("acquired", "released", "lost", "leaked", "recovered")
            }
        )
        assert counted == self.model.counts, (
            f"{counted.items() ^ self.model.counts.items()}, {self.model.open()}"
        )

    @invariant()
    def recovered_once(self) -> None:
        """Each reported hold that is released recovers once, by the same report."""
        assert [leak.hold.number for leak in self.core.recovered] == [
            held.number for held in self.model.recovered
        ]
        ids = {leak.id for leak in self.core.reports}
        assert len(ids) == len(self.core.reports)
        assert {leak.id for leak in self.core.recovered} <= ids
        assert guard.failures() == {}, f"the core itself failed: {guard.failures()}"

    @invariant()
    def nothing_is_due_for_nothing(self) -> None:
        """The gauge of open leaks is the model's, and while nothing is held the watchdog may sleep."""
        lost = [held for held in self.model.holds if held.outcome == "lost" and held.conn.pool is not None]
        unreleased = [held for held in (*self.model.open(), *lost) if held.blamed]
        assert self.core.leaks.unreleased().total() == len(unreleased)
        assert self.core.registry.holds() or self.core.leaks.next_deadline() is None

    # --- the end -------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Everything ends: then nothing is held, nothing is due, and nothing is alive."""
        try:
            if sys.exception() is None:  # otherwise that is the news
                self._end_everything()
        finally:
            for actor in self.actors.values():
                actor.abandon()
            sys._current_frames = self._current_frames
            self.core.exits.uninstall()
            acting.shelf.clear()
            toy.forget()

    def _end_everything(self) -> None:
        while self.tops:
            self.give_back(self.who(0), [], [])
        acting.shelf.clear()
        toy.forget()
        toy.forget()  # what generators parked as they were dropped
        gc.collect()
        self.model.let_go()
        self.wait(NEVER)
        assert self.core.registry.holds() == []
        assert self.core.overdue.next_deadline() is None
        self.nothing_is_due_for_nothing()
        assert [key for key, known in self.known.items() if known() is not None] == [
            conn.key for conn in self.model.conns if conn.idle
        ]

"""Random histories of connections, played to the core and to a model of it; both must agree at each step."""

import gc
from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from tests import acting
from tests.support import actors
from tests.support.places import Stream
from tests.support.stage import GRACE, MOST_THREADS, POOLS, Stage, one
from tests.support.toy import Connection

choices = st.integers(0, 11)
"""Which one of those that there are."""
functions = st.sampled_from(sorted(acting.FUNCTIONS))
pools = st.sampled_from(POOLS)
places = st.sampled_from(["released", "parked", "cycle", "shelf", "nowhere", "caller"])
"""Where a connection goes."""


class Connections(Stage):
    """The rules. A rule does something in a thread of the application, and tells the model."""

    # --- threads and calls ---------------------------------------------------------------------------------

    @initialize(function=functions)
    def first_thread(self, function: str) -> None:
        """There is always a thread to begin with."""
        self.begin_thread(function)

    @precondition(lambda self: len(self.actors) < MOST_THREADS)
    @rule(function=functions)
    def start_thread(self, function: str) -> None:
        """A thread begins, in some function."""
        self.begin_thread(function)

    @precondition(lambda self: self.tops)
    @rule(choice=choices, function=functions)
    def call(self, choice: int, function: str) -> None:
        """A function calls another one, or itself."""
        self.begin_call(self.who(choice), function)

    @precondition(lambda self: self.tops)
    @rule(choice=choices, mask=st.integers(0, 15))
    def return_some(self, choice: int, mask: int) -> None:
        """A function returns, and hands some of what it has to its caller, or all, or nothing."""
        who = self.who(choice)
        conns = [conn for conn in self.model.conns if who in conn.places]
        conns = [conn for number, conn in enumerate(conns) if mask >> number & 1]
        streams = [stream for stream in self.model.streams if stream.where is who and mask & 8]
        self.give_back(who, conns, streams)

    @precondition(lambda self: self.tops)
    @rule(choice=choices, function=functions, pool=pools)
    def call_and_acquire(self, choice: int, function: str, pool: str | None) -> None:
        """A function calls another one, which acquires and goes on."""
        self.take(self.begin_call(self.who(choice), function), pool)

    @precondition(lambda self: self.tops)
    @rule(choice=choices, kept=st.booleans())
    def raise_failure(self, choice: int, kept: bool) -> None:
        """A function fails; its caller goes on, and the traceback may be kept."""
        self.fail(self.who(choice), kept)

    @precondition(lambda self: len(self.tops) > 1)
    @rule(choice=choices, kept=st.booleans())
    def die(self, choice: int, kept: bool) -> None:
        """All functions of a thread fail, one after the other, and it ends."""
        thread = self.who(choice).thread
        while thread in self.tops:
            self.fail(self.tops[thread], kept)

    # --- connections ---------------------------------------------------------------------------------------

    @precondition(lambda self: self.tops)
    @rule(choice=choices, pool=pools)
    def acquire(self, choice: int, pool: str | None) -> None:
        """A function acquires."""
        self.take(self.who(choice), pool)

    @precondition(lambda self: self.held())
    @rule(choice=choices, times=st.integers(1, 2))
    def release(self, choice: int, times: int) -> None:
        """Whoever has a connection releases it, perhaps twice."""
        self.put_back(*one(self.held(), choice), times)

    @precondition(lambda self: self.held(reported=True))
    @rule(choice=choices)
    def release_late(self, choice: int) -> None:
        """Whoever has a connection releases it although it was reported."""
        self.put_back(*one(self.held(reported=True), choice), 1)

    @precondition(lambda self: self.tops and self.lost())
    @rule(choice=choices, to=choices)
    def release_from_afar(self, choice: int, to: int) -> None:
        """What was lost is found, and released by somebody who has nothing to do with it."""
        conn = one(self.lost(), choice)
        self.deed(self.who(to), actors.finds(self.pools[conn.pool], self.known[conn.key]))
        self.model.release(conn)

    @precondition(lambda self: self.held())
    @rule(choice=choices, place=places.filter(lambda place: place != "released"))
    def put(self, choice: int, place: str) -> None:
        """Whoever has a connection puts it somewhere else, or lets it go."""
        self.move_to(*one(self.held(), choice), place)

    @precondition(lambda self: self.tops)
    @rule(choice=choices, function=functions, pool=pools, place=places)
    def errand(self, choice: int, function: str, pool: str | None, place: str) -> None:
        """A function calls another one, which acquires, does something with it, and returns."""
        who = self.begin_call(self.who(choice), function)
        conn = self.take(who, pool)
        if place == "released":
            self.put_back(who, conn, 1)
        else:
            self.move_to(who, conn, place)
        self.give_back(who, [], [])

    @precondition(lambda self: self.held() and len(self.tops) > 1)
    @rule(choice=choices, to=choices)
    def hand_to_thread(self, choice: int, to: int) -> None:
        """A thread hands a connection to another one."""
        who, conn = one(self.held(), choice)
        other = one([top for top in self.tops.values() if top is not who], to)
        on_its_way: list[Connection] = []
        self.deed(who, actors.moves(conn.key, on_its_way.append))
        self.deed(other, actors.takes(conn.key, on_its_way))
        conn.places.remove(who)
        conn.places.add(other)

    @precondition(lambda self: self.shelved() and self.tops)
    @rule(choice=choices, to=choices)
    def take_from_shelf(self, choice: int, to: int) -> None:
        """A function takes a connection out of module state."""
        conn, who = one(self.shelved(), choice), self.who(to)
        self.deed(who, actors.takes(conn.key, acting.shelf))
        conn.places.remove("shelf")
        conn.places.add(who)

    @precondition(lambda self: any("cycle" in conn.places for conn in self.model.conns))
    @rule()
    def collect(self) -> None:
        """The garbage collector runs."""
        gc.collect()
        for conn in self.model.conns:
            conn.places.discard("cycle")

    # --- generators ----------------------------------------------------------------------------------------

    @precondition(lambda self: self.tops)
    @rule(
        choice=choices,
        pool=pools,
        hand_out=st.booleans(),
        fate=st.sampled_from(["release", "park", "forget"]),
        cleans_up=st.booleans(),
    )
    def iterate(self, choice: int, pool: str | None, hand_out: bool, fate: str, cleans_up: bool) -> None:
        """A function begins to iterate over a generator, which acquires."""
        who, conn = self.who(choice), self.model.next_conn(pool)
        generator = acting.rows if cleans_up else acting.careless_rows
        stream = Stream(len(self.model.streams), conn, fate, cleans_up, who)
        args = (self.actors[who.thread], self.pools[pool], conn.key, hand_out, fate)
        self.deed(who, actors.streams_from(stream.key, lambda: generator(*args), conn.key, hand_out))
        self.model.streams.append(stream)
        held = self.model.acquire(conn, generator.__name__, "acquire", who.thread, stream)
        if hand_out:
            self.model.move(held, who, "do")
            conn.places.add(who)

    @precondition(lambda self: self.streams())
    @rule(choice=choices, how=st.sampled_from(["finish", "close", "drop"]))
    def end_iteration(self, choice: int, how: str) -> None:
        """A generator is iterated to its end, closed, or dropped."""
        who, stream = one(self.streams(), choice)
        ways: dict[str, Callable[[int], actors.Deed]] = {
            "finish": actors.finishes,
            "close": actors.closes,
            "drop": actors.lets_go,
        }
        self.deed(who, ways[how](stream.key))
        if how == "finish":
            self.model.finish(stream)
        else:
            self.model.close(stream)

    # --- time and processes --------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.5, 4.5, GRACE, 12.0, 30.0, 80.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.wait(seconds)

    @precondition(lambda self: self.held())
    @rule(choice=choices, seconds=st.sampled_from([2.0, 40.0]))
    def query(self, choice: int, seconds: float) -> None:
        """A driver call runs."""
        _, conn = one(self.held(), choice)
        held = conn.held
        if held is None:
            return  # released, or of the parent
        (hold,) = [hold for hold in self.core.registry.holds() if hold.number == held.number]
        started = hold.busy_since = self.core.clock()
        held.busy = True
        self.wait(seconds)
        self.core.registry.called(hold, started)
        held.busy, held.last_call = False, self.core.clock()

    @precondition(lambda self: len(self.model.open()) > 2)
    @rule()
    def fork(self) -> None:
        """The process forks, and this is the child from now on."""
        self.core.after_fork()
        self.model.fork()

"""What must be reported, and what must not, decided simply: the model for `tests.support.machine`.

It knows where each connection is, and nothing of frames, references or deadlines. Times are seconds of the
test's clock.
"""

from collections import Counter

from tests.support.places import Activation, Conn, Held, Stream

PATIENCE = 16
"""Graces after which a claim is looked at again at the latest, if somebody could release when it was due."""


class Model:
    """All holds of one process, and what has to be known about them."""

    def __init__(self, grace: float, overdue_after: float) -> None:
        self.grace = grace
        self.overdue_after = overdue_after
        self.now = 0.0
        self.holds: list[Held] = []
        self.conns: list[Conn] = []
        self.streams: list[Stream] = []
        self.idle: dict[str | None, list[Conn]] = {"orders": [], "stock": [], None: []}
        self.counts: Counter[tuple[tuple[str, str | None], str]] = Counter()
        self.recovered: list[Held] = []
        self.numbers = 0

    # --- what happens --------------------------------------------------------------------------------------

    def next_conn(self, pool: str | None) -> Conn:
        """The connection that a pool hands out next."""
        if self.idle[pool]:
            return self.idle[pool][-1]
        return Conn(len(self.conns), pool)

    def acquire(self, conn: Conn, function: str, line: str, thread: int, owner: Activation | Stream) -> Held:
        """A connection is handed out; the owner has it."""
        if conn.idle:
            self.idle[conn.pool].pop()
            conn.idle = False
        else:
            self.conns.append(conn)
        self.numbers += 1
        held = Held(self.numbers, conn, function, line, self.now, thread, owner, since=self.now)
        conn.held = held
        conn.places.add(owner)
        self.holds.append(held)
        self.counts[held.totals, "acquired"] += 1
        return held

    def release(self, conn: Conn) -> None:
        """A connection is given back by whoever has it; giving back what is not held does nothing."""
        held = conn.held
        if held is None:
            return
        conn.held = None
        held.outcome = "released"
        self.counts[held.totals, "released"] += 1
        if held.blamed:
            self.recovered.append(held)
            self.counts[(held.blamed, conn.pool), "recovered"] += 1
        if conn.pool is not None:
            conn.idle = True
            self.idle[conn.pool].append(conn)

    def move(self, held: Held, owner: Activation | None, line: str = "") -> None:
        """Somebody else owns it; with a line, he is also to blame."""
        held.owner = owner
        if owner is not None and line and owner.function != held.function:
            self.counts[held.totals, "acquired"] -= 1
            held.function, held.line = owner.function, line
            self.counts[held.totals, "acquired"] += 1

    def exit(self, who: Activation, conns: list[Conn], streams: list[Stream]) -> None:
        """An activation ends, and returns connections and generators to its caller."""
        self._hand_on(who, conns, streams)
        who.alive = False
        self._pass_on(who, conns, streams)
        for conn in self.conns:
            if who in conn.places:
                conn.places.remove(who)
                conn.places |= {"parked"} if who.pinned else set()
        for stream in list(self.streams):
            if stream.where is who:
                stream.where = None
                if not who.pinned:
                    self.close(stream)
        for stream in streams if who.caller is None else ():
            self.close(stream)

    def _hand_on(self, who: Activation, conns: list[Conn], streams: list[Stream]) -> None:
        caller = who.caller
        carried = {*conns, *(stream.conn for stream in streams if stream in stream.conn.places)}
        for held in self.open():
            if held.owner is not who:
                continue
            if held.conn in carried:
                self.move(held, caller, "call")
                if caller is not None:
                    continue
            elif caller is not None and caller in held.conn.places:
                self.move(held, caller)  # it was put into what the caller had lent
            else:
                held.owner = None
            held.facts.append(self.now)

    def pin(self, who: Activation | None) -> None:
        """A traceback that is kept knows a frame, and one that has ended keeps its callers'."""
        while who is not None:
            who.pinned, who = True, who.caller

    def _pass_on(self, who: Activation, conns: list[Conn], streams: list[Stream]) -> None:
        caller = who.caller
        for conn in conns:
            conn.places.remove(who)
            conn.places |= {caller} if caller is not None else set()
        for stream in streams:
            stream.where = caller
            self.streams.remove(stream)  # what ends together ends in this order
            self.streams.append(stream)

    def close(self, stream: Stream) -> None:
        """A generator is closed or dropped half-way."""
        self._end(stream, runs=stream.cleans_up)

    def finish(self, stream: Stream) -> None:
        """A generator is iterated to its end."""
        self._end(stream, runs=True)

    def _end(self, stream: Stream, *, runs: bool) -> None:
        conn = stream.conn
        stream.where, stream.ended = None, True
        if runs and stream.fate == "release":
            self.release(conn)
        elif runs and stream.fate == "park":
            conn.places.add("parked")
        for held in self.open():
            if held.owner is stream:
                held.owner = None
                (held.facts if runs else held.maybe).append(self.now)
        conn.places.discard(stream)

    def thread_ended(self, thread: int) -> None:
        """A thread has ended: what it acquired is still held."""
        for held in self.open():
            if held.thread == thread:
                held.facts.append(self.now)

    def fork(self) -> None:
        """From now on this is the child: what was held is the parent's."""
        for held in self.holds:
            held.outcome = "inherited"
            held.conn.held = None
        self.counts.clear()

    def bury(self) -> None:
        """The watchdog has heard of all connections that have died."""
        for held in self.open():
            if held.conn.dead:
                held.outcome = "lost"
                self.counts[held.totals, "lost"] += 1

    def let_go(self) -> None:
        """All that is left anywhere is dropped."""
        for stream in self.streams:
            if not stream.ended:
                self.close(stream)
        for conn in self.conns:
            conn.places.clear()

    def settle(self) -> None:
        """Note who can reach what now; call it after each step."""
        for held in self.open():
            now = (held.can_release(), "shelf" in held.conn.places)
            if now != (held.reached, held.shelved):
                held.reached, held.shelved = now
                held.since = self.now
                held.was_shelved |= held.shelved

    # --- what must be, and what may be ---------------------------------------------------------------------

    def open(self) -> list[Held]:
        """The open holds, oldest first; those whose connection has just died are among them."""
        return [held for held in self.holds if held.outcome == "held"]

    def must_be_reported_at(self, held: Held) -> float:
        """When it must have been reported at the latest, if everything stays as it is."""
        if held.conn.dead:
            return self.now
        late = held.since + PATIENCE * self.grace
        at = float("inf")
        if not held.busy:
            idle_since = max(held.acquired, held.last_call)
            at = idle_since + self.overdue_after
            if held.was_shelved:
                at = max(at, late)
        for fact in held.facts if not held.reached else ():
            due = fact + self.grace
            # Who could release it when the claim was due, has put it off.
            at = min(at, due if held.since < due and not held.was_shelved else max(due, late))
        return at

    def may_be_reported_at(self, held: Held, when: float) -> bool:
        """Whether a report at this time is justified."""
        if held.conn.dead:
            return True
        if held.shelved and not any(
            other is not held and other.site[::2] == held.site[::2] for other in self.open()
        ):
            return False  # the only one
        overdue = not held.busy and when >= max(held.acquired, held.last_call) + self.overdue_after
        exited = not held.reached and any(fact + self.grace <= when for fact in (*held.facts, *held.maybe))
        return overdue or exited

"""Where each connection is, and who has it: the things that `tests.support.model` is about."""

from dataclasses import dataclass, field

MODULE = "tests.acting."


@dataclass(eq=False)
class Activation:
    """One activation of a function, in a thread that is known by a number."""

    function: str
    caller: "Activation | None"
    thread: int
    hides: bool
    """Whether it may keep what it owns where nobody sees it, as long as it lives."""
    alive: bool = True
    pinned: bool = False
    """Whether a traceback that is kept knows its frame."""


@dataclass(eq=False)
class Stream:
    """A suspended generator, kept by an activation, or by nobody who is alive."""

    key: int
    conn: "Conn"
    fate: str
    cleans_up: bool
    where: Activation | None
    ended: bool = False


type Place = Activation | Stream | str
"""What refers to a connection: ``parked``, ``cycle``, ``shelf``, ``way``, an activation or a generator."""


@dataclass(eq=False)
class Conn:
    """One connection object."""

    key: int
    pool: str | None
    places: set[Place] = field(default_factory=set)
    held: "Held | None" = None
    idle: bool = False

    @property
    def dead(self) -> bool:
        """Whether nothing refers to it any more."""
        return not self.places and not self.idle


@dataclass(eq=False)
class Held:
    """One hold.

    Attributes:
        function: who is to blame.
        line: a word for the line of the acquire in that function.
        owner: the activation or generator that owns it, or None.
        facts: when something happened that speaks for a leak.
        maybe: the same, where only some versions of Python tell: the end of a careless generator.
        reached: whether somebody alive can release it.
        since: since when that, and whether it is on the shelf, is as it is now.
    """

    number: int
    conn: Conn
    function: str
    line: str
    acquired: float
    thread: int
    owner: Activation | Stream | None
    facts: list[float] = field(default_factory=list)
    maybe: list[float] = field(default_factory=list)
    outcome: str = "held"
    busy: bool = False
    last_call: float = 0.0
    reached: bool = True
    shelved: bool = False
    since: float = 0.0
    was_shelved: bool = False
    blamed: str = ""
    """The function that was named in the report; empty while there is none."""

    @property
    def site(self) -> tuple[str, str, str | None]:
        """Where it was acquired."""
        return self.function, self.line, self.conn.pool

    @property
    def totals(self) -> tuple[str, str | None]:
        """Where it is counted."""
        return MODULE + self.function, self.conn.pool

    def can_release(self) -> bool:
        """Whether an activation that lives has it, or may have it."""
        if isinstance(self.owner, Activation) and self.owner.alive and self.owner.hides:
            return True
        keepers = [place.where if isinstance(place, Stream) else place for place in self.conn.places]
        return any(isinstance(keeper, Activation) and keeper.alive for keeper in keepers)

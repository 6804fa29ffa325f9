"""Functions of an application that do what they are told, step by step, for `tests.support.machine`."""

from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

from tests.support.actors import (
    Actor,
    Baggage,
    Failure,
    Held,
    ReusingPool,
    Streams,
    caught,
    part_with,
    receive,
    same,
)

shelf: Held = {}
"""Module state of the application."""


def _act(actor: Actor, box: Held, hides: bool) -> Baggage:
    """Whatever an application's function may do with connections.

    With ``hides`` it has something on its value stack whenever it waits, where no search can look.
    """
    held: Held = {}
    lent: Held = {}
    streams: Streams = {}
    while True:
        order = same(actor.next_order()) if hides else actor.next_order()
        if order.word == "acquire":
            assert order.pool is not None
            held[order.key] = actor.know(order.key, order.pool.getconn())
        elif order.word == "call":
            try:
                if hides:
                    receive(held, streams, FUNCTIONS[order.function](actor, lent))
                else:
                    baggage = FUNCTIONS[order.function](actor, lent)
                    receive(held, streams, baggage)
                    del baggage
            except Failure as failure:
                caught(failure)
            held.update(lent)
            lent.clear()
        elif order.word == "return":
            return order.baggage(held, streams)
        elif order.word == "raise":
            raise Failure(order.kept)
        else:
            order.deed(held, box, streams)
        del order  # it may know where it has taken something from


def _named(name: str, hides: bool) -> Callable[[Actor, Held], Baggage]:
    """The same function with a name, and a code object, of its own."""
    return FunctionType(_act.__code__.replace(co_name=name, co_qualname=name), globals(), name, (hides,))


HIDES = {"service": True, "repository": False}
"""Whether a function hides something while it waits."""
FUNCTIONS = {name: _named(name, hides) for name, hides in HIDES.items()}


def rows(actor: Actor, pool: ReusingPool, key: int, hand_out: bool, fate: str) -> Iterator[Any]:
    """A generator that holds a connection, or hands it out, and cleans up at its end whatever happens."""
    connection = actor.know(key, pool.getconn())
    try:
        yield connection if hand_out else key
    finally:
        part_with(connection, pool, fate)


def careless_rows(actor: Actor, pool: ReusingPool, key: int, hand_out: bool, fate: str) -> Iterator[Any]:
    """The same, which cleans up only when it is iterated to its end."""
    connection = actor.know(key, pool.getconn())
    yield connection if hand_out else key
    part_with(connection, pool, fate)

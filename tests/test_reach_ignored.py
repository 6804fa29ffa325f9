"""What the search does not follow, and what it does not touch."""

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from otel_connleak.callsite import CallSites
from otel_connleak.config import load
from otel_connleak.reach import Reach, Reachability
from tests.support import toy
from tests.support.toy import Connection, ask, parked

in_module: dict[str, Any] = {}
"""Module state of the application."""


@pytest.fixture
def reach() -> Iterator[Reachability]:
    """The question, with the modules of the test support as libraries."""
    settings, _ = load({"library_modules": "tests.support"}, environ={})
    yield Reachability(CallSites(settings).is_application_module)
    toy.forget()
    in_module.clear()


def test_library_modules_do_not_count(reach: Reachability) -> None:
    """What a library keeps for itself, the application cannot release: `toy` keeps what is parked."""
    identity, reference = parked()
    assert reference() is not None
    assert ask(reach, identity) is Reach.NOBODY


def test_our_own_frames_do_not_count(reach: Reachability) -> None:
    """A hook of ours that waits with a connection in a variable will not release it."""
    identity, reference = parked()
    ours: dict[str, Any] = {"__name__": "otel_connleak.adapters.toy"}
    exec("def hook(connection, wait):\n    wait()", ours)
    with toy.in_other_thread(lambda wait: ours["hook"](reference(), wait)):
        assert ask(reach, identity) is Reach.NOBODY


def test_traceback_does_not_count(reach: Reachability) -> None:
    """The activations of a traceback are over, although it keeps all that they had."""

    def fails() -> None:
        connection = Connection()
        identities.append(id(connection))
        raise ValueError

    identities: list[int] = []
    try:
        fails()
    except ValueError as error:
        in_module["error"] = error

    assert ask(reach, identities[0]) is Reach.NOBODY


asked: list[str] = []
"""What the application's own code was asked for."""


def noted(what: str) -> Any:
    """A method that must not be called."""

    def method(_self: object, *_: object) -> Any:
        asked.append(what)
        raise RuntimeError("working outside of a context")

    return method


class Lazy:
    """An object that would load something when it is asked for anything."""

    locals()["__class__"] = property(noted("class"))
    __len__ = __eq__ = __hash__ = __bool__ = noted("object")


class LazyDict(dict[Any, Any]):
    """A container with methods of its own."""

    __len__ = __iter__ = values = keys = items = noted("container")


class LazyModule(ModuleType):
    """A module that is imported when it is asked for anything."""

    __getattribute__ = noted("module")


def test_nothing_of_the_application_runs(reach: Reachability) -> None:
    """Lazy objects and lazy modules stay as they are: to load them may be a query, or an import."""
    identity, reference = parked()
    in_module["lazy"] = [Lazy(), LazyDict({number: [number] for number in range(1_000)})]
    dict.__setitem__(in_module["lazy"][1], "key", reference())
    sys.modules["tests.lazy_module"] = LazyModule("tests.lazy_module")
    asked.clear()
    try:
        assert ask(reach, identity) is Reach.MODULE
    finally:
        del sys.modules["tests.lazy_module"]
    assert asked == []

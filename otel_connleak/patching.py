"""Replacing functions of a library, and giving back the identical ones (L1)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

_MISSING = object()


class _Patch(NamedTuple):
    owner: Any
    name: str
    original: Any
    replacement: Any


class Patches:
    """The replacements that one adapter has made. Not thread-safe: install and uninstall come from one place.

    Attributes:
        active: read by the replacements: false means "call the original and do nothing else". A replacement
            that another tool has wrapped since cannot be taken out again; it then stays, without effect.
    """

    def __init__(self) -> None:
        self.active = False
        self._patches: list[_Patch] = []

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Replace ``owner.name`` by ``make(original)``.

        Args:
            owner: a class or module.
            name: its attribute, inherited ones are not looked for.
            make: given the raw attribute (a function, a `classmethod` object), returns the replacement.
                Raises `AttributeError` if there is no such attribute.
        """
        original = vars(owner).get(name, _MISSING)
        if original is _MISSING:
            raise AttributeError(f"{owner.__name__} has no attribute {name} of its own")
        replacement = make(_method(original) if isinstance(owner, type) else original)
        setattr(owner, name, replacement)
        self._patches.append(_Patch(owner, name, original, replacement))
        self.active = True

    def undo(self) -> None:
        """Give back the originals, the last replaced first. Idempotent."""
        self.active = False
        while self._patches:
            patch = self._patches.pop()
            if vars(patch.owner).get(patch.name) is patch.replacement:
                setattr(patch.owner, patch.name, patch.original)


def _method(original: Any) -> Any:
    """A method as a function, also where another tool has put there what must be bound to be called.

    Those of wrapt are such, with which OpenTelemetry's instrumentations work: unbound they would take the
    object for the first argument, and give a wrong one to the instrumentation.
    """
    is_method = not isinstance(original, (classmethod, staticmethod, property))
    if type(original) is FunctionType or not is_method or not hasattr(original, "__wrapped__"):
        return original

    @functools.wraps(original)
    def method(this: Any, *args: Any, **kwargs: Any) -> Any:
        return original.__get__(this, type(this))(*args, **kwargs)

    return method

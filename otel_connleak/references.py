"""How many references there are to an object, as far as the interpreter can tell (L0)."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any


def counts_are_exact() -> bool:
    """Whether a reference count says who refers to an object.

    Not without the interpreter lock: there the count is split between the thread that made the object and all
    others, and is brought together late (PEP 703, "biased reference counting").
    """
    is_enabled = getattr(sys, "_is_gil_enabled", None)  # Python 3.13 and newer
    return is_enabled is None or bool(is_enabled())


def count(reference: Callable[[], Any]) -> int | None:
    """The number of references to an object that are not the caller's; None if it is gone.

    They are counted through a weak reference, or what else gives the object: so whatever this function and
    its caller need is the same each time, on every version of the interpreter, and is subtracted.
    """
    referent = reference()
    return None if referent is None else sys.getrefcount(referent) - _OUR_OWN


class _Probe:
    """An object that one variable refers to."""


def _calibrate() -> int:
    probe = _Probe()
    return (count(weakref.ref(probe)) or 0) - 1


_OUR_OWN = 0
_OUR_OWN = _calibrate()

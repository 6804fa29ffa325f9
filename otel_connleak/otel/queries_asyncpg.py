"""Where OpenTelemetry's instrumentation of asyncpg starts its query spans (L3).

Its methods are bound when it instruments, and wrapt keeps them. So they are replaced when the module has been
imported; where it has instrumented before, its wrappers give way to others of the same kind, which its
``uninstrument`` takes out as it would its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import wrapt

from otel_connleak.patching import Patches

type _Asked = Callable[..., tuple[Any, Any]]
type _Around = Callable[[_Asked], Callable[[Any], Any]]


def hook(module: Any, patches: Patches, around: _Around) -> None:
    """Hook the imported module, and what it has wrapped already.

    Args:
        module: ``opentelemetry.instrumentation.asyncpg``.
        patches: are told of what is replaced.
        around: given what tells of a function's arguments which connection is asked what, makes what replaces
            the function by one in which the span of the hold is current.

    Raises:
        AttributeError: it has changed.
    """
    instrumentor = module.AsyncPGInstrumentor
    _replace_wrappers(instrumentor, patches, around)
    for name, asked in _ASKED.items():
        if name in vars(instrumentor):
            patches.replace(instrumentor, name, around(asked))


def _replace_wrappers(instrumentor: Any, patches: Patches, around: _Around) -> None:
    from asyncpg.connection import Connection
    from asyncpg.cursor import Cursor, CursorIterator
    from asyncpg.prepared_stmt import PreparedStatement

    for cls in (Connection, Cursor, CursorIterator, PreparedStatement):
        for name, wrapper in list(vars(cls).items()):
            theirs: Any = getattr(wrapper, "_self_wrapper", None)
            if isinstance(getattr(theirs, "__self__", None), instrumentor):
                ours = wrapt.FunctionWrapper(wrapper.__wrapped__, around(_ASKED[theirs.__name__])(theirs))
                patches.replace(cls, name, functools.partial(_in_place_of, ours))


def _in_place_of(ours: Any, _original: Any) -> Any:
    return ours


def _asked_of_connection(*args: Any) -> tuple[Any, Any]:
    _function, connection, given, _kwargs = args[-4:]
    return connection, given[0] if given else None


def _asked_of_resource(*args: Any) -> tuple[Any, Any]:
    """A cursor or a prepared statement."""
    resource = args[-3]
    return resource._connection, resource._query


_ASKED: Final[dict[str, _Asked]] = {
    "_do_execute": _asked_of_connection,
    "_do_cursor_execute": _asked_of_resource,
    "_do_prepared_execute": _asked_of_resource,
}
"""The methods with which it wraps; their last arguments are those that wrapt gives to a wrapper."""

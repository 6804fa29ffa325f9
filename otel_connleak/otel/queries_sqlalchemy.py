"""Where OpenTelemetry's instrumentation of SQLAlchemy starts its query spans (L3).

It listens to each engine by a method that is bound when the engine is made. So the method is replaced when
the module has been imported. Engines that it listens to already cannot be given another listener while
threads use them; there the span of the hold is current a little longer, around what calls the listeners and
the driver.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from otel_connleak.drivers import unwrapped
from otel_connleak.patching import Patches

type _Asked = Callable[..., tuple[Any, Any]]
type _Around = Callable[[_Asked], Callable[[Any], Any]]


def hook(module: Any, patches: Patches, around: _Around) -> None:
    """Hook the imported module, and SQLAlchemy itself if there are engines that it listens to.

    Args:
        module: ``opentelemetry.instrumentation.sqlalchemy.engine``.
        patches: are told of what is replaced.
        around: given what tells of a function's arguments which connection is asked what, makes what replaces
            the function by one in which the span of the hold is current.

    Raises:
        AttributeError: it has changed.
    """
    tracer = module.EngineTracer
    patches.replace(tracer, "_before_cur_exec", around(_asked_of_listener))
    if getattr(tracer, "_remove_event_listener_params", ()):
        from sqlalchemy.engine import Connection

        for name, asked in _ASKED.items():
            if name in vars(Connection):
                patches.replace(Connection, name, around(asked))


def _asked_of_listener(
    _tracer: Any, connection: Any, _cursor: Any, statement: Any, *_: Any
) -> tuple[Any, Any]:
    return _asked(connection, statement)


def _asked(connection: Any, statement: Any) -> tuple[Any, Any]:
    """What a hold is of (as for SQLAlchemy's adapter), and what is asked of it first."""
    fairy = connection.connection
    adapted = unwrapped(fairy.dbapi_connection)
    found = getattr(adapted, "driver_connection", adapted)
    begins = found is not adapted and getattr(adapted, "_transaction", found) is None
    if begins and adapted.isolation_level != "autocommit":
        # SQLAlchemy itself begins a transaction of asyncpg now, before it runs the statement.
        statement = "BEGIN"
    return found if type(found).__weakrefoffset__ else fairy._connection_record, statement


_ASKED: Final[dict[str, _Asked]] = {
    "_exec_single_context": lambda connection, _dialect, context, *_: _asked(connection, context.statement),
    "_exec_insertmany_context": lambda connection, _dialect, context: _asked(connection, context.statement),
    "_cursor_execute": lambda connection, _cursor, statement, *_: _asked(connection, statement),
}
"""The methods of SQLAlchemy's connection that call the listeners, and then the driver."""

"""Django in the process of the tests: configured once, with the databases that each test asks for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import django
from django.conf import settings
from django.db import connections
from psycopg.conninfo import conninfo_to_dict


def postgresql(dsn: str, pool: object = None, **settings: Any) -> dict[str, Any]:
    """Django's settings of a database for a connection string; ``pool`` is its option."""
    parts: dict[str, Any] = conninfo_to_dict(dsn)
    options = {"options": parts["options"]} | ({"pool": pool} if pool else {})
    about = {"NAME": parts["dbname"], "USER": parts["user"], "HOST": parts["host"], "OPTIONS": options}
    return {"ENGINE": "django.db.backends.postgresql"} | about | settings


@contextmanager
def databases(**settings_of: dict[str, Any]) -> Iterator[None]:
    """Give Django these databases, by their alias, for the length of a ``with`` block."""
    if not settings.configured:
        settings.configure(USE_TZ=True, LOGGING_CONFIG=None)
        django.setup()
    connections.settings = connections.configure_settings(settings_of)
    try:
        yield
    finally:
        for alias in settings_of:
            wrapper = connections[alias]
            wrapper.close()
            if getattr(wrapper, "pool", None):
                wrapper.close_pool()
            del connections[alias]
        connections.settings = connections.configure_settings({})

"""The driver passes everything on to sqlite3, from a class of its own."""

import sqlite3
from typing import Any

from django.db.backends.sqlite3 import base


class Connection:
    """A connection of that driver; nothing shows that there is another one below."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        vars(self)["sqlite"] = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["sqlite"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["sqlite"], name, value)


class DatabaseWrapper(base.DatabaseWrapper):  # type: ignore[misc] # Django has no types
    """Connects with that driver."""

    vendor = "mysql"  # the driver that Django recommends for MySQL is not known here

    def get_new_connection(self, conn_params: Any) -> Connection:
        """Connect."""
        return Connection(super().get_new_connection(conn_params))

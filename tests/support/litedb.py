"""A DB-API module that no adapter knows, with a driver written in C: sqlite3 under another name.

Bound when this module is imported, which is before any instrumentation.
"""

from sqlite3 import (
    Connection,
    Error,
    Row,
    apilevel,
    connect,
    paramstyle,
    threadsafety,
)

__all__ = ["Connection", "Error", "Row", "apilevel", "connect", "paramstyle", "threadsafety"]

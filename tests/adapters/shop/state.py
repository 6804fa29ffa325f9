"""Connections in module state, as a service keeps a connection for its whole life."""

from typing import Any

connections: list[Any] = []
"""Whatever is kept for the life of the process."""


def warm_up(pool: Any) -> None:
    """Keep one more connection."""
    connections.append(pool.getconn())

"""Several activations of one function, of which one forgets; and what they leave in circles of references."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from psycopg_pool import ConnectionPool

from tests.corpus.stage import Stage

type Pool = ConnectionPool[Any]


class Export:
    """Writes customers in a format; its table of writers refers to itself."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.writers = {"csv": self.write_csv}

    def write_csv(self) -> str:
        """All customers."""
        rows = self.connection.execute("SELECT id, name FROM customers").fetchall()
        return "\n".join(f"{number},{name}" for number, name in rows)


class CustomerRepository:
    """Who buys."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def count_levels(self, level: int, progress: Callable[[int], None]) -> int:
        """One connection for each level of a tree; the lowest level forgets its own."""
        connection = self.pool.getconn()
        below = self.count_levels(level - 1, progress) if level else 0
        progress(level)
        if level == 0:
            return 0
        self.pool.putconn(connection)
        return below + 1

    def count_levels_carefully(self, level: int, progress: Callable[[int], None]) -> int:
        """One connection for each level of a tree."""
        connection = self.pool.getconn()
        try:
            below = self.count_levels_carefully(level - 1, progress) if level else 0
            progress(level)
            return below + 1
        finally:
            self.pool.putconn(connection)

    def export_levels(self, level: int, progress: Callable[[int], None]) -> None:
        """Exports from the lowest level, and forgets that connection in the export's own circle."""
        connection = self.pool.getconn()
        if level == 0:
            Export(connection).write_csv()
            return
        self.export_levels(level - 1, progress)
        progress(level)
        self.pool.putconn(connection)

    def save(self, name: str, saved: Callable[[str], None]) -> None:
        """Tells a listener, which may save something else; forgets the connection where there is no name."""
        connection = self.pool.getconn()
        if not name:
            return
        connection.execute("SELECT %s", [name])
        saved(name)
        self.pool.putconn(connection)

    def export(self) -> str:
        """Forgets to give back what the export has used."""
        return Export(self.pool.getconn()).writers["csv"]()

    def open_export(self) -> Export:
        """The caller closes it."""
        return Export(self.pool.getconn())


def run_without_collector() -> None:
    """As services do that cannot afford its pauses; what is there already need never be looked at."""
    gc.disable()
    gc.freeze()


def recursion_forgets_one(stage: Stage) -> None:
    """Of three activations of one function the innermost forgets; the others go on and give back."""
    CustomerRepository(stage.pool()).count_levels(2, lambda level: stage.wait(1.5) if level else stage.fact())


def recursion_leaves_one_in_a_circle(stage: Stage) -> None:
    """The innermost of three activations leaves its connection in a circle that nobody reaches."""
    run_without_collector()

    def progress(level: int) -> None:
        if level == 1:
            stage.fact()
        stage.wait(1.5)

    CustomerRepository(stage.pool()).export_levels(2, progress)


def recursion_gives_all_back(stage: Stage) -> None:
    """Three activations of one function hold for longer than the grace, and give back one by one."""
    CustomerRepository(stage.pool()).count_levels_carefully(2, lambda _: stage.wait(1.5))


def reentrant_call_forgets(stage: Stage) -> None:
    """A listener calls the same function again; that call forgets, the first one goes on."""
    repository = CustomerRepository(stage.pool(min_size=2))
    repository.pool.wait()

    def saved(_: str) -> None:
        stage.fact()
        repository.save("", saved)
        stage.wait()

    repository.save("Ada", saved)


def reentrant_calls_give_back(stage: Stage) -> None:
    """A listener calls the same function again, and both hold for a while."""
    repository = CustomerRepository(stage.pool())

    def saved(name: str) -> None:
        if name == "Ada":
            repository.save("Grace", saved)
        stage.wait()

    repository.save("Ada", saved)


def circle_is_collected(stage: Stage) -> None:
    """The connection is in a circle of references, which the collector finds at once."""
    run_without_collector()
    repository = CustomerRepository(stage.pool())
    repository.export()
    stage.fact()
    gc.collect()


def circle_is_never_collected(stage: Stage) -> None:
    """The connection is in a circle of references, in a service that runs without collector."""
    run_without_collector()
    repository = CustomerRepository(stage.pool())
    repository.export()
    stage.fact()


def circle_is_closed_late(stage: Stage) -> None:
    """The connection is in a circle of references; somebody has it, and gives back."""
    repository = CustomerRepository(stage.pool())
    export = repository.open_export()
    stage.wait()
    export.write_csv()
    repository.pool.putconn(export.connection)

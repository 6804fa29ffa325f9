"""Layers upon layers make one hold, that of the outermost; what a library keeps for itself is nobody's."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from psycopg_pool import ConnectionPool
from sqlalchemy.pool import NullPool, QueuePool

from tests.support.reports import GRACE, Reports
from tests.support.telemetry import Telemetry

LAYERS = ["psycopg", "psycopg2", "sqlite3", "psycopg_pool"]
"""What the pool of SQLAlchemy gets its connections from."""


@contextmanager
def engine_over(below: str, dsn: str, folder: Path, **options: Any) -> Iterator[sqlalchemy.Engine]:
    """An engine of SQLAlchemy over a driver, or over the pool of another library."""
    parameters = psycopg.conninfo.conninfo_to_dict(dsn)
    if below == "sqlite3":
        yield sqlalchemy.create_engine(f"sqlite:///{folder}/shop.db", **options)
    elif below == "psycopg_pool":
        with ConnectionPool(dsn, min_size=0, max_size=4, open=True, close_returns=True) as pool:
            yield sqlalchemy.create_engine("postgresql+psycopg://", creator=pool.getconn, **options)
    else:
        yield sqlalchemy.create_engine(f"postgresql+{below}://", connect_args=parameters, **options)


def query(engine: sqlalchemy.Engine) -> int:
    """A repository function that uses two connections of the engine correctly."""
    with engine.connect() as one, engine.connect() as two:
        first = one.execute(sqlalchemy.text("SELECT 1")).scalar_one()
        return int(first) + int(two.execute(sqlalchemy.text("SELECT 2")).scalar_one())


@pytest.mark.parametrize("below", LAYERS)
def test_sqlalchemy_connects_for_itself(below: str, dsn: str, tmp_path: Path, telemetry: Telemetry) -> None:
    """Each acquire is one hold; what SQLAlchemy's pool keeps open afterwards is no leak of its first user."""
    with telemetry.instrumented(grace=GRACE, overdue_after=GRACE):
        with engine_over(below, dsn, tmp_path, poolclass=QueuePool, pool_size=2) as engine:
            assert query(engine) == 3
            assert engine.pool.checkedin() == 2  # type: ignore[attr-defined]  # of QueuePool
            Reports(telemetry).none()
            engine.dispose()
        with engine_over(below, dsn, tmp_path, poolclass=NullPool) as engine:
            assert query(engine) == 3
            Reports(telemetry).none()
    assert [span.name for span in telemetry.spans("hold")] == ["hold query"] * 4
    pools = {(span.attributes or {})["db.client.connection.pool.name"] for span in telemetry.spans("hold")}
    assert len(pools) == 1

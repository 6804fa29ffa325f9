"""A connection that a library keeps for the application is nobody's direct connection."""

from typing import Any

import psycopg
import sqlalchemy
from sqlalchemy.pool import NullPool

from tests.support.reports import GRACE, Reports
from tests.support.telemetry import Telemetry


def engine_for(dsn: str, **options: Any) -> sqlalchemy.Engine:
    """An engine of SQLAlchemy on psycopg; its pool calls ``psycopg.connect``."""
    parameters = psycopg.conninfo.conninfo_to_dict(dsn)
    return sqlalchemy.create_engine("postgresql+psycopg://", connect_args=parameters, **options)


def query(engine: sqlalchemy.Engine) -> int:
    """A repository function that uses two connections of the engine correctly."""
    with engine.connect() as one, engine.connect() as two:
        first = one.execute(sqlalchemy.text("SELECT 1")).scalar_one()
        return int(first) + int(two.execute(sqlalchemy.text("SELECT 2")).scalar_one())


def test_a_pool_of_sqlalchemy_connects_for_itself(dsn: str, telemetry: Telemetry) -> None:
    """What SQLAlchemy's pool keeps open between requests is no leak of the function that came first."""
    with telemetry.instrumented(grace=GRACE, overdue_after=GRACE):
        engine = engine_for(dsn, pool_size=2)
        assert query(engine) == 3
        assert engine.pool.checkedin() == 2  # type: ignore[attr-defined]  # of QueuePool
        Reports(telemetry).none()
        engine.dispose()
        engine = engine_for(dsn, poolclass=NullPool)
        assert query(engine) == 3
        Reports(telemetry).none()
    assert telemetry.spans("hold") == []

"""The mapped classes and engines of the web shop. No theme of its own."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.corpus.stage import Stage

BEFORE = ["customer 1", "customer 2", "customer 3"]


class Base(DeclarativeBase):
    """What all mapped classes have in common."""


class Customer(Base):
    """Who buys."""

    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]


def engine_of(stage: Stage, **options: str) -> Engine:
    """An engine on psycopg."""
    return create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(stage.dsn), **options)


def async_engine_of(stage: Stage, driver: str, **options: str) -> AsyncEngine:
    """An engine on ``psycopg`` or ``asyncpg``."""
    parameters = stage.asyncpg if driver == "asyncpg" else conninfo_to_dict(stage.dsn)
    return create_async_engine(f"postgresql+{driver}://", connect_args=parameters, **options)

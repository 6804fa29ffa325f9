"""Which tests of which library are run, and how."""

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

SITE = Path(__file__).parent / "site"
"""Modules for the processes that run the tests: ``sitecustomize`` there switches us on."""

NEEDS = "needs"
"""The folder in a source into which what its tests need besides is installed."""

PYTEST = (
    "-m pytest -q --tb=short -p upstream_outcomes -p no:cacheprovider -p no:randomly "
    "--continue-on-collection-errors".split()
)


@dataclass(frozen=True)
class Suite:
    """One run of some tests of a library.

    Attributes:
        name: in the table, and for ``--only``.
        package: what the index calls it; the version is that which is installed.
        keeps: the parts of the source that are unpacked. Never the library: the installed one is tested.
        folder: where the tests are run, in the source.
        command: the arguments of Python, without the tests.
        tests: the tests, as the command takes them.
        environment: the variables for a server, of the parts of its connection string.
        needs: packages that the tests import and nobody else.
        prepare: statements that are run on the server before.
        known: tests that must differ.
    """

    name: str
    package: str
    keeps: tuple[str, ...]
    folder: str
    command: tuple[str, ...]
    tests: tuple[str, ...]
    environment: Callable[[dict[str, str]], dict[str, str]]
    needs: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()
    known: tuple[str, ...] = ()

    def narrowed(self, tests: Iterable[str]) -> tuple[str, ...]:
        """The files or packages that some of the tests are in."""
        separator = "." if "runtests.py" in self.command else "::"
        return tuple(sorted({test.partition(separator)[0] for test in tests}))

    def arguments(self, tests: tuple[str, ...], parts: dict[str, str]) -> list[str]:
        """The whole command line."""
        filled = [argument.format(**parts) for argument in self.command]
        return [sys.executable, *filled, *tests]


def parts_of(dsn: str) -> dict[str, str]:
    """Host, user and database of a connection string."""
    parts = conninfo_to_dict(dsn)
    return {"host": str(parts["host"]), "user": str(parts["user"]), "database": str(parts["dbname"])}


def base_environment(needs: Path) -> dict[str, str]:
    """Our environment without the variables of OpenTelemetry, and with the modules for the runs."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return inherited | {"PYTHONPATH": f"{SITE}{os.pathsep}{needs}"}


def _nothing(_parts: dict[str, str]) -> dict[str, str]:
    return {}


def _libpq(parts: dict[str, str]) -> dict[str, str]:
    return {"PGHOST": parts["host"], "PGUSER": parts["user"], "PGDATABASE": parts["database"]}


def _psycopg2(parts: dict[str, str]) -> dict[str, str]:
    return {
        "PSYCOPG2_TESTDB": parts["database"],
        "PSYCOPG2_TESTDB_HOST": parts["host"],
        "PSYCOPG2_TESTDB_USER": parts["user"],
    }


_SQLALCHEMY = (
    "test/engine/test_pool.py test/engine/test_transaction.py test/engine/test_execute.py "
    "test/engine/test_reconnect.py test/orm/test_session.py test/orm/test_transaction.py "
    "test/ext/asyncio".split()
)
_HAS_EXTENSION = """
    INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
    SELECT {0}, (ARRAY['citext', 'hstore'])[{0}], 10, 11, false, 'none'
"""
"""SQLAlchemy's tests create two extensions if they are not there. The embedded server has no such files, and
none of the tests that are run here uses one."""
_ASYNCPG = (
    "test_pool test_connect test_transaction test_cursor test_timeout test_cancellation test_prepare "
    "test_execute test_listeners test_copy".split()
)
_DJANGO = (
    "backends transactions transaction_hooks db_utils servers multiple_database select_for_update "
    "delete_regress test_utils asgi".split()
)


def _sqlalchemy(database: str, url: str) -> Suite:
    # With -s its tests take the installed SQLAlchemy, not the one beside them, which is not compiled.
    command = ("-s", *PYTEST, "--maxfail=0", "--dburi", url)
    return Suite(
        f"sqlalchemy-{database}",
        "sqlalchemy",
        ("test", "lib", "setup.cfg", "pyproject.toml"),
        ".",
        command,
        tuple(_SQLALCHEMY),
        _nothing,
        prepare=(
            "CREATE SCHEMA test_schema",
            "CREATE SCHEMA test_schema_2",
            *map(_HAS_EXTENSION.format, (1, 2)),
        ),
    )


def _django_on(database: str) -> Suite:
    command = ("runtests.py", "--settings=upstream_django", "--parallel=1", "--verbosity=0")

    def environment(parts: dict[str, str]) -> dict[str, str]:
        return {
            "UPSTREAM_DATABASE": database,
            "UPSTREAM_HOST": parts["host"],
            "UPSTREAM_USER": parts["user"],
        }

    return Suite(f"django-{database}", "django", ("tests",), "tests", command, tuple(_DJANGO), environment)


SUITES = (
    _sqlalchemy("sqlite", "sqlite:///:memory:"),
    _sqlalchemy("aiosqlite", "sqlite+aiosqlite:///:memory:"),
    _sqlalchemy("psycopg", "postgresql+psycopg://{user}@/{database}?host={host}"),
    _sqlalchemy("psycopg2", "postgresql+psycopg2://{user}@/{database}?host={host}"),
    _sqlalchemy("asyncpg", "postgresql+asyncpg://{user}@/{database}?host={host}"),
    Suite(
        "asyncpg",
        "asyncpg",
        ("tests", "pyproject.toml"),
        ".",
        tuple(PYTEST),
        tuple(f"tests/{name}.py" for name in _ASYNCPG),
        _libpq,
        ("distro",),
    ),
    Suite(
        "psycopg2",
        "psycopg2-binary",
        ("tests",),
        ".",
        tuple(PYTEST),
        ("tests",),
        _psycopg2,
        # It compares the type of a cursor: that is a subclass of ours, of the same name.
        known=("tests/test_connection.py::ConnectionTests::test_cursor_factory_none",),
    ),
    _django_on("sqlite"),
    _django_on("postgresql"),
    _django_on("pool"),
)

"""Which modules are never the owner of a hold: drivers, pools, ORMs, frameworks, instrumentation (L0).

Decided by module name, never by path: applications are often installed into site-packages themselves.
"""

from typing import Final

INFRASTRUCTURE: Final = frozenset(
    # ours, and what wraps a driver
    "otel_connleak opentelemetry wrapt ddtrace sentry_sdk newrelic elasticapm logfire pyinstrument "
    # drivers and pools
    "psycopg psycopg_c psycopg_binary psycopg_pool psycopg2 asyncpg aiopg sqlite3 aiosqlite pymysql aiomysql "
    "MySQLdb mysql mariadb oracledb cx_Oracle pyodbc pymssql dbutils DBUtils asyncmy aioodbc "
    # what knows no database
    "jinja2 markupsafe blinker itsdangerous packaging psutil certifi idna charset_normalizer urllib3 "
    "requests httpx httpcore h11 h2 google grpc yaml numpy pandas scipy attr attrs cattrs msgpack orjson "
    "ujson simplejson lxml PIL boto3 botocore cryptography jwt dateutil pytz typing_extensions "
    "importlib_metadata cython_runtime sitecustomize usercustomize "
    # what only passes a call on
    "greenlet gevent eventlet uvloop anyio sniffio trio outcome tenacity "
    "_pytest pytest pluggy pytest_asyncio coverage".split()
)
"""Modules that are skipped always: there is no repository function in them."""

FRAMEWORKS: Final = frozenset(
    # object-relational mappers
    "sqlalchemy sqlmodel django peewee playhouse tortoise pony ormar piccolo gino alembic "
    "flask_sqlalchemy django_filters rest_framework "
    # web frameworks and servers
    "flask werkzeug starlette fastapi uvicorn hypercorn gunicorn waitress cheroot bottle falcon sanic quart "
    "tornado aiohttp pyramid litestar blacksheep robyn granian meinheld uwsgi connexion strawberry ariadne "
    "graphene grpc grpclib a2wsgi asgiref "
    # workers and schedulers
    "celery kombu billiard vine rq dramatiq huey arq taskiq apscheduler faust "
    # dependency injection and validation
    "dependency_injector injector pydantic pydantic_core click typer".split()
)
"""Modules that are skipped too, but rather than name nobody a report names the nearest function in them."""

CONNECTION_KEEPERS: Final = frozenset(
    "psycopg_pool sqlalchemy django peewee playhouse dbutils DBUtils tortoise piccolo ormar pony "
    # caches and files that happen to be SQLite databases
    "coverage dbm diskcache huey IPython requests_cache sqlitedict".split()
)
"""Libraries that connect on their own account and keep the connection: the application does not hold it."""

EVENT_LOOPS: Final = frozenset({"asyncio.events", "asyncio.base_events", "asyncio.runners", "uvloop"})
"""Where the frames of a task end: what is further up belongs to whoever runs the loop, not to the task."""

GREENLET_BRIDGES: Final = frozenset({"sqlalchemy"})
"""Libraries whose greenlets run synchronous code for the coroutine that waits for it."""

ACQUIRES_FOR_CALLER: Final = frozenset({"__enter__", "__aenter__", "__init__", "__new__", "__await__"})
"""Methods whose caller is the owner: it wrote the ``with``, or made the object that keeps the connection."""

SCOPES: Final = frozenset({"sqlalchemy.util._collections.ScopedRegistry"})
"""Classes whose objects keep something for each task or request, and not for whoever can reach them."""

NO_CARRIERS: Final = frozenset(
    "sqlalchemy.engine.base.Engine sqlalchemy.event.base sqlalchemy.orm.identity "
    "sqlalchemy.orm.instrumentation sqlalchemy.orm.mapper sqlalchemy.orm.state sqlalchemy.sql.schema".split()
)
"""Classes, or modules of classes, whose objects refer to very many others that carry no connection."""

"""Who is asking: which frame of a stack owns what is acquired, and how it is called."""

import asyncio
import sysconfig
import types
from pathlib import Path
from typing import Any

import pytest

from tests.support.world import World, alone

STDLIB = sysconfig.get_path("stdlib")
SITE_PACKAGES = sysconfig.get_path("purelib")
SCRIPTS = sysconfig.get_path("scripts")


@pytest.mark.parametrize(
    "library",
    [
        "psycopg",
        "psycopg_pool.pool",
        "sqlalchemy.orm.session",
        "django.db.backends.base",
        "starlette.routing",
        "opentelemetry.instrumentation.dbapi",
        "wrapt.wrappers",
        "otel_connleak.adapters.psycopg",
        "greenlet",
        ("functools", f"{STDLIB}/functools.py"),
        ("concurrent.futures.thread", f"{STDLIB}/concurrent/futures/thread.py"),
        ("importlib._bootstrap", "<frozen importlib._bootstrap>"),
    ],
)
def test_libraries_are_never_the_owner(library: str | tuple[str, str]) -> None:
    """Drivers, pools, frameworks, instrumentation and the standard library pass the question on."""
    assert World().stack("shop.api", "shop.repositories", library, library) == "shop.repositories.f"


@pytest.mark.parametrize(
    "module",
    [
        ("shop.repositories", f"{SITE_PACKAGES}/shop/repositories.py"),
        ("shop.repositories", f"{STDLIB}/site-packages/shop/repositories.py"),
        ("queue", "/srv/shop/queue.py"),
        ("platform.repositories", f"{SITE_PACKAGES}/platform/repositories.py"),
        ("psycopg_like", "/srv/psycopg_like.py"),
        ("flaskr.db", "/srv/flaskr/db.py"),
    ],
)
def test_applications_with_unlikely_names(module: tuple[str, str]) -> None:
    """An application is installed like a library, or is called like a standard module: it is the owner."""
    assert World().stack("shop.api", module, "psycopg") == f"{module[0]}.f"


def run_as_main(world: World, file: str, spec: str | None = None) -> str:
    """The owner where the main program acquires through a driver."""
    driver = world.module("psycopg", "def f():\n    return acquire()")
    names = {"called": driver.f, "__spec__": types.SimpleNamespace(name=spec) if spec else None}
    main = world.module("__main__", "def f():\n    return called()", file, **names)
    owner: str = alone(main.f)
    return owner


def test_main_program() -> None:
    """A script is ``__main__``; ``python -m`` gives it the name of its module."""
    assert run_as_main(World(), "/srv/app.py") == "__main__.f"
    assert run_as_main(World(), "/srv/shop/tool.py", "shop.tool") == "shop.tool.f"
    assert run_as_main(World(), "/srv/shop/__main__.py", "shop.__main__") == "shop.f"


def test_main_program_of_a_library() -> None:
    """A console script and ``python -m gunicorn`` are their library's: nobody owns, and a name is found."""
    world = World()
    assert run_as_main(world, f"{SCRIPTS}/gunicorn") != "__main__.f"
    assert world.origins[-1][1] == 0
    assert run_as_main(World(), f"{SITE_PACKAGES}/gunicorn/__main__.py", "gunicorn.__main__") == "gunicorn.f"


@pytest.mark.parametrize(
    ("repository", "owner"),
    [
        ("shop.repositories.*", "shop.repositories.customers.f"),
        ("shop.services", "shop.services.f"),
        ("shop.db,shop.services", "shop.db.f"),
        ("no.such.*", "shop.db.f"),
        ("", "shop.db.f"),
    ],
)
def test_repository_layer(repository: str, owner: str) -> None:
    """The nearest frame in the repository layer wins, where there is one on the stack."""
    world = World(repository=repository)
    stack = (
        "shop.api",
        "shop.services",
        "shop.repositories.customers",
        "sqlalchemy.orm",
        "shop.db",
        "psycopg",
    )
    assert world.stack(*stack) == owner
    assert world.stack(*stack) == owner, "and a second time, from what is remembered"


def test_library_modules() -> None:
    """The user's own libraries are skipped, with what is below them, but not what is called similarly."""
    world = World(library_modules="company.db, toolbox.*")

    assert world.stack("shop", "company.db.pool", "company.db") == "shop.f"
    assert world.stack("shop", "toolbox.sql") == "shop.f"
    assert world.stack("shop", "company.dbx") == "company.dbx.f"
    assert world.stack("shop", "toolbox") == "toolbox.f"


def test_modules_with_an_adapter() -> None:
    """What an adapter is for is skipped as well, and nothing else of an application."""
    world = World()
    assert world.stack("shop.api", "shop.pools.steady", "shop.pools") == "shop.pools.f"
    world.callsites.add_library("shop.pools")
    world.callsites.add_library("sqlalchemy")

    assert world.stack("shop.api", "shop.pools.steady", "shop.pools") == "shop.api.f"
    assert world.stack("shop", "shop.poolside") == "shop.poolside.f"
    assert world.stack("sqlalchemy.pool", "psycopg") == "sqlalchemy.pool.f", (
        "a framework gives its name, as ever"
    )


def test_only_libraries_on_the_stack() -> None:
    """Then the nearest frame of a framework gives the name, or else the nearest of all, and nobody owns."""
    world = World()

    assert world.stack("gunicorn.arbiter", "celery.worker", "django.db", "psycopg") == "django.db.f"
    assert world.stack("opentelemetry.sdk", "psycopg_pool.pool") == "psycopg_pool.pool.f"
    assert [(owner, code) for _, owner, code, _ in world.origins] == [(0, None)] * 2


def test_task_ends_at_its_event_loop() -> None:
    """Whoever runs the loop does not own what a task acquires; within a task the application does."""
    world = World()
    library = world.module("psycopg_pool.pool", "async def work():\n    return acquire()")
    application = world.module("shop.db", "async def work():\n    return await called()", called=library.work)

    async def main(work: Any) -> str:
        owner: str = await asyncio.create_task(work())
        return owner

    assert asyncio.run(main(library.work)) == "psycopg_pool.pool.work"
    assert world.origins[-1][1] == 0
    assert asyncio.run(main(application.work)) == "shop.db.work"
    assert world.callsites.next_owner(None) is None


HELPERS = """
import contextlib

@contextlib.contextmanager
def helper():
    yield acquire()

@contextlib.contextmanager
def outer():
    with helper() as owner:
        yield owner

@contextlib.asynccontextmanager
async def async_helper():
    yield acquire()

class Session:
    def __init__(self):
        self.owner = acquire()

class Unit:
    def __enter__(self):
        return self.begin()

    def begin(self):
        return acquire()

    def __exit__(self, *_):
        pass

    async def __aenter__(self):
        return acquire()

    async def __aexit__(self, *_):
        pass

class Entered(Unit):
    def __enter__(self):
        return acquire()

def generator():
    yield acquire()
"""
USES = """
import asyncio, contextlib

def with_helper():
    with helper() as owner:
        return owner

def with_outer():
    with outer() as owner:
        return owner

def with_stack():
    with contextlib.ExitStack() as stack:
        return stack.enter_context(helper())

def with_object():
    with Entered() as owner:
        return owner

def with_session():
    return Session().owner

def with_async_helper():
    async def uses():
        async with async_helper() as owner:
            return owner
    return asyncio.run(uses())

def with_async_object():
    async def uses():
        async with Unit() as owner:
            return owner
    return asyncio.run(uses())

def with_decorator():
    owners = []
    @contextlib.contextmanager
    def sessions():
        owners.append(acquire())
        yield
    @sessions()
    def decorated():
        return owners[0]
    return decorated()
"""
OWNERS = {
    "with_helper": "shop.uses.with_helper",
    "with_outer": "shop.uses.with_outer",
    "with_stack": "shop.uses.with_stack",
    "with_object": "shop.uses.with_object",
    "with_session": "shop.uses.with_session",
    "with_async_helper": "shop.uses.with_async_helper.uses",
    "with_async_object": "shop.uses.with_async_object.uses",
    "with_decorator": "shop.uses.with_decorator",
}


@pytest.mark.parametrize("function", OWNERS)
@pytest.mark.parametrize("times", [1, 2])
def test_helpers_acquire_for_their_caller(function: str, times: int) -> None:
    """A context manager, ``__enter__`` and ``__init__`` acquire for whoever uses them, every time."""
    world = World()
    helpers = vars(world.module("shop.helpers", HELPERS))
    names = {name: helpers[name] for name in helpers if not name.startswith("__")}
    uses = world.module("shop.uses", USES, **names)
    for _ in range(times):
        owner = getattr(uses, function)()

    assert owner == OWNERS[function]
    (site, frame, code, _) = world.origins[-1]
    assert (site.file, bool(frame), code is not None) == ("/srv/shop/uses.py", True, True)


def test_helper_without_a_caller() -> None:
    """Where there are only helpers, the nearest of them has to answer."""
    world = World()
    helpers = world.module("shop.helpers", HELPERS)

    assert alone(helpers.Session).owner == "shop.helpers.Session.__init__"


def test_generator_that_no_context_manager_drives() -> None:
    """A generator that is iterated owns what it acquires, and hands it on when it yields it."""
    assert next(World().module("shop.helpers", HELPERS).generator()) == "shop.helpers.generator"


def test_standard_modules_of_this_interpreter() -> None:
    """What is in the standard library's folder is told by its file, also through a link to it."""
    world = World()
    assert world.callsites.is_application_module("queue", {"__file__": f"{STDLIB}/queue.py"}) is False
    assert world.callsites.is_application_module("shop", {"__file__": str(Path("/srv/shop.py"))}) is True
    assert world.callsites.is_application_module("shop2", {}) is True
    assert world.callsites.is_application_module("flask", {}) is False

"""What is remembered of a call site: computed once, bounded, and enough for a report."""

import sys
import sysconfig
import threading
import weakref
from types import FrameType

import pytest

from otel_connleak.claim import StackFrame
from tests.support.world import World

BOUND = 10_000
NAMES = """
class Repository:
    def method(self):
        return acquire()

    @staticmethod
    def static():
        return acquire()

    class Inner:
        @classmethod
        def make(cls):
            return acquire()

def function():
    def nested():
        return acquire()
    return nested()

def in_lambda():
    return (lambda: acquire())()

def in_generator_expression():
    return next(acquire() for _ in range(1))

def two_lines():
    first = acquire()
    return acquire()
"""


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("Repository().method()", "Repository.method"),
        ("Repository.static()", "Repository.static"),
        ("Repository.Inner.make()", "Repository.Inner.make"),
        ("function()", "function.nested"),
        ("in_lambda()", "in_lambda.<lambda>"),
        ("in_generator_expression()", "in_generator_expression.<genexpr>"),
    ],
)
def test_names(call: str, name: str) -> None:
    """Module, class and function, as the reader of the source would say."""
    world = World()
    module = world.module("shop.repositories", NAMES)
    assert eval(call, vars(module)) == f"shop.repositories.{name}"
    assert world.origins[0][0].short == name


def test_origin() -> None:
    """The owner is this very activation: its frame, its code, the line of the acquire, the stack above."""
    world = World()
    frames: list[FrameType] = []
    source = "def f():\n    frames.append(_getframe())\n    return acquire()"
    module = world.module("shop.db", source, frames=frames, _getframe=sys._getframe)
    module.f()
    (site, owner, code, stack) = world.origins[0]

    assert (site.file, site.line) == ("/srv/shop/db.py", 3)
    assert (owner, code) == (id(frames[0]), module.f.__code__)
    assert stack[0] is code
    assert len(stack) == 10


def test_a_site_is_computed_once() -> None:
    """The same place is the same object for all its holds; another line is another place."""
    world = World()
    module = world.module("shop.repositories", NAMES)
    for _ in range(3):
        module.two_lines()
    sites = [origin[0] for origin in world.origins]

    assert sites[0] is sites[2] is sites[4]
    assert sites[1] is sites[3] is sites[5]
    assert (sites[0].function, sites[0].line + 1) == (sites[1].function, sites[1].line)


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("shop.repositories.Repository.method", True),
        ("shop.repositories", True),
        ("shop.*", True),
        ("Repository.*", True),
        ("*.Inner.*", False),
        ("repositories", False),
        ("shop.repositories.repository.method", False),
    ],
)
def test_patterns_for_functions(pattern: str, fits: bool) -> None:
    """``IGNORE`` and ``LONG_LIVED`` fit the whole name, the short name and the module."""
    world = World(ignore=pattern)
    world.module("shop.repositories", NAMES).Repository().method()
    assert world.origins[0][0].ignored is fits
    assert not world.origins[0][0].long_lived
    world = World(long_lived=pattern)
    world.module("shop.repositories", NAMES).Repository().method()
    assert world.origins[0][0].long_lived is fits


def test_frames_for_a_report() -> None:
    """Of the five nearest frames from the owner upwards those of the application, nearest first."""
    world = World()
    framework = ("functools", f"{sysconfig.get_path('stdlib')}/functools.py")
    world.stack(
        "shop.far", "shop.main", "shop.api", framework, "shop.services", "shop.repositories", "psycopg"
    )
    frames = list(world.callsites.frames(world.origins[0][3]))

    assert frames == [
        StackFrame("f", "/srv/shop/repositories.py", 2),
        StackFrame("f", "/srv/shop/services.py", 2),
        StackFrame("f", "/srv/shop/api.py", 2),
        StackFrame("f", "/srv/shop/main.py", 2),
    ]


def test_stack_that_is_short() -> None:
    """A stack of fewer frames is all of them."""
    world = World()
    for depth in range(1, 6):
        world.stack(*(f"shop.m{number}" for number in range(depth)))
        frames = list(world.callsites.frames(world.origins[-1][3]))
        assert [frame.file for frame in frames][:depth] == [
            f"/srv/shop/m{number}.py" for number in reversed(range(depth))
        ]


def test_memory_is_bounded() -> None:
    """An application that makes code again and again, with names of its own, does not grow the process."""
    world = World()
    codes = []
    for number in range(BOUND + 10):
        module = world.module(f"generated_{number}", "def f():\n    return acquire()")
        module.f()
        world.origins.clear()
        if number in (0, 1):
            codes.append(weakref.ref(module.f.__code__))

    assert all(len(cache) <= BOUND for cache in vars(world.callsites).values() if isinstance(cache, dict))
    assert [code() for code in codes] == [None, None]
    assert module.f() == f"generated_{BOUND + 9}.f"


def test_module_without_a_name() -> None:
    """Code that was given an odd namespace is located without an error."""
    world = World()
    for namespace in ({}, {"__name__": None}, {"__name__": "shop", "__file__": 4711}, {"__spec__": 1}):
        scope = {"acquire": world.acquire, **namespace}
        exec("def f():\n    return acquire()", scope)
        assert scope["f"]().endswith(".f")  # type: ignore[operator] # a function


def test_threads_share_what_is_remembered() -> None:
    """Many threads that acquire at the same place get one site."""
    world = World()
    module = world.module("shop.repositories", NAMES)
    threads = [threading.Thread(target=module.function) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    module.function()
    assert world.origins[-1][0] in [origin[0] for origin in world.origins[:-1]]
    assert {origin[0].function for origin in world.origins} == {"shop.repositories.function.nested"}


def test_forget() -> None:
    """After a fork sites are found anew, with empty totals."""
    world = World()
    module = world.module("shop.repositories", NAMES)
    module.function()
    world.callsites.forget()
    module.function()
    assert world.origins[0][0] is not world.origins[1][0]

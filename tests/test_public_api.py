"""What users build on, as text: a change of it is seen in a review, and never happens by accident.

To accept a change: ``python -m tests.test_public_api``, then look at the difference.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

import otel_connleak
from otel_connleak import names
from otel_connleak.config import Settings, variable

SNAPSHOTS = Path(__file__).parent / "snapshots"


def public_api() -> Iterator[str]:
    """Every public name, with its signature, and the fields or the methods of a class."""
    for name in sorted(otel_connleak.__all__):
        thing = getattr(otel_connleak, name)
        if isinstance(thing, str):
            yield f"{name}: str"
        elif is_dataclass(thing):
            yield f"class {name}"
            yield from (f"    {field.name}: {field.type}" for field in fields(thing))
        elif inspect.isclass(thing):
            yield f"class {name}{inspect.signature(thing)}"
            for method, function in sorted(vars(thing).items()):
                if inspect.isfunction(function) and not method.startswith("_"):
                    yield f"    {method}{inspect.signature(function)}"
        else:
            yield f"{name}{inspect.signature(thing)}"


def emitted_names() -> Iterator[str]:
    """Every name that leaves the process: attributes, metrics, events, spans."""
    yield from (f"{name} = {value}" for name, value in sorted(vars(names).items()) if name.isupper())


def settings() -> Iterator[str]:
    """Every setting, with its variable and its default."""
    for field in fields(Settings):
        default = sorted(field.default) if isinstance(field.default, frozenset) else field.default
        yield f"{field.name} {variable(field.name)} = {default!r}"


TEXTS: dict[str, Callable[[], Iterator[str]]] = {
    "public_api.txt": public_api,
    "emitted_names.txt": emitted_names,
    "settings.txt": settings,
}


def text_of(name: str) -> str:
    """The text of a snapshot as it is now."""
    return "\n".join(TEXTS[name]()) + "\n"


@pytest.mark.parametrize("name", TEXTS)
def test_snapshot(name: str) -> None:
    """Nothing has changed unseen; if it should, run ``python -m tests.test_public_api``."""
    assert text_of(name) == (SNAPSHOTS / name).read_text(encoding="utf-8")


def test_everything_public_is_documented() -> None:
    """Each public name has a docstring of its own."""
    things = [getattr(otel_connleak, name) for name in otel_connleak.__all__ if name != "__version__"]
    assert [thing.__name__ for thing in things if not thing.__doc__] == []


def test_unknown_name() -> None:
    """A name that is not public is missing in the ordinary way."""
    with pytest.raises(AttributeError, match="module 'otel_connleak' has no attribute 'no_such_name'"):
        _ = otel_connleak.no_such_name


if __name__ == "__main__":
    for snapshot in TEXTS:
        (SNAPSHOTS / snapshot).write_text(text_of(snapshot), encoding="utf-8")

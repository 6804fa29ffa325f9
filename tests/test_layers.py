"""The shape of the package (DESIGN section 3), read from its imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import otel_connleak

PACKAGE = Path(otel_connleak.__file__).parent
LAYERS = [
    # L0: words, and what needs nothing but words. The order within it:
    "version names verbs libraries native references collector connection",
    "hold",
    "nested",
    "frames value_stack",
    "search",
    "guard claim config fingerprints private_folder totals",
    "listeners pending singletons",
    # L1: who is asking, what is open, and what is asked of the interpreter
    "callsite blocks tracking threads watchdog reach awaiter nesting patching statements expect runtime",
    "drivers",
    "row_status",
    "drivers.* failures kept monitor",
    "transactions holding",
    "registry",
    "call_hooks prepared server_cursors who",
    "holds_socket snapshot",
    "describe django_blocks finalizers hooks pools pep249 reconnecting sqlalchemy_calls sqlalchemy_streams",
    "asyncpg_calls psycopg2_classes sqlalchemy_transactions",
    # L2: facts, verdict, report, libraries
    "evidence evidence.* leak report adapters adapters.*",
    "unnecessary",
    # L3: what leaves the process through OpenTelemetry
    "otel otel.attributes otel.belonging otel.calls otel.dbapi_proxies",
    "otel.queries_asyncpg otel.queries_sqlalchemy",
    "otel.spans otel.processor otel.metrics otel.histograms otel.events otel.queries otel.dbapi",
    # L4: the only place where things are wired
    "engine",
    "instrumentor",
    # L5: what people and programs call; the package itself comes last, because it offers all of it
    "api cli.process cli.holds_table",
    "cli.asking",
    "cli.remote",
    "cli.holds",
    "cli",
    "__init__",
]
"""A file imports only from the lines above its own, and the package that it is in."""


def rank(module: str) -> int:
    """The line of a module, by its name without the package's."""
    family = f"{module.partition('.')[0]}.*"
    found = [
        number
        for number, line in enumerate(LAYERS)
        if module in line.split() or ("." in module and family in line.split())
    ]
    assert len(found) == 1, f"{module} is in no layer, or in several: {found}"
    return found[0]


def files() -> dict[str, Path]:
    """All files of the package by module name: ``hold``, ``evidence.exits``, ``evidence`` for a package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


FILES = files()


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, by its full name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            module = node.module or ""
            for alias in node.names:
                # ``from otel_connleak import names`` imports a module, not a part of the package.
                inner = f"{module}.{alias.name}".removeprefix("otel_connleak.")
                yield f"otel_connleak.{inner}" if inner in FILES else module


def ours(path: Path) -> set[str]:
    """The modules of the package that a file imports, without the package's name."""
    names = {name for name in imports(path) if name.partition(".")[0] == "otel_connleak"}
    return {name.removeprefix("otel_connleak").removeprefix(".") or "__init__" for name in names}


@pytest.mark.parametrize("module", FILES)
def test_imports_from_above(module: str) -> None:
    """A file imports only from layers above; siblings do not import each other."""
    parent = module.rpartition(".")[0]
    wrong = [name for name in ours(FILES[module]) if not (name == parent or rank(name) < rank(module))]
    assert wrong == []


@pytest.mark.parametrize("module", FILES)
def test_opentelemetry_stays_at_the_edge(module: str) -> None:
    """Below L3 nothing knows OpenTelemetry: detection works without it."""
    if module in ("engine", "instrumentor") or module.partition(".")[0] == "otel":
        return
    assert [name for name in imports(FILES[module]) if name.partition(".")[0] == "opentelemetry"] == []


def test_every_layer_is_used() -> None:
    """The list above names no file that does not exist."""
    named = {name for line in LAYERS for name in line.split() if not name.endswith(".*")}
    assert named <= set(FILES)


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("adapters.")])
def test_adapter_is_one_file(module: str) -> None:
    """Nothing in the package imports an adapter: it is found through its entry point."""
    assert [other for other, path in FILES.items() if module in ours(path)] == []


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function without its docstring."""
    first = function.body[0]
    docstring = isinstance(first, ast.Expr) and ast.get_docstring(function) is not None
    skipped = (first.end_lineno or 0) - first.lineno + 1 if docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - skipped


@pytest.mark.parametrize("module", FILES)
def test_files_are_small(module: str) -> None:
    """At most 300 lines a file and 45 a function; the module's docstring begins with a sentence."""
    text = FILES[module].read_text(encoding="utf-8")
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]

    assert text.count("\n") <= 300
    assert [function.name for function in functions if length(function) > 45] == []
    assert (ast.get_docstring(tree) or "").partition("\n")[0].endswith(".")

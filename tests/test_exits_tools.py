"""`sys.monitoring` is shared: with other tools, with coverage, and it is given back as it was."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType

import pytest

from otel_connleak.names import INSTRUMENTATION
from tests.support import toy
from tests.support.core import Core
from tests.support.telemetry import Telemetry
from tests.support.toy import ToyPool

GRACE = 5.0
OURS = (4, 3, 5)
"""The ids that may be ours, in this order: the others are reserved for debuggers, coverage and profilers."""

monitoring = sys.monitoring


def forgets(pool: ToyPool) -> None:
    """Returns without releasing."""
    toy.park(pool.getconn())


@pytest.fixture
def core() -> Iterator[Core]:
    """The core, with `sys.monitoring` not yet switched on."""
    yield Core(evidence="function_exited")
    toy.forget()


@contextmanager
def taken(*tools: int) -> Iterator[None]:
    """Ids that other tools have taken."""
    for tool in tools:
        monitoring.use_tool_id(tool, f"tool {tool}")
    try:
        yield
    finally:
        for tool in tools:
            monitoring.free_tool_id(tool)


def watches(core: Core) -> bool:
    """Whether an exit is noticed."""
    before = len(core.reports)
    forgets(core.pool)
    core.after(GRACE)
    return len(core.reports) == before + 1


@pytest.mark.parametrize("number", range(3))
def test_next_free_id(core: Core, number: int) -> None:
    """Where an id is taken, the next one does as well."""
    with taken(*OURS[:number]), core.watching_exits():
        assert monitoring.get_tool(OURS[number]) == INSTRUMENTATION
        assert watches(core)
    assert monitoring.get_tool(OURS[number]) is None


def test_all_ids_taken(core: Core) -> None:
    """Then the evidence is off, with a reason that names who has them."""
    with taken(*OURS):
        reason = core.exits.install()
        assert reason == "all free tool ids of sys.monitoring are taken (tool 4, tool 3, tool 5)"
        assert not watches(core)
        core.exits.uninstall()
        assert [monitoring.get_tool(tool) for tool in OURS] == ["tool 4", "tool 3", "tool 5"]


def test_one_warning_when_it_is_off(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    """The instrumentation starts without this evidence, and says so once."""
    with taken(*OURS), telemetry.instrumented():
        pass
    reason = "all free tool ids of sys.monitoring are taken (tool 4, tool 3, tool 5)"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"evidence function_exited is off: {reason}")
    ]


def test_no_id_is_taken_when_switched_off(telemetry: Telemetry) -> None:
    """Where the user does not want this evidence, nothing is installed."""
    with telemetry.instrumented(evidence="overdue"):
        assert INSTRUMENTATION not in {monitoring.get_tool(tool) for tool in range(6)}


def test_install_is_idempotent(core: Core) -> None:
    """Installing twice takes one id; uninstalling twice frees it once, with all events off."""
    events = monitoring.events
    with core.watching_exits():
        assert core.exits.install() is None
        assert watches(core)
        tools = [monitoring.get_tool(tool) for tool in range(6)]
        assert tools.count(INSTRUMENTATION) == 1
        assert monitoring.get_events(4) == events.PY_UNWIND
        assert monitoring.get_local_events(4, forgets.__code__) == events.PY_RETURN
    core.exits.uninstall()

    with taken(4):
        assert monitoring.get_events(4) == events.NO_EVENTS
        assert monitoring.get_local_events(4, forgets.__code__) == events.NO_EVENTS
        for event in (events.PY_RETURN, events.PY_YIELD, events.PY_UNWIND):
            assert monitoring.register_callback(4, event, None) is None


def test_nothing_is_switched_on_before_the_first_hold(core: Core) -> None:
    """A process that acquires nothing pays nothing, not even for its exceptions."""
    with core.watching_exits():
        assert monitoring.get_events(4) == monitoring.events.NO_EVENTS


@pytest.mark.parametrize("tool", [0, 1, 2, 5])
def test_beside_another_tool(core: Core, tool: int) -> None:
    """Another tool on the same code sees all that it asked for, also when it silences places of its own."""
    seen: list[str] = []

    def started(code: CodeType, _offset: int) -> object:
        seen.append(f"start {code.co_name}")
        return None

    def returned(code: CodeType, _offset: int, _value: object) -> object:
        seen.append(f"return {code.co_name}")
        return monitoring.DISABLE

    events = monitoring.events
    with taken(tool), core.watching_exits():
        monitoring.register_callback(tool, events.PY_START, started)
        monitoring.register_callback(tool, events.PY_RETURN, returned)
        monitoring.set_local_events(tool, forgets.__code__, events.PY_START | events.PY_RETURN)
        assert watches(core)
        assert watches(core)
        core.exits.uninstall()
        monitoring.restart_events()
        forgets(core.pool)
        monitoring.set_local_events(tool, forgets.__code__, events.NO_EVENTS)

    assert seen == ["start forgets", "return forgets", "start forgets", "start forgets", "return forgets"]


PROGRAM = """
import sys
from tests.support import toy
from tests.support.core import Core

def forgets(pool):
    toy.park(pool.getconn())

def fails(pool):
    toy.park(pool.getconn())
    raise ValueError

core = Core(evidence="function_exited")
with core.watching_exits():
    for _ in range(2):
        forgets(core.pool)
        try:
            fails(core.pool)
        except ValueError:
            pass
    core.after(5.0)
    print(sys.monitoring.get_tool(1), [leak.short for leak in core.reports])
"""


COVERAGE = [sys.executable, "-m", "coverage"]


def run_in(folder: Path, *command: str) -> str:
    """Run a command with coverage.py's core for `sys.monitoring`; gives what it says."""
    env = os.environ | {"COVERAGE_CORE": "sysmon", "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.run(command, env=env, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_under_coverage(tmp_path: Path) -> None:
    """coverage.py's own use of `sys.monitoring` and ours do not disturb each other."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    said = run_in(tmp_path, *COVERAGE, "run", f"--include={program}", str(program))
    measured = run_in(tmp_path, *COVERAGE, "report", "--format=total")

    assert said.strip() == "coverage.py ['forgets', 'fails', 'forgets', 'fails']"
    assert measured.strip() == "100"


def test_under_pytest_cov(tmp_path: Path) -> None:
    """The same inside of a test session that measures its coverage."""
    functions, start, main = PROGRAM.partition("core = ")
    test = "def test_program():\n" + textwrap.indent(start + main, "    ")
    (tmp_path / "test_program.py").write_text(functions + test)
    arguments = ["-p", "no:randomly", "-q", "-s", "--cov=.", "--cov-report=term-missing"]
    said = run_in(tmp_path, sys.executable, "-m", "pytest", *arguments, "test_program.py")

    assert "coverage.py ['forgets', 'fails', 'forgets', 'fails']" in said
    assert "100%" in said
    assert "1 passed" in said

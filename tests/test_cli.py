"""The command ``otel-connleak``, in this process and as it is installed."""

import subprocess
import sysconfig
from dataclasses import fields
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import otel_connleak
from otel_connleak import cli
from otel_connleak.cli import main
from otel_connleak.config import PREFIX, Settings, accepted_form, variable

COMMAND = Path(sysconfig.get_path("scripts"), "otel-connleak")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without settings of ours."""
    for field in fields(Settings):
        monkeypatch.delenv(variable(field.name), raising=False)


def test_settings(capsys: pytest.CaptureFixture[str]) -> None:
    """Every setting with its variable, its value and what it accepts."""
    assert main(["settings"]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert lines[::2] == [
        "OTEL_PYTHON_CONNLEAK_OVERDUE_AFTER = 30.0",
        "OTEL_PYTHON_CONNLEAK_GRACE = 5.0",
        "OTEL_PYTHON_CONNLEAK_REPOSITORY = (none)",
        "OTEL_PYTHON_CONNLEAK_LIBRARY_MODULES = (none)",
        "OTEL_PYTHON_CONNLEAK_LONG_LIVED = (none)",
        "OTEL_PYTHON_CONNLEAK_IGNORE = (none)",
        "OTEL_PYTHON_CONNLEAK_SPANS = all",
        "OTEL_PYTHON_CONNLEAK_SLOW_AFTER = 1.0",
        "OTEL_PYTHON_CONNLEAK_STATEMENTS = summary",
        (
            "OTEL_PYTHON_CONNLEAK_EVIDENCE = "
            "discarded,dropped,function_exited,overdue,process_exited,task_ended,thread_ended,trace_ended"
        ),
        "OTEL_PYTHON_CONNLEAK_IDLE_AFTER = None",
        "OTEL_PYTHON_CONNLEAK_SOCKET = False",
    ]
    assert lines[1::2] == [f"    {accepted_form(field.name)}" for field in fields(Settings)]


def test_settings_of_this_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is set is shown, in one order."""
    monkeypatch.setenv(f"{PREFIX}GRACE", "500ms")
    monkeypatch.setenv(f"{PREFIX}REPOSITORY", "shop.b.*, shop.a.*")

    assert main(["settings"]) == 0
    said = capsys.readouterr().out
    assert "OTEL_PYTHON_CONNLEAK_GRACE = 0.5\n" in said
    assert "OTEL_PYTHON_CONNLEAK_REPOSITORY = shop.a.*,shop.b.*\n" in said


def test_refused_setting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A value that is refused is an error with exit code 1, and the default is what counts."""
    monkeypatch.setenv(f"{PREFIX}GRACE", "soon")

    assert main(["settings"]) == 1
    said = capsys.readouterr()
    assert "OTEL_PYTHON_CONNLEAK_GRACE = 5.0\n" in said.out
    assert said.err == (
        "error: OTEL_PYTHON_CONNLEAK_GRACE='soon' is not valid: it takes "
        f"{accepted_form('grace')}; the default is used\n"
    )


def test_adapters(capsys: pytest.CaptureFixture[str]) -> None:
    """Every library that is covered, and that these two are installed here."""
    assert main(["adapters"]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())

    assert said["psycopg"] == said["psycopg_pool"] == "installed"
    assert list(said) == sorted(said)


def test_adapter_without_its_library(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library that is missing, and an adapter that cannot be loaded, are said to be so."""
    points = [
        EntryPoint("missing", "tests.test_cli:AdapterOfNothing", "otel_connleak.adapters"),
        EntryPoint("broken", "tests.no_such_module:Adapter", "otel_connleak.adapters"),
    ]
    monkeypatch.setattr(cli, "entry_points", lambda group: points)

    assert main(["adapters"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "broken           cannot be loaded: ModuleNotFoundError: No module named 'tests.no_such_module'",
        "missing          not installed",
    ]


class AdapterOfNothing:
    """An adapter for a library that does not exist."""

    module = "no_such_library"


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["settings", "--no-such-option"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage is exit code 2 with the usage on standard error."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: otel-connleak")


def test_installed_command() -> None:
    """The command is on the path of the environment, and does not need the SDK to be set up."""
    done = subprocess.run([COMMAND, "--version"], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"otel-connleak {otel_connleak.__version__}\n", "")

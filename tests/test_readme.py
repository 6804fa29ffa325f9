"""The README tells the truth: its commands are run, its settings exist, its links lead somewhere."""

import os
import re
import subprocess
import venv
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from otel_connleak.config import PREFIX, Settings, variable
from otel_connleak.hold import Evidence

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
APP = ROOT / "tests" / "apps" / "readme_app.py"

BY_CI = {"make demo", "make test", "make accuracy", "make bench", "make lint"}
"""Commands that `.ci/run` runs."""
BY_TEST = {
    "pip install '.[otlp]'",
    "opentelemetry-instrument python app.py",
    (
        "OTEL_TRACES_EXPORTER=none OTEL_METRICS_EXPORTER=none OTEL_LOGS_EXPORTER=none"
        " opentelemetry-instrument python app.py"
    ),
    "otel-connleak settings",
    "otel-connleak adapters",
}
"""Commands that a test of this file runs."""


def commands() -> set[str]:
    """Every command of the README, one a line of its ``console`` blocks."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    return {line for block in blocks for line in block.splitlines() if line}


@pytest.fixture(scope="session")
def service_environment(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment of somebody's own service, with psycopg in it, after the README's ``pip install``."""
    folder = tmp_path_factory.mktemp("service")
    venv.create(folder / "venv", with_pip=True)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTHON"))
    }
    environment["PATH"] = f"{folder / 'venv' / 'bin'}{os.pathsep}{environment['PATH']}"
    environment["PIP_CONSTRAINT"] = str(ROOT / "constraints.txt")
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    shell("pip install --quiet 'psycopg[binary]' psycopg-pool", environment)
    shell("pip install '.[otlp]'", environment)
    return environment


def shell(command: str, environment: Mapping[str, str], folder: Path = ROOT) -> str:
    """What a command prints, both streams; fails the test if it fails."""
    ran = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout + ran.stderr


def test_every_command_is_run() -> None:
    """No command of the README goes unrun: each is run by `.ci/run` or by a test of this file."""
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert commands() == BY_CI | BY_TEST
    assert all(command in ci for command in BY_CI)


@pytest.mark.timeout(600)
@pytest.mark.xdist_group("the environment of a service")
@pytest.mark.parametrize("command", sorted(command for command in BY_TEST if "app.py" in command))
def test_own_service(
    command: str, service_environment: Mapping[str, str], postgres: str, tmp_path: Path
) -> None:
    """After the README's installation, its launcher commands name the leaking function of a plain service."""
    (tmp_path / "app.py").write_text(APP.read_text(encoding="utf-8"), encoding="utf-8")
    # No collector listens here, and waiting for one would take long; that it is down must not matter.
    environment = {**service_environment, "DATABASE_URL": postgres, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    said = shell(command, environment, tmp_path)
    assert "customers: " in said
    assert re.search(r"connection leak \(confirmed, dropped, function_exited\) \[\w{6}\]: ", said)
    assert "__main__.CustomerRepository.list_customers  app.py:" in said


@pytest.mark.timeout(600)
@pytest.mark.xdist_group("the environment of a service")
def test_commands_of_the_package(service_environment: Mapping[str, str]) -> None:
    """The two commands of the package run in a service's environment and show settings and libraries."""
    settings = shell("otel-connleak settings", service_environment)
    assert f"{PREFIX}GRACE = 5.0" in settings
    adapters = shell("otel-connleak adapters", service_environment)
    assert re.search(r"^psycopg_pool +installed$", adapters, re.MULTILINE)


def test_settings_are_complete() -> None:
    """The README's table has every setting and no other, with its default."""
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| `?([^`|]*?)`? ?\|", README, re.MULTILINE))
    assert [variable(field.name) for field in fields(Settings)] == [PREFIX + name for name in rows]
    defaults = Settings()
    for name in ("overdue_after", "grace", "slow_after"):
        assert float(rows[name.upper()]) == getattr(defaults, name)
    assert rows["SPANS"] == defaults.spans
    assert rows["STATEMENTS"] == defaults.statements


def test_evidence_is_complete() -> None:
    """The README explains each kind of evidence."""
    section = README.partition("## What the evidence means")[2].partition("\n## ")[0]
    assert all(f"`{kind}`" in section for kind in Evidence)


def test_files_exist() -> None:
    """Each file of the repository that the README names is there."""
    named = set(re.findall(r"`((?:otel_connleak|tests|examples|\.ci)/[\w./]+)`", README))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []

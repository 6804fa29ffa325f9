"""A pool that otel_connleak does not know is one package of somebody else's: ``tests/thirdparty``."""

import re
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import otel_connleak
from tests.support.launcher import APPS, environment, run

PACKAGE = Path(__file__).parent / "thirdparty"
PROGRAM = APPS / "toypool_shop.py"


def install(folder: Path, entry_points: dict[str, str] | None = None) -> None:
    """Put into a folder what ``pip install --target`` puts there; that would need the network."""
    pyproject = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    for file in pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["include"]:
        (folder / file).write_text((PACKAGE / file).read_text(encoding="utf-8"), encoding="utf-8")
    info = folder / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    (group, adapters), *others = project["entry-points"].items()
    assert not others
    lines = [f"{name} = {place}" for name, place in (adapters | (entry_points or {})).items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]), encoding="utf-8")


def test_the_leaking_function_is_named(tmp_path: Path, dsn: str) -> None:
    """Installed beside an unchanged service, it makes the launcher name the function that leaks."""
    install(tmp_path)
    finished = run(PROGRAM, env=environment(DSN=dsn, PYTHONPATH=str(tmp_path)))

    assert (finished.returncode, finished.stdout) == (0, "3 3 3\n")
    (leak,) = finished.leaks
    assert leak.startswith("connection leak (confirmed, dropped")
    assert "__main__.Customers.count_and_forget" in leak
    # The last of the three may have its connection at this very moment.
    assert re.search(r'pool ".*/postgres" [12]/2 used', finished.stderr)
    assert "last statement" in finished.stderr
    assert "hint: use `with pool.connection() as connection:`" in finished.stderr


def test_an_adapter_that_is_broken(tmp_path: Path, dsn: str) -> None:
    """A third party's adapter that cannot be loaded is named in one line, and costs nobody else anything."""
    install(tmp_path, {"no_class": "toypool_connleak:NoSuchAdapter", "no_adapter": "toypool:Pool"})
    finished = run(PROGRAM, env=environment(DSN=dsn, PYTHONPATH=str(tmp_path)))

    assert (finished.returncode, finished.stdout) == (0, "3 3 3\n")
    assert "adapter no_class cannot be loaded: AttributeError" in finished.stderr
    assert "adapter no_adapter cannot be loaded: TypeError" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert len(finished.leaks) == 1


def test_it_is_listed(tmp_path: Path) -> None:
    """The command line tells that it is there."""
    install(tmp_path)
    command = [str(Path(sysconfig.get_path("scripts"), "otel-connleak")), "adapters"]
    listed = subprocess.run(
        command, env=environment(PYTHONPATH=str(tmp_path)), capture_output=True, text=True, check=True
    ).stdout

    assert "toypool" in listed


def test_nothing_here_knows_it() -> None:
    """No file of otel_connleak was edited for it."""
    files = list(Path(otel_connleak.__file__).parent.rglob("*.py"))

    assert len(files) > 50
    assert [file for file in files if "toypool" in file.read_text(encoding="utf-8").lower()] == []

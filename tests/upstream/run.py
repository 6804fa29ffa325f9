# ruff: noqa: T201 - a command prints
"""Run them: ``python -m tests.upstream.run --only asyncpg``."""

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import psycopg

from tests.support.postgres import embedded_postgres
from tests.upstream.outcomes import Comparison, Differences, Outcomes, Seen, differences, lasting, read, table
from tests.upstream.suites import NEEDS, SUITES, Suite, base_environment, parts_of

CACHE = Path(__file__).parents[2] / "build" / "upstream"
TIMEOUT = 900.0


def source_of(suite: Suite) -> Path:
    """The unpacked source of a suite's library, from the package index at the first time."""
    wanted = version(suite.package)
    folder = CACHE / f"{suite.package}-{wanted}"
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory() as downloads:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*pip, "--dest", downloads, f"{suite.package}=={wanted}"], check=True)
        (archive,) = Path(downloads).iterdir()
        unpack(archive, folder, suite.keeps)
    if suite.needs:
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder / NEEDS)]
        subprocess.run([*install, *suite.needs], check=True)
    return folder


def unpack(archive: Path, folder: Path, keeps: tuple[str, ...]) -> None:
    """Unpack parts of a source distribution into a folder that does not exist yet, all of them or none."""
    half_made = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(half_made, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            _, _, member.name = member.name.partition("/")
            if member.name.partition("/")[0] in keeps:
                tar.extract(member, half_made, filter="data")
    if not (half_made / "pyproject.toml").exists():
        # Without settings of its own pytest would look for some further up, and find this repository's.
        (half_made / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    half_made.rename(folder)


class Runs:
    """Runs one suite, on one server.

    Args:
        suite: what is run.
        dsn: the connection string of the server.
        verbose: whether what the tests print is shown.
    """

    def __init__(self, suite: Suite, dsn: str, *, verbose: bool) -> None:
        self._suite = suite
        self._source = source_of(suite)
        self._dsn = dsn
        self._verbose = verbose

    def run(self, tests: tuple[str, ...], seen: Path | None = None) -> tuple[Outcomes, float]:
        """Run tests once; with us if there is a folder for what is seen. The outcomes, and the seconds."""
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "outcomes.json"
            parts = parts_of(self._dsn)
            environment = base_environment(self._source / NEEDS) | self._suite.environment(parts)
            environment["UPSTREAM_OUTCOMES"] = str(file)
            if seen is not None:
                environment["UPSTREAM_SEEN"] = str(seen)
            started = time.monotonic()
            output = None if self._verbose else subprocess.DEVNULL
            try:
                subprocess.run(
                    self._suite.arguments(tests, parts),
                    cwd=self._source / self._suite.folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    timeout=TIMEOUT,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                print(f"{self._suite.name}: still running after {TIMEOUT:.0f} s, killed")
            return read(file), time.monotonic() - started

    def compare(self) -> Comparison:
        """Run the suite without and with us; what differs is run again."""
        with tempfile.TemporaryDirectory() as folder:
            seen = Path(folder)
            without, seconds = self.run(self._suite.tests)
            with_us, seconds_with = self.run(self._suite.tests, seen)
            said = Seen.read(seen)
            found = differences(without, with_us)
            known = {test: both for test, both in found.items() if test in self._suite.known}
            found = {test: both for test, both in found.items() if test not in known}
            different = self._again(found, seen) if found else {}
        unsteady = {test: both for test, both in found.items() if test not in different}
        times = seconds, seconds_with
        return Comparison(self._suite.name, without, with_us, different, unsteady, known, said, times)

    def _again(self, found: Differences, seen: Path) -> Differences:
        """Those that differ again in two further rounds, of nothing but the files that they are in."""
        tests = self._suite.narrowed(found)
        rounds = [(self.run(tests)[0], self.run(tests, seen)[0]) for _ in range(2)]
        return lasting(found, rounds)


def main() -> int:
    """Compare all suites, or some; returns 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.upstream.run", description=__doc__)
    parser.add_argument("--only", metavar="NAME", action="append", help="only suites whose name begins so")
    parser.add_argument("--leaks", action="store_true", help="list the leaks that were reported meanwhile")
    parser.add_argument("--verbose", action="store_true", help="show what the tests print")
    chosen = parser.parse_args()
    suites = [suite for suite in SUITES if not chosen.only or suite.name.startswith(tuple(chosen.only))]
    comparisons = []
    for suite in suites:
        print(f"{suite.name} {version(suite.package)} …", flush=True)
        with embedded_postgres() as dsn:
            with psycopg.connect(dsn, autocommit=True) as connection:
                for statement in suite.prepare:
                    connection.execute(statement)
            comparisons.append(Runs(suite, dsn, verbose=chosen.verbose).compare())
    print("\n".join(["", *table(comparisons)]))
    failed = False
    for comparison in comparisons:
        for complaint in comparison.complaints:
            failed = True
            print(f"{comparison.suite}: {complaint}")
        for word, tests in (("unsteady", comparison.unsteady), ("known", comparison.known)):
            for test, (before, after) in tests.items():
                print(f"{comparison.suite}: {word}: {test}: {before} without, {after} with us")
        if chosen.leaks:
            print("\n".join(f"{comparison.suite}: leak: {leak}" for leak in sorted(comparison.seen.leaks)))
    return int(failed or not comparisons)


if __name__ == "__main__":
    sys.exit(main())

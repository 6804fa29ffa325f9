# ruff: noqa: INP001 - this folder is on the module search path of the runs
"""What Django's own test suite needs of its settings; ``UPSTREAM_DATABASE`` says on what it runs."""

import os
import unittest
from typing import Any

import upstream_outcomes  # type: ignore[import-not-found]  # beside this file
from django.test.runner import DiscoverRunner

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
SECRET_KEY = "not one"
USE_TZ = False
TEST_RUNNER = "upstream_django.Runner"


def _database(name: str) -> dict[str, Any]:
    if os.environ["UPSTREAM_DATABASE"] == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3"}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": f"django_{name}",
        "USER": os.environ["UPSTREAM_USER"],
        "HOST": os.environ["UPSTREAM_HOST"],
        "OPTIONS": {"pool": os.environ["UPSTREAM_DATABASE"] == "pool"},
    }


DATABASES = {name: _database(name) for name in ("default", "other")}


class Runner(DiscoverRunner):  # type: ignore[misc]  # Django has no annotations
    """Writes the outcome of each test down."""

    def get_resultclass(self) -> Any:
        """The class that notes them."""
        return upstream_outcomes.NotingResult

    def suite_result(self, suite: unittest.TestSuite, result: Any, **kwargs: Any) -> Any:
        """All tests have run."""
        upstream_outcomes.write()
        return super().suite_result(suite, result, **kwargs)

"""Plays one scenario in this process: ``python -m tests.corpus.play THEME NAME SETTLE``, under the launcher.

Says when facts happen, and ends as any program ends. Whatever is reported leaves the process through OTLP and
the log.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tests.corpus.stage import Stage


def main(theme: str, name: str, settle: float) -> None:
    """Play a scenario, go on for ``settle`` seconds, and end."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    scenario = getattr(importlib.import_module(f"tests.corpus.scenarios.{theme}"), name)
    stage = Stage(os.environ["DSN"])
    print("ready", flush=True)
    if inspect.iscoroutinefunction(scenario):
        asyncio.run(play_async(scenario, stage, settle))
    else:
        scenario(stage)
        time.sleep(settle)
    stage.close()
    stage.fact("exit")


async def play_async(scenario: Callable[[Stage], Awaitable[Any]], stage: Stage, settle: float) -> None:
    """Play a coroutine; the loop goes on for ``settle`` seconds, as that of a service does."""
    await scenario(stage)
    await asyncio.sleep(settle)
    await stage.aclose()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))

# ruff: noqa: INP001, T201 - a program of its own, which prints
"""Holds a connection in a program in which nothing is prepared, and does what its argument says.

It ends when it reads a line.
"""

import sqlite3
import sys
import threading
from typing import Final

SHORT: Final = 0.01
"""Seconds of one sleep: between two of them the main thread runs Python."""
ended = threading.Event()


def wait_for_the_end() -> None:
    """In a thread of its own: the main thread is busy with something else."""
    sys.stdin.readline()
    ended.set()


def go_on() -> None:
    """The main thread runs a little Python now and then."""
    while not ended.wait(SHORT):
        pass


def stuck() -> None:
    """The main thread waits in a lock until a line is read; then it goes on for a while."""
    ended.wait()
    for _ in range(20):
        threading.Event().wait(SHORT)


def find_customer() -> None:
    """Holds its connection for as long as the program runs."""
    connection = sqlite3.connect(":memory:")
    connection.execute("SELECT 1").fetchall()
    threading.Thread(target=wait_for_the_end).start()
    print("ready", flush=True)
    {"go on": go_on, "stuck": stuck}[sys.argv[1]]()
    connection.close()


if __name__ == "__main__":
    find_customer()

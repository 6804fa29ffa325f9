# ruff: noqa: INP001 - a program of its own
"""Writes on the one connection of the process, which is kept in module state, and never commits."""

import sqlite3
import tempfile

folder = tempfile.TemporaryDirectory()
connection = sqlite3.connect(f"{folder.name}/shop.db")


def add_customer() -> None:
    """Add a customer, and forget to commit."""
    connection.execute("INSERT INTO customers VALUES ('new')")


if __name__ == "__main__":
    connection.execute("CREATE TABLE customers (name TEXT)")
    add_customer()

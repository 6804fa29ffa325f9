"""A small web shop on Flask, psycopg_pool and PostgreSQL."""

"""Placeholder."""


class Psycopg2PoolAdapter:
    """Placeholder."""

    module = "no_such_module_psycopg2_pool"

    def install(self, registry: object, settings: object) -> None:
        """Nothing."""

    def uninstall(self) -> None:
        """Nothing."""

"""Placeholder."""


class Psycopg2Adapter:
    """Placeholder."""

    module = "no_such_module_psycopg2"

    def install(self, registry: object, settings: object) -> None:
        """Nothing."""

    def uninstall(self) -> None:
        """Nothing."""

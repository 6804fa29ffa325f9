"""Placeholder."""


class AsyncpgAdapter:
    """Placeholder."""

    module = "no_such_module_asyncpg"

    def install(self, registry: object, settings: object) -> None:
        """Nothing."""

    def uninstall(self) -> None:
        """Nothing."""

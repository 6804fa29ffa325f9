"""Placeholder."""


class AiosqliteAdapter:
    """Placeholder."""

    module = "no_such_module_aiosqlite"

    def install(self, registry: object, settings: object) -> None:
        """Nothing."""

    def uninstall(self) -> None:
        """Nothing."""

"""Placeholder."""


class PeeweeAdapter:
    """Placeholder."""

    module = "no_such_module_peewee"

    def install(self, registry: object, settings: object) -> None:
        """Nothing."""

    def uninstall(self) -> None:
        """Nothing."""

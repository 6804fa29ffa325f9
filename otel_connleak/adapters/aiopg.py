"""Placeholder."""


class AiopgAdapter:
    """Placeholder."""

    module = "no_such_module_aiopg"

    def install(self, registry: object, settings: object) -> None:
        """Nothing."""

    def uninstall(self) -> None:
        """Nothing."""

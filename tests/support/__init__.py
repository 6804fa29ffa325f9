"""What several test modules share: a server, the launcher in a subprocess, waiting, telemetry read back."""

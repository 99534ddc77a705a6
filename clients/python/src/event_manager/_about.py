"""What this package is."""

VERSION = "0.1.0"
#: What workers tell the daemon of their library (docs/protocol.md).
CLIENT = f"event-manager-python/{VERSION}"

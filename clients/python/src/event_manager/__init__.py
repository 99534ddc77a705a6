"""Client of event-manager, the ZeroMQ event router."""

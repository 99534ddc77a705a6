"""CoreRL's `corerl.event_bus`: there, EventBusClient is that for RLEvent."""

from __future__ import annotations

from ._corerl_events import RLEventBusClient

EventBusClient = RLEventBusClient

__all__ = ["EventBusClient", "RLEventBusClient"]

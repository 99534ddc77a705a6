"""The names of pika's module `adapters`."""

from __future__ import annotations

from ...errors import MayBeLost
from .blocking_connection import BlockingConnection
from .channel import BlockingChannel

__all__ = ["BlockingChannel", "BlockingConnection", "MayBeLost"]

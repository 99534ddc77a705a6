"""Stands for pubsub.handler_registry: event_manager.compat.pubsub.handler_registry."""

from event_manager.compat import stand_for
from event_manager.compat.pubsub.handler_registry import *  # for type checkers

stand_for(__name__)

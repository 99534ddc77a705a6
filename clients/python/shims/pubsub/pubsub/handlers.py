"""Stands for pubsub.handlers: event_manager.compat.pubsub.handlers."""

from event_manager.compat import stand_for
from event_manager.compat.pubsub.handlers import *  # for type checkers

stand_for(__name__)

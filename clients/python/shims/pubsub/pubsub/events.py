"""Stands for pubsub.events: event_manager.compat.pubsub.events."""

from event_manager.compat import stand_for
from event_manager.compat.pubsub.events import *  # for type checkers

stand_for(__name__)

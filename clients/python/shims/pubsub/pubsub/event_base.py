"""Stands for pubsub.event_base: event_manager.compat.pubsub.event_base."""

from event_manager.compat import stand_for
from event_manager.compat.pubsub.event_base import *  # for type checkers

stand_for(__name__)

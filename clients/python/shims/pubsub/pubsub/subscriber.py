"""Stands for pubsub.subscriber: event_manager.compat.pubsub.subscriber."""

from event_manager.compat import stand_for
from event_manager.compat.pubsub.subscriber import *  # for type checkers

stand_for(__name__)

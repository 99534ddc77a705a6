"""Stands for pubsub.publisher: event_manager.compat.pubsub.publisher."""

from event_manager.compat import stand_for
from event_manager.compat.pubsub.publisher import *  # for type checkers

stand_for(__name__)

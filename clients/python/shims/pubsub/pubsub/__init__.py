"""Stands for pubsub: event_manager.compat.pubsub."""

from event_manager.compat import stand_for
from event_manager.compat.pubsub import *  # for type checkers

stand_for(__name__)

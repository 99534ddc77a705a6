"""Stands for dotmac.events.consumer: event_manager.compat.dotmac.consumer."""

from event_manager.compat import stand_for
from event_manager.compat.dotmac.consumer import *  # for type checkers

stand_for(__name__)

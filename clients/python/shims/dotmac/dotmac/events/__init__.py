"""Stands for dotmac.events: event_manager.compat.dotmac."""

from event_manager.compat import stand_for
from event_manager.compat.dotmac import *  # for type checkers

stand_for(__name__)

"""Stands for lib_utils.messages: event_manager.compat.corerl."""

from event_manager.compat import stand_for
from event_manager.compat.corerl import *  # for type checkers

stand_for(__name__)

"""Stands for lib_defs.type_defs.base_events: event_manager.compat._corerl_events."""

from event_manager.compat import stand_for
from event_manager.compat._corerl_events import *  # for type checkers

stand_for(__name__)

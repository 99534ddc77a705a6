"""Stands for corerl.event_bus: event_manager.compat._corerl_bus."""

from event_manager.compat import stand_for
from event_manager.compat._corerl_bus import *  # for type checkers

stand_for(__name__)

"""Stands for schedule_zero.zmq_event_broker: event_manager.compat.apscheduler."""

from event_manager.compat import stand_for
from event_manager.compat.apscheduler import *  # for type checkers

stand_for(__name__)

"""Stands for pika: event_manager.compat.pika."""

from event_manager.compat import stand_for
from event_manager.compat.pika import *  # for type checkers

stand_for(__name__)

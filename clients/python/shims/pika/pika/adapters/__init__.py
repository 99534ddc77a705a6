"""Stands for pika.adapters: event_manager.compat.pika.adapters."""

from event_manager.compat import stand_for
from event_manager.compat.pika.adapters import *  # for type checkers

stand_for(__name__)

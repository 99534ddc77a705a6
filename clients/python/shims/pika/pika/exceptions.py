"""Stands for pika.exceptions: event_manager.compat.pika.exceptions."""

from event_manager.compat import stand_for
from event_manager.compat.pika.exceptions import *  # for type checkers

stand_for(__name__)

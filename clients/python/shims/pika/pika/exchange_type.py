"""Stands for pika.exchange_type: event_manager.compat.pika.spec."""

from event_manager.compat import stand_for
from event_manager.compat.pika.spec import *  # for type checkers

stand_for(__name__)

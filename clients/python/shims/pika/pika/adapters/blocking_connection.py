"""Stands for pika.adapters.blocking_connection: event_manager.compat.pika.blocking_connection."""

from event_manager.compat import stand_for
from event_manager.compat.pika.blocking_connection import *  # for type checkers

stand_for(__name__)

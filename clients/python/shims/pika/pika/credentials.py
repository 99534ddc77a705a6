"""Stands for pika.credentials: event_manager.compat.pika.connection."""

from event_manager.compat import stand_for
from event_manager.compat.pika.connection import *  # for type checkers

stand_for(__name__)

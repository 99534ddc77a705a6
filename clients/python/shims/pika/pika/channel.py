"""Stands for pika.channel: event_manager.compat.pika.channel."""

from event_manager.compat import stand_for
from event_manager.compat.pika.channel import *  # for type checkers

stand_for(__name__)

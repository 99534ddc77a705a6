"""Stands for pubsub.amqp_connection: event_manager.compat.pubsub.amqp_connection."""

from event_manager.compat import stand_for
from event_manager.compat.pubsub.amqp_connection import *  # for type checkers

stand_for(__name__)

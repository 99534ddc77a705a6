"""Stands for zeromqmessagehandler: event_manager.compat.edeploy."""

from event_manager.compat import stand_for
from event_manager.compat.edeploy import *  # for type checkers

stand_for(__name__)

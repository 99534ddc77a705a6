"""Annotations for what handlers want from FastStream's context."""

from typing import Annotated

from event_manager.aio import AsyncHub
from faststream._internal.context import Context
from faststream.annotations import ContextRepo, Logger
from faststream.params import NoCast

from .broker import EventManagerBroker as _Broker
from .message import EventManagerMessage as _Message

EventManagerMessage = Annotated[_Message, Context("message")]
EventManagerBroker = Annotated[_Broker, Context("broker")]
Hub = Annotated[AsyncHub, Context("broker._connection")]

__all__ = ["ContextRepo", "EventManagerBroker", "EventManagerMessage", "Hub", "Logger", "NoCast"]

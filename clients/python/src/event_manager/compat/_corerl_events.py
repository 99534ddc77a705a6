"""CoreRL's models of events. They need pydantic."""

from __future__ import annotations

import enum
import logging
import uuid
from typing import Any, Generic, Optional, TypeVar, Union

from pydantic import BaseModel, Field, ValidationError

from .corerl import BaseEventTopic, BaseEventType, EventBusClient, now_iso

log = logging.getLogger("event_manager")
EventTypeClass = TypeVar("EventTypeClass", bound=BaseEventType)


class BaseEvent(BaseModel, Generic[EventTypeClass]):
    """An event: what happened, when, and its id."""

    id: uuid.UUID = Field(default_factory=uuid.uuid4)
    time: str = Field(default_factory=now_iso)
    type: EventTypeClass


class RLEventType(BaseEventType):
    """What happens in CoreRL."""

    service_started = enum.auto()
    service_stopped = enum.auto()
    service_error = enum.auto()
    service_heartbeat = enum.auto()
    step = enum.auto()
    step_get_obs = enum.auto()
    step_agent_update = enum.auto()
    step_emit_action = enum.auto()
    agent_step = enum.auto()
    agent_get_action = enum.auto()
    agent_heartbeat = enum.auto()
    agent_load = enum.auto()
    agent_save = enum.auto()
    agent_update_actor = enum.auto()
    agent_update_sampler = enum.auto()
    agent_update_buffer = enum.auto()
    agent_update_critic = enum.auto()
    red_zone_violation = enum.auto()
    yellow_zone_violation = enum.auto()
    action_period_reset = enum.auto()
    ping_setpoints = enum.auto()
    flush_buffers = enum.auto()


class RLEventTopic(BaseEventTopic):
    """Where it happens."""

    corerl = enum.auto()
    corerl_scheduler = enum.auto()
    corerl_cli = enum.auto()
    debug_app = enum.auto()


class RLEvent(BaseEvent[RLEventType]):
    """An event of CoreRL."""


def maybe_parse_event(msg: Union[str, bytes]) -> Optional[RLEvent]:
    """The event in a message; None, and a line in the log, if there is none."""
    try:
        return RLEvent.model_validate_json(msg)
    except ValidationError as error:
        log.error("a message is no event: %s", error)
        return None


class RLEventBusClient(EventBusClient[RLEvent, RLEventType, RLEventTopic]):
    """A client for events of CoreRL."""

    def __init__(self, host: str = "localhost", pub_port: int = 5559, sub_port: int = 5560, **options: Any) -> None:
        super().__init__(RLEvent, host, pub_port, sub_port, **options)

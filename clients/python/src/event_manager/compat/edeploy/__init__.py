"""The API of e-deploy's `messagebus` and `zeromqmessagehandler`, on this daemon.

    from event_manager.compat.edeploy import SubscriptionInfo, ZeroMqMessageBus

    bus = ZeroMqMessageBus("MyService", context)
    bus.subscribe([SubscriptionInfo("OrderCreated", SubscriptionInfo.TYPE_NON_REENTRANT)])
    bus.handle_events(builder)

What their README promises holds: `subscribe` finds the event manager through the ServiceLocator, subscribes, connects to
the service's port, says READY, and prolongs the lease; and all of it again after a restart of either side.

How events of a subject are handled (subjects are prefixes, as there; a subject without a type is REENTRANT):

- REENTRANT: each event has a thread of its own.
- NON_REENTRANT: while an event of this subject is handled, others of it are dropped (`bus.dropped` counts them); with
  `on_busy="queue"` they wait instead.
- QUEUE: the events of a subject are handled one after the other.
- SYNC: the handler answers with `reply_event`. What is no SYNC subject is answered when it has begun.

What differs from theirs, and why:

- An event is acknowledged when its handler has returned, and comes again (`retry`) when it raised. There, a crash or an
  exception loses it. A QUEUE event that failed comes again behind those that wait.
- How their bus is given its handler isn't public. Ours: `handler=` (a MessageHandlerBuilder, a MessageHandler, or a
  function of bus and event), or `handle_events(builder)`. Until there is one, events wait.
- A handler that raises answers a message or a sync event with TK_SYS_NAK, so that nobody waits in vain.
- The async payload isn't public either; it is that of PUBLISH: `data\\0subject\\0type\\0sync\\0source_id`. Other events are
  given to handlers with their second frame as data.
- The `zmq.Context` isn't used: no libzmq is needed. Their UNSUBSCRIBE isn't implemented; ours is `close(unsubscribe=True)`.
- `ZeroMqThreadPool`, `edphelper`, `messageprocessor` and the daemon's own modules are not part of it.
"""

from __future__ import annotations

from typing import Tuple

from .bus import ZeroMqMessageBus
from .messages import (
    TK_EVENT_MANAGER_KEEP_ALIVE,
    TK_EVENT_MANAGER_PUBLISH,
    TK_EVENT_MANAGER_SUBSCRIBE,
    TK_EVENT_MANAGER_UNSUBSCRIBE,
    AckMessage,
    DataType,
    DefaultToken,
    Event,
    JsonSwaggerMessage,
    Message,
    MessageBus,
    MessageBusException,
    MessageBusExceptionType,
    MessageHandler,
    MessageHandlerBuilder,
    NakMessage,
    SubscriptionInfo,
    SwaggerMessage,
    TokenCreator,
    TokenPriority,
)

__all__: Tuple[str, ...] = (
    "AckMessage",
    "DataType",
    "DefaultToken",
    "Event",
    "JsonSwaggerMessage",
    "Message",
    "MessageBus",
    "MessageBusException",
    "MessageBusExceptionType",
    "MessageHandler",
    "MessageHandlerBuilder",
    "NakMessage",
    "SubscriptionInfo",
    "SwaggerMessage",
    "TK_EVENT_MANAGER_KEEP_ALIVE",
    "TK_EVENT_MANAGER_PUBLISH",
    "TK_EVENT_MANAGER_SUBSCRIBE",
    "TK_EVENT_MANAGER_UNSUBSCRIBE",
    "TokenCreator",
    "TokenPriority",
    "ZeroMqMessageBus",
)

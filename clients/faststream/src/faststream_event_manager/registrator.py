"""What brokers and routers have in common: subscribers and publishers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from event_manager import Event
from faststream._internal.broker.registrator import Registrator
from faststream._internal.constants import EMPTY
from faststream.exceptions import SetupError
from faststream.middlewares import AckPolicy

from .configs import Delivery, EventManagerBrokerConfig
from .publisher import EventManagerPublisher, create_publisher
from .response import Level
from .subjects import Dialect
from .subscriber import EventManagerSubscriber, create_subscriber

if TYPE_CHECKING:
    from fast_depends.dependencies import Dependant
    from faststream._internal.parser import CodecProto
    from faststream._internal.types import BrokerMiddleware, CustomCallable


class EventManagerRegistrator(Registrator["Event[bytes]", EventManagerBrokerConfig]):
    """Where subscribers and publishers are declared."""

    def subscriber(  # type: ignore[override]
        self,
        *subjects: str,
        dialect: Dialect = "glob",
        service: str | None = None,
        delivery: Delivery | None = None,
        credit: int | None = None,
        order_by: str | int | None = None,
        max_handling: float | None = None,
        ack_policy: AckPolicy = EMPTY,
        no_reply: bool = False,
        dependencies: Iterable[Dependant] = (),
        parser: CustomCallable | None = None,
        decoder: CustomCallable | None = None,
        codec: CodecProto | None = None,
        max_workers: int = 1,
        persistent: bool = True,
        title: str | None = None,
        description: str | None = None,
        include_in_schema: bool = True,
    ) -> EventManagerSubscriber:
        """Subscribes a handler to subjects.

        Without a `service` it gets every event with these subjects while it is connected, and so does every other subscriber;
        nothing is acknowledged. With one, each event goes to one of the service's workers in all processes, which acknowledges it.

        Args:
            subjects: Patterns: `order.*` (one word), `order.**` (the rest), `order.{id}` (one word, for `Path()`); `{{` is a brace.
            dialect: "glob"; or "exact" or "prefix", in which nothing has a special meaning.
            service: The name of the service that it is a worker of.
            delivery: "queue": its events are kept on disk until a worker has them; "live": as long as it is subscribed; None: as
                the daemon's configuration says.
            credit: The most events that it holds at a time (32).
            order_by: "subject", or a frame's index: events with the same value come in their order, one at a time.
            max_handling: How many seconds a handler may run before the event goes to another worker, too (600).
            ack_policy: What becomes of the event when the handler raises. The default is NACK_ON_ERROR: it comes again, as the
                daemon's `retry` says, and is a dead letter in the end. REJECT_ON_ERROR makes it one at once.
            no_reply: Whether what the handler returns is no answer to events that have `reply-to`.
            dependencies: FastDepends dependencies of the handler.
            parser: Makes a message of an event.
            decoder: Makes an object of a message.
            codec: The same as an object.
            max_workers: How many handlers run at a time.
            persistent: Whether the broker keeps the subscriber.
            title: Its name in the AsyncAPI document.
            description: Its description there.
            include_in_schema: Whether it is there.
        """
        subscriber = create_subscriber(
            templates=subjects,
            dialect=dialect,
            service=service,
            delivery=delivery,
            credit=credit,
            order_by=order_by,
            max_handling=max_handling,
            max_workers=max_workers,
            ack_policy=ack_policy,
            no_reply=no_reply,
            config=cast("EventManagerBrokerConfig", self.config),
            title=title,
            description=description,
            include_in_schema=include_in_schema,
        )
        super().subscriber(subscriber, persistent=persistent)
        return subscriber.add_call(
            parser_=parser or self._parser,
            decoder_=decoder or self._decoder,
            codec_=codec,
            dependencies_=tuple(dependencies),
        )

    def publisher(  # type: ignore[override]
        self,
        subject: str,
        *,
        headers: dict[str, Any] | None = None,
        reply_to: str = "",
        level: Level | None = None,
        persistent: bool = True,
        title: str | None = None,
        description: str | None = None,
        schema: Any | None = None,
        include_in_schema: bool = True,
    ) -> EventManagerPublisher:
        """Makes a publisher, which is in the AsyncAPI document: to decorate handlers with, or for its `publish`.

        Args:
            subject: The subject of its events.
            headers: Headers of all of them.
            reply_to: The subject for answers to them.
            level: How they are published; see `EventManagerBroker.publish`. None is the broker's.
            persistent: Whether the broker keeps the publisher.
            title: Its name in the AsyncAPI document.
            description: Its description there.
            schema: The type of its events there.
            include_in_schema: Whether it is there.
        """
        publisher = create_publisher(
            subject=subject,
            headers=headers,
            reply_to=reply_to,
            level=level,
            config=cast("EventManagerBrokerConfig", self.config),
            title=title,
            description=description,
            schema=schema,
            include_in_schema=include_in_schema,
        )
        super().publisher(publisher, persistent=persistent)
        return publisher

    def include_router(
        self,
        router: EventManagerRegistrator,  # type: ignore[override]
        *,
        prefix: str = "",
        dependencies: Iterable[Dependant] = (),
        middlewares: Sequence[BrokerMiddleware[Any, Any]] = (),
        include_in_schema: bool | None = None,
    ) -> None:
        """Takes over a router's subscribers and publishers."""
        if not isinstance(router, EventManagerRegistrator):
            raise SetupError(f"a router of an EventManagerBroker is an EventManagerRouter, not {type(router).__name__}")
        super().include_router(
            router,
            prefix=prefix,
            dependencies=tuple(dependencies),
            middlewares=middlewares,
            include_in_schema=include_in_schema,
        )

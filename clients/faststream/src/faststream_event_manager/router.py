"""Routers: subscribers and publishers apart from a broker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from faststream._internal.broker.router import ArgsContainer, BrokerRouter, SubscriberRoute
from faststream._internal.constants import EMPTY
from faststream.middlewares import AckPolicy

from .configs import Delivery, EventManagerBrokerConfig
from .registrator import EventManagerRegistrator
from .response import Level
from .subjects import Dialect

if TYPE_CHECKING:
    from fast_depends.dependencies import Dependant
    from faststream._internal.basic_types import SendableMessage
    from faststream._internal.parser import CodecProto
    from faststream._internal.types import BrokerMiddleware, CustomCallable


class EventManagerPublisher(ArgsContainer):
    """A publisher for `EventManagerRoute`, with the arguments of `EventManagerRouter.publisher`."""

    def __init__(
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
    ) -> None:
        super().__init__(
            subject,
            headers=headers,
            reply_to=reply_to,
            level=level,
            persistent=persistent,
            title=title,
            description=description,
            schema=schema,
            include_in_schema=include_in_schema,
        )


class EventManagerRoute(SubscriberRoute):
    """A handler with the arguments of `EventManagerRouter.subscriber`."""

    def __init__(
        self,
        call: Callable[..., SendableMessage] | Callable[..., Awaitable[SendableMessage]],
        *subjects: str,
        publishers: Iterable[EventManagerPublisher] = (),
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
    ) -> None:
        super().__init__(
            call,
            *subjects,
            publishers=publishers,
            dialect=dialect,
            service=service,
            delivery=delivery,
            credit=credit,
            order_by=order_by,
            max_handling=max_handling,
            ack_policy=ack_policy,
            no_reply=no_reply,
            dependencies=dependencies,
            parser=parser,
            decoder=decoder,
            codec=codec,
            max_workers=max_workers,
            persistent=persistent,
            title=title,
            description=description,
            include_in_schema=include_in_schema,
        )


class EventManagerRouter(EventManagerRegistrator, BrokerRouter[Any, EventManagerBrokerConfig]):
    """Subscribers and publishers to be included into a broker."""

    def __init__(
        self,
        prefix: str = "",
        handlers: Iterable[EventManagerRoute] = (),
        *,
        dependencies: Iterable[Dependant] = (),
        middlewares: Sequence[BrokerMiddleware[Any, Any]] = (),
        routers: Iterable[EventManagerRegistrator] = (),
        parser: CustomCallable | None = None,
        decoder: CustomCallable | None = None,
        codec: CodecProto | None = None,
        include_in_schema: bool | None = None,
        ack_policy: AckPolicy = EMPTY,
    ) -> None:
        """A router. `prefix` is put before the subjects of all its subscribers and publishers."""
        super().__init__(
            handlers=handlers,
            config=EventManagerBrokerConfig(
                prefix=prefix,
                ack_policy=ack_policy,
                broker_dependencies=tuple(dependencies),
                broker_middlewares=middlewares,
                broker_parser=parser,
                broker_decoder=decoder,
                broker_codec=codec,
                include_in_schema=include_in_schema,
            ),
            routers=routers,
        )

"""A router for FastAPI: its handlers have FastAPI's dependencies, and the broker starts and stops with the application."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, cast

from event_manager import Event
from event_manager.aio import AsyncHub
from fastapi.datastructures import Default
from faststream._internal.constants import EMPTY
from faststream._internal.context import ContextRepo as _ContextRepo
from faststream._internal.fastapi.context import Context, ContextRepo, Logger
from faststream._internal.fastapi.router import StreamRouter
from faststream.middlewares import AckPolicy

from .broker import EventManagerBroker as _Broker
from .configs import Delivery
from .message import EventManagerMessage as _Message
from .publisher import EventManagerPublisher
from .response import Level
from .subjects import Dialect

if TYPE_CHECKING:
    from fastapi import params
    from fastapi.types import IncEx
    from faststream._internal.parser import CodecProto
    from faststream._internal.types import CustomCallable

    from .subscriber import EventManagerSubscriber

EventManagerMessage = Annotated[_Message, Context("message")]
EventManagerBroker = Annotated[_Broker, Context("broker")]
Hub = Annotated[AsyncHub, Context("broker._connection")]


class EventManagerRouter(StreamRouter["Event[bytes]"]):
    """A FastAPI router with a broker. Its keyword arguments are those of `EventManagerBroker`, and those of `fastapi.APIRouter`;
    `dependencies`, `tags` and `include_in_schema` are FastAPI's, `specification_tags` the broker's."""

    broker_class = _Broker
    broker: _Broker

    def __init__(
        self,
        address: str | None = None,
        *,
        context: _ContextRepo | None = None,
        schema_url: str | None = "/asyncapi",
        setup_state: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(address, context=context, schema_url=schema_url, setup_state=setup_state, **options)

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
        dependencies: Iterable[params.Depends] = (),
        parser: CustomCallable | None = None,
        decoder: CustomCallable | None = None,
        codec: CodecProto | None = None,
        max_workers: int = 1,
        persistent: bool = True,
        title: str | None = None,
        description: str | None = None,
        include_in_schema: bool = True,
        response_model: Any = Default(None),
        response_model_include: IncEx | None = None,
        response_model_exclude: IncEx | None = None,
        response_model_by_alias: bool = True,
        response_model_exclude_unset: bool = False,
        response_model_exclude_defaults: bool = False,
        response_model_exclude_none: bool = False,
    ) -> EventManagerSubscriber:
        """Subscribes a handler, as `EventManagerBroker.subscriber` does; `dependencies` and `response_model…` are FastAPI's."""
        return cast(
            "EventManagerSubscriber",
            super().subscriber(
                *subjects,
                dialect=dialect,
                service=service,
                delivery=delivery,
                credit=credit,
                order_by=order_by,
                max_handling=max_handling,
                ack_policy=ack_policy,
                no_reply=no_reply,
                dependencies=tuple(dependencies),
                parser=parser,
                decoder=decoder,
                codec=codec,
                max_workers=max_workers,
                persistent=persistent,
                title=title,
                description=description,
                include_in_schema=include_in_schema,
                response_model=response_model,
                response_model_include=response_model_include,
                response_model_exclude=response_model_exclude,
                response_model_by_alias=response_model_by_alias,
                response_model_exclude_unset=response_model_exclude_unset,
                response_model_exclude_defaults=response_model_exclude_defaults,
                response_model_exclude_none=response_model_exclude_none,
            ),
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
        """Makes a publisher, as `EventManagerBroker.publisher` does."""
        return self.broker.publisher(
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


__all__ = [
    "Context",
    "ContextRepo",
    "EventManagerBroker",
    "EventManagerMessage",
    "EventManagerRouter",
    "Hub",
    "Logger",
]

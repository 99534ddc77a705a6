"""The broker."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from event_manager import Event, EventManagerError, Receipt, aio
from event_manager.hub import ADDRESS_VARIABLE, DEFAULT_ADDRESS
from fast_depends import Provider, dependency_provider
from faststream._internal.broker import BrokerUsecase
from faststream._internal.constants import EMPTY
from faststream._internal.context.repository import ContextRepo
from faststream._internal.di import FastDependsConfig
from faststream._internal.logger import DefaultLoggerStorage, make_logger_state
from faststream._internal.logger.logging import get_broker_logger
from faststream.exceptions import SetupError
from faststream.middlewares import AckPolicy
from faststream.response.publish_type import PublishType
from faststream.specification.schema import BrokerSpec

from .configs import EventManagerBrokerConfig
from .message import EventManagerMessage
from .producer import EventManagerProducer
from .publisher import correlation_id_of
from .registrator import EventManagerRegistrator
from .response import LEVELS, EventManagerPublishCommand, Level

if TYPE_CHECKING:
    from types import TracebackType

    from event_manager.curve import Curve
    from event_manager.hooks import Hooks
    from fast_depends.dependencies import Dependant
    from fast_depends.library.serializer import SerializerProto
    from faststream._internal.basic_types import LoggerProto, SendableMessage
    from faststream._internal.parser import CodecProto
    from faststream._internal.types import BrokerMiddleware, CustomCallable
    from faststream.security import BaseSecurity
    from faststream.specification.schema.extra import Tag, TagDict


class EventManagerBroker(EventManagerRegistrator, BrokerUsecase["Event[bytes]", aio.AsyncHub]):
    """A broker for an event-manager daemon."""

    def __init__(
        self,
        address: str | None = None,
        *,
        locator: str | None = None,
        level: Level = "memory",
        timeout: float = 5.0,
        start_timeout: float = 30.0,
        max_pending_bytes: int = 64 << 20,
        compress_above: int | None = None,
        compression: Literal["deflate", "zstd"] = "deflate",
        hooks: Sequence[Hooks] = (),
        curve: Curve | Literal[False] | None = None,
        graceful_timeout: float | None = 15.0,
        decoder: CustomCallable | None = None,
        parser: CustomCallable | None = None,
        codec: CodecProto | None = None,
        dependencies: Iterable[Dependant] = (),
        middlewares: Sequence[BrokerMiddleware[Any, Any]] = (),
        routers: Iterable[EventManagerRegistrator] = (),
        ack_policy: AckPolicy = EMPTY,
        specification_url: str | None = None,
        protocol: str | None = None,
        protocol_version: str | None = None,
        description: str | None = None,
        tags: Iterable[Tag | TagDict] = (),
        security: BaseSecurity | None = None,
        logger: LoggerProto | None = EMPTY,
        log_level: int = logging.INFO,
        apply_types: bool = True,
        serializer: SerializerProto | None = EMPTY,
        provider: Provider | None = None,
        context: ContextRepo | None = None,
    ) -> None:
        """A broker; it connects when it starts, and whenever the connection is lost, by itself.

        Args:
            address: Where the daemon answers requests. Without it: where the ServiceLocator at `locator` knows an event manager;
                without that, EVENT_MANAGER_CLIENT_ADDRESS, else tcp://localhost:5101.
            locator: The address of a ServiceLocator.
            level: How events are published, if not said otherwise; see `publish`.
            timeout: How many seconds a confirmation is waited for.
            start_timeout: How many seconds each subscriber may take to subscribe, when it starts.
            max_pending_bytes: At most so many bytes of events wait to be sent, and as many of requests for their answers.
            compress_above: Bodies with more bytes are compressed; their receivers have to know the header `content-encoding`.
            compression: How they are.
            hooks: `event_manager.hooks.Hooks`.
            curve: Keys for encrypted connections, an `event_manager.Curve`; None: those that the environment names; False: none.
            graceful_timeout: How many seconds handlers may take to end when the broker stops.
            decoder: Makes an object of a message.
            parser: Makes a message of an event.
            codec: The former, and the way back, as an object.
            dependencies: FastDepends dependencies of all handlers.
            middlewares: Around all that is published and consumed.
            routers: Routers to include.
            ack_policy: That of all subscribers with a service that have none of their own.
            specification_url: The address in the AsyncAPI document.
            protocol: The protocol there ("event-manager").
            protocol_version: Its version there.
            description: The server's description there.
            tags: The server's tags there.
            security: None: the daemon knows keys only, see `curve`.
            logger: Where it logs; None is nowhere.
            log_level: The level of its own lines.
            apply_types: Whether handlers' arguments are converted to their types.
            serializer: How.
            provider: FastDepends' provider.
            context: FastStream's context.
        """
        if level not in LEVELS:
            raise SetupError(f"level is one of {', '.join(LEVELS)}, not {level!r}")
        if security is not None:
            raise SetupError("security: the daemon has no passwords or tokens; leave it out, and give keys by curve=")
        if address is None and locator is None:
            address = os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
        super().__init__(
            address=address,
            locator=locator,
            timeout=timeout,
            max_pending_bytes=max_pending_bytes,
            compress_above=compress_above,
            compression=compression,
            hooks=hooks,
            curve=curve,
            routers=routers,
            config=EventManagerBrokerConfig(
                start_timeout=start_timeout,
                producer=EventManagerProducer(parser, decoder, level),
                broker_middlewares=middlewares,
                broker_parser=parser,
                broker_decoder=decoder,
                broker_codec=codec,
                logger=make_logger_state(
                    logger=logger, log_level=log_level, default_storage_cls=_LoggerStorage
                ),
                fd_config=FastDependsConfig(
                    use_fastdepends=apply_types,
                    serializer=serializer,
                    provider=provider or dependency_provider,
                    context=context or ContextRepo(),
                ),
                broker_dependencies=tuple(dependencies),
                graceful_timeout=graceful_timeout,
                ack_policy=ack_policy,
                extra_context={"broker": self},
            ),
            specification=BrokerSpec(
                description=description,
                url=[specification_url or address or locator or DEFAULT_ADDRESS],
                protocol=protocol or "event-manager",
                protocol_version=protocol_version,
                tags=tags,
                security=security,
            ),
        )

    async def _connect(self) -> aio.AsyncHub:
        hub = aio.connect(**self._connection_kwargs)
        config = self.config.broker_config
        config.connected = hub
        config.producer.connect(hub, config.fd_config._serializer, config.broker_codec)
        return hub

    async def start(self) -> None:
        """Connects, and starts all subscribers. If one can't, the broker is stopped, and the error raised."""
        await self.connect()
        try:
            await super().start()
        except BaseException:
            with suppress(Exception):
                await self.stop()
            raise

    async def stop(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> None:
        """Stops all subscribers, sends what is published, and closes the connection. `event_manager.MayBeLost` if something that
        was published without confirmation is left."""
        hub, self._connection = self._connection, None
        try:
            await super().stop(exc_type, exc_val, exc_tb)
        finally:
            if hub is not None:
                config = self.config.broker_config
                await config.producer.disconnect()
                config.connected = None
                await hub.close(drain=self.config.graceful_timeout or 0.0)

    async def ping(self, timeout: float | None = None) -> bool:
        """Whether the daemon answers."""
        if self._connection is None:
            return False
        try:
            await self._connection.status(timeout)
        except EventManagerError:
            return False
        return True

    async def publish(  # type: ignore[override]
        self,
        message: SendableMessage = None,
        subject: str = "",
        *,
        reply_to: str = "",
        headers: dict[str, Any] | None = None,
        correlation_id: str | None = None,
        level: Level | None = None,
        id: str | None = None,
        ttl: float | None = None,
        deliver_at: float | None = None,
    ) -> Receipt | None:
        """Publishes an event. Returns the daemon's receipt, or None with level "none".

        Errors are those of `event_manager`: `NoAnswer` if the daemon doesn't confirm in time (the event may be taken), `Nak` if it
        refuses.

        Args:
            message: The body.
            subject: The subject.
            reply_to: The subject for answers.
            headers: More headers. Values that aren't text are written as JSON.
            correlation_id: What belongs together has the same; a new one, if it isn't given.
            level: "memory": the daemon confirms that it has the event; it is sent until then. "disk": it is on the disk of each
                durable service that it matches. "none": it is sent, and nobody waits. None: the broker's.
            id: Of events with the same id, the daemon takes only the first. It is the header `id`, too.
            ttl: Seconds after which workers don't get it any more.
            deliver_at: Nobody gets it before this time, in seconds since 1970.
        """
        cmd = EventManagerPublishCommand(
            message,
            subject=subject,
            reply_to=reply_to,
            headers=headers,
            correlation_id=correlation_id or correlation_id_of(self.config),
            level=level,
            id=id,
            ttl=ttl,
            deliver_at=deliver_at,
            _publish_type=PublishType.PUBLISH,
        )
        receipt: Receipt | None = await self._basic_publish(cmd, producer=self.config.producer)
        return receipt

    async def request(  # type: ignore[override]
        self,
        message: SendableMessage = None,
        subject: str = "",
        *,
        headers: dict[str, Any] | None = None,
        correlation_id: str | None = None,
        level: Level | None = None,
        timeout: float | None = 30.0,
    ) -> EventManagerMessage:
        """Publishes an event and waits for the first answer to it: what a handler returns. TimeoutError if none comes in time."""
        cmd = EventManagerPublishCommand(
            message,
            subject=subject,
            headers=headers,
            correlation_id=correlation_id or correlation_id_of(self.config),
            level=level,
            timeout=timeout,
            _publish_type=PublishType.REQUEST,
        )
        answer: EventManagerMessage = await self._basic_request(cmd, producer=self.config.producer)
        return answer


class _LoggerStorage(DefaultLoggerStorage):
    """A logger whose lines have columns for subjects and services."""

    def __init__(self) -> None:
        super().__init__()
        self._subject_width = 7
        self._service_width = 0

    def register_subscriber(self, params: dict[str, Any]) -> None:
        self._subject_width = max(self._subject_width, len(params.get("subject", "")))
        self._service_width = max(self._service_width, len(params.get("service", "")))

    def get_logger(self, *, context: ContextRepo) -> LoggerProto:
        logger = self._get_logger_ref()
        if logger is None:
            width = 10
            service = f"%(service)-{self._service_width}s | " if self._service_width else ""
            logger = get_broker_logger(
                name="event_manager",
                default_context={"subject": "", "service": ""},
                message_id_ln=width,
                fmt=f"%(asctime)s %(levelname)-8s - %(subject)-{self._subject_width}s | {service}%(message_id)-{width}s - %(message)s",
                context=context,
                log_level=self.logger_log_level,
            )
            self._logger_ref.add(logger)
        return logger

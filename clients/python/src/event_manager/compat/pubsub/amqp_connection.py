"""The connection."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Optional

from .. import pika


@dataclasses.dataclass
class AMQPConfig:
    """Where to connect to: see `pika.ConnectionParameters`. 5672 means the daemon's port."""

    host: str = "localhost"
    port: int = 5672
    username: str = "guest"
    password: str = "guest"
    virtual_host: str = "/"
    connection_attempts: int = 3
    retry_delay: float = 5
    heartbeat: int = 600
    blocked_connection_timeout: float = 300


class AMQPConnection:
    """A connection and its channel. AMQPConnectionError if there is no daemon."""

    def __init__(self, config: Optional[AMQPConfig] = None) -> None:
        self.config = config or AMQPConfig()
        self._connection: Optional[pika.BlockingConnection] = None
        self._channel: Optional[pika.BlockingChannel] = None

    def connect(self) -> None:
        """Connects, if it isn't connected."""
        if self.is_connected:
            return
        config = self.config
        self._connection = pika.BlockingConnection(
            pika.ConnectionParameters(
                host=config.host,
                port=config.port,
                virtual_host=config.virtual_host,
                credentials=pika.PlainCredentials(config.username, config.password),
                connection_attempts=config.connection_attempts,
                retry_delay=config.retry_delay,
                heartbeat=config.heartbeat,
                blocked_connection_timeout=config.blocked_connection_timeout,
            )
        )
        self._channel = self._connection.channel()

    @property
    def is_connected(self) -> bool:
        """Whether it is connected."""
        return self._connection is not None and self._connection.is_open

    @property
    def connection(self) -> pika.BlockingConnection:
        """pika's connection."""
        if self._connection is None:
            raise pika.exceptions.ConnectionWrongStateError("the connection is not open; call connect()")
        return self._connection

    @property
    def channel(self) -> pika.BlockingChannel:
        """pika's channel; another one, if that one was closed by an error."""
        if self._channel is None or (self._channel.is_closed and self.connection.is_open):
            self._channel = self.connection.channel()
        return self._channel

    def get_channel(self) -> pika.BlockingChannel:
        """The channel."""
        return self.channel

    def declare_exchange(self, exchange_name: str, exchange_type: str = "topic", durable: bool = True, auto_delete: bool = False) -> None:
        """Declares an exchange: topic, direct or fanout."""
        self.channel.exchange_declare(exchange_name, exchange_type, durable=durable, auto_delete=auto_delete)

    def declare_queue(
        self,
        queue_name: str,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Optional[Dict[str, Any]] = None,
    ) -> str:
        """Declares a queue; returns its name."""
        answer = self.channel.queue_declare(
            queue_name, durable=durable, exclusive=exclusive, auto_delete=auto_delete, arguments=arguments
        )
        return str(answer.method.queue)

    def bind_queue(self, queue_name: str, exchange_name: str, routing_key: str = "#") -> None:
        """Binds a queue."""
        self.channel.queue_bind(queue_name, exchange_name, routing_key)

    def close(self) -> None:
        """Closes it; what is not answered goes back into its queue. MayBeLost if something published is left."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None and connection.is_open:
            connection.close()

    def __enter__(self) -> "AMQPConnection":
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

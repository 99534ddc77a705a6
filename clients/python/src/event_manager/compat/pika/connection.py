"""Where to connect to."""

from __future__ import annotations

import os
import urllib.parse
from typing import Any, Optional

from ... import hub as _hub
from ...errors import InvalidArgument


class PlainCredentials:
    """A user and a password. The daemon doesn't look at them."""

    def __init__(self, username: str, password: str, erase_on_connect: bool = False) -> None:
        self.username = username
        self.password = password
        self.erase_on_connect = erase_on_connect


class ExternalCredentials:
    """The daemon doesn't look at credentials."""


class ConnectionParameters:
    """A daemon's host and port.

    5672 and 5671, RabbitMQ's ports, mean the daemon's, 5101. The environment's EVENT_MANAGER_CLIENT_ADDRESS goes before
    all. `virtual_host`, `credentials`, `ssl_options` and what belongs to AMQP's frames are accepted, and mean nothing here.
    """

    DEFAULT_HOST = "localhost"
    DEFAULT_PORT = 5672

    def __init__(
        self,
        host: str = DEFAULT_HOST,
        port: Any = DEFAULT_PORT,
        virtual_host: str = "/",
        credentials: Any = None,
        channel_max: int = 65535,
        frame_max: int = 131072,
        heartbeat: Any = None,
        ssl_options: Any = None,
        connection_attempts: int = 1,
        retry_delay: float = 2.0,
        socket_timeout: Optional[float] = 10.0,
        stack_timeout: Optional[float] = 15.0,
        locale: str = "en_US",
        blocked_connection_timeout: Optional[float] = None,
        client_properties: Any = None,
        tcp_options: Any = None,
        **more: Any,
    ) -> None:
        if more:
            raise TypeError(f"unexpected kwargs: {more!r}")
        try:
            number = int(port)
        except (TypeError, ValueError):
            raise InvalidArgument(f"{port!r} is no port") from None
        if not host or not 0 < number < 65536 or int(connection_attempts) < 1 or float(retry_delay) < 0:
            raise InvalidArgument("a connection has a host, a port, at least 1 attempt, and no negative delay")
        self.host = host
        self.port = number
        self.virtual_host = virtual_host
        self.credentials = credentials or PlainCredentials("guest", "guest")
        self.channel_max = channel_max
        self.frame_max = frame_max
        self.heartbeat = heartbeat
        self.ssl_options = ssl_options
        self.connection_attempts = int(connection_attempts)
        self.retry_delay = float(retry_delay)
        self.socket_timeout = socket_timeout
        self.stack_timeout = stack_timeout
        self.locale = locale
        self.blocked_connection_timeout = blocked_connection_timeout
        self.client_properties = client_properties
        self.tcp_options = tcp_options

    @property
    def address(self) -> str:
        """The daemon's address."""
        port = 5101 if self.port in (5671, 5672) else self.port
        return os.environ.get(_hub.ADDRESS_VARIABLE) or f"tcp://{self.host}:{port}"


Parameters = ConnectionParameters


class URLParameters(ConnectionParameters):
    """As of `amqp://user:password@host:port/virtual-host?heartbeat=600`."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("amqp", "amqps"):
            raise InvalidArgument(f"{url!r} doesn't begin with amqp:// or amqps://")
        query = dict(urllib.parse.parse_qsl(parts.query))
        known = {"heartbeat": float, "connection_attempts": int, "retry_delay": float, "socket_timeout": float,
                 "stack_timeout": float, "blocked_connection_timeout": float}  # fmt: skip
        try:
            port = parts.port or self.DEFAULT_PORT
            options: Any = {name: known[name](value) for name, value in query.items() if name in known}
        except ValueError as error:
            raise InvalidArgument(f"{url!r} is no URL of a broker: {error}") from None
        super().__init__(
            parts.hostname or self.DEFAULT_HOST,
            port,
            urllib.parse.unquote(parts.path[1:]) or "/",
            PlainCredentials(urllib.parse.unquote(parts.username or "guest"), urllib.parse.unquote(parts.password or "guest")),
            **options,
        )

"""Errors, with pika's names. All are EventManagerErrors, too."""

from __future__ import annotations

from typing import Any, Sequence

from ...errors import EventManagerError


class AMQPError(EventManagerError):
    """The base class."""


class AMQPConnectionError(AMQPError):
    """There is no daemon, or it does not answer."""


class ConnectionClosed(AMQPConnectionError):
    """The connection is closed."""


class ConnectionWrongStateError(AMQPConnectionError):
    """The connection is closed, or not open yet."""


class AMQPChannelError(AMQPError):
    """A channel can't do that."""


class ChannelClosed(AMQPChannelError):
    """The channel is closed, because of `reply_code` and `reply_text`."""

    def __init__(self, reply_code: int, reply_text: str) -> None:
        super().__init__(f"({reply_code}) {reply_text}")
        self.reply_code = reply_code
        self.reply_text = reply_text


class ChannelClosedByBroker(ChannelClosed):
    """What was asked for can't be; the channel is closed, as RabbitMQ does it."""


class ChannelWrongStateError(AMQPChannelError):
    """The channel is closed."""


class DuplicateConsumerTag(AMQPChannelError):
    """There is a consumer with this tag on the channel."""


class UnroutableError(AMQPError):
    """A mandatory message matched no queue. `messages` has what came back."""

    def __init__(self, messages: Sequence[Any]) -> None:
        super().__init__(f"{len(messages)} mandatory message(s) matched no queue; nobody got them")
        self.messages = messages


class NackError(AMQPError):
    """The daemon did not confirm a message; it may be published again."""

    def __init__(self, messages: Sequence[Any], why: str = "") -> None:
        super().__init__(f"{len(messages)} message(s) were not confirmed: {why}; publish them again")
        self.messages = messages

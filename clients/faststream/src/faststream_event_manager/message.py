"""Messages: events of the daemon, as FastStream wants them."""

from __future__ import annotations

from event_manager import Event
from faststream.message import StreamMessage


class EventManagerMessage(StreamMessage["Event[bytes]"]):
    """An event. `raw_message` is the `event_manager.Event`, with `subject`, `attempt` and `frames`.

    Acknowledgements are for subscribers with a `service`; without one they do nothing.
    """

    @property
    def subject(self) -> str:
        """What the event is about."""
        return self.raw_message.subject

    @property
    def attempt(self) -> int:
        """1, and more if the event may have been delivered before."""
        return self.raw_message.attempt

    async def ack(self) -> None:
        """The event is done."""
        if self.committed is None and self._acknowledged:
            self.raw_message.ack()
        await super().ack()

    async def nack(self, delay: float | None = None, reason: str = "") -> None:
        """The event is to come again, after so many seconds, or (None) as the daemon's `retry` says."""
        if self.committed is None and self._acknowledged:
            self.raw_message.nak(delay, reason)
        await super().nack()

    async def reject(self, reason: str = "") -> None:
        """The event becomes a dead letter."""
        if self.committed is None and self._acknowledged:
            self.raw_message.term(reason)
        await super().reject()

    async def in_progress(self) -> None:
        """The event is still worked on. While a handler runs, this is said by itself."""
        if self.committed is None and self._acknowledged:
            self.raw_message.wip()

    @property
    def _acknowledged(self) -> bool:
        return self.raw_message.id is not None

"""Who handles an event, and when it is its turn."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future
from typing import Any, Callable, Deque, Optional

from .messages import Event, MessageHandler, MessageHandlerBuilder


class Fixed(MessageHandlerBuilder):
    """One handler for all, or a function."""

    def __init__(self, handler: Any) -> None:
        self._handler = _Function(handler) if not hasattr(handler, "handle_event") else handler

    def build_singletons(self) -> None:
        pass

    def build_message_handler(self) -> Any:
        return self._handler

    def destroy_message_handler(self, message_handler: Any) -> None:
        pass

    def destroy_singletons(self) -> None:
        pass


class _Function(MessageHandler):
    def __init__(self, function: Callable[[Any, Any], None]) -> None:
        self.handle_event = function  # type: ignore[assignment, method-assign]


class Lane:
    """The events of one subject that may not be handled at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = False
        self._waiting: "Deque[Future[None]]" = deque()

    def enter(self, may_wait: bool) -> "Optional[Future[None]]":
        """What is done when it is the caller's turn; None if it is taken and the caller may not wait."""
        turn: "Future[None]" = Future()
        with self._lock:
            if self._busy:
                if not may_wait:
                    return None
                self._waiting.append(turn)
                return turn
            self._busy = True
        turn.set_result(None)
        return turn

    def leave(self) -> None:
        with self._lock:
            if not self._waiting:
                self._busy = False
                return
            turn = self._waiting.popleft()
        turn.set_result(None)


async def in_own_thread(function: Callable[[Event], None], event: Event) -> None:
    """Runs it in a thread of its own: a pool's size would bound how many run."""
    done: "Future[None]" = Future()

    def run() -> None:
        try:
            function(event)
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, name=f"event-{event.subject}", daemon=True).start()
    await asyncio.wrap_future(done)

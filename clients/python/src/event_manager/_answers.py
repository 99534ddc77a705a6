"""A service's answers to sync events: a port of its own, which a ServiceLocator knows."""

from __future__ import annotations

import inspect
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, List, Optional

from . import _typed
from ._messages import TOKENS, Answerer, Frames, Reply, read_token
from .errors import DecodeError, EventManagerError, Reject

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from ._core import Core
    from ._execution import Execution
    from .service import Service

log = logging.getLogger("event_manager")

#: The data type STRING.
_STRING = b"6"
_AGAIN_SECONDS = 0.5


class Answers:
    """Answers sync events by the service's functions, at most `concurrency` at a time; while `credit` wait, others are refused."""

    def __init__(self, service: "Service", core: "Core", execution: "Execution", aio: "Optional[AbstractEventLoop]") -> None:
        self._service = service
        self._core = core
        self._execution = execution
        self._aio = aio
        #: Set when the locator knows where to ask.
        self.registered = threading.Event()
        self._room = threading.BoundedSemaphore(service._options["credit"])
        self._pool = ThreadPoolExecutor(service._concurrency, thread_name_prefix=f"{service.name}-answers")
        self._answerer: Optional[Answerer] = None
        self._address = ""
        self._over = False
        self._told_none = False

    def register(self) -> None:
        """Tells the locator where to ask, and again before it forgets. In the hub's thread."""
        locator, host = self._core.registrar(), self._core.requests.link.local_host
        if self._over:
            return
        if locator is None or not host:
            if self._core.without_locator and not self._told_none:
                self._told_none = True
                log.warning("%s: the daemon has no ServiceLocator of its own; use connect(locator=...) to answer", self._service.name)
            self._core.loop.call_later(_AGAIN_SECONDS, self.register)
            return
        if self._answerer is None:
            curve = self._core.curve
            self._answerer = Answerer(host, self._came) if curve is None else Answerer(host, self._came, curve.new_answerer)
            self._address = f"tcp://{host}:{self._answerer.port}"
        try:
            locator.ask({"token": "3.1", "data": [self._service.name, self._address]}, 5.0).add_done_callback(self._registered)
        except EventManagerError as error:
            log.warning("%s: not registered, trying again: %s", self._service.name, error)
            self._core.loop.call_later(_AGAIN_SECONDS, self.register)

    def _registered(self, answer: "Future[Any]") -> None:
        error = answer.exception()
        if self._over:
            return
        if error is None:
            told = answer.result()
            self.registered.set()
            self._core.loop.call_later(max(0.1, float(told[0] if told else 30_000) / 3000), self.register)
        else:
            log.warning("%s: not registered, trying again: %s", self._service.name, error)
            self._core.loop.call_later(_AGAIN_SECONDS, self.register)

    def stop(self) -> None:
        """Answers no more, and has the locator forget it."""
        self._over = True
        if self._answerer is not None:
            try:
                locator = self._core.registrar()
                if locator is not None and self.registered.is_set():
                    locator.ask({"token": "3.3", "data": [self._service.name, self._address]}, 1.0).result()
            except EventManagerError as error:
                log.info("%s: not taken from the locator, which will forget it: %s", self._service.name, error)
            self._answerer.close()
        self._pool.shutdown(wait=False)

    def _came(self, frames: Frames, reply: Reply) -> None:
        read = read_token(frames[0])
        if read is None:
            raise DecodeError("a message's first frame is its token; mend its sender")
        if not self._room.acquire(blocking=False):
            reply([read[1](TOKENS["TK_SYS_NAK"]), _STRING, b"busy: too many calls wait for this service; ask again later"])
            return
        try:
            self._pool.submit(self._answer, frames, read[1], reply)
        except RuntimeError:  # It stops.
            self._room.release()

    def _answer(self, frames: Frames, write: Any, reply: Reply) -> None:
        try:
            try:
                data = self._run(frames)
                answer = [write(TOKENS["TK_SYS_ACK"]), _STRING, data]
            except Exception as error:
                code = "rejected" if isinstance(error, Reject) else "undecodable" if isinstance(error, DecodeError) else "failed"
                sentence = " ".join(f"{code}: {type(error).__name__}: {error}".split())[:1000]
                log.warning("%s: a call is refused: %s", self._service.name, sentence)
                answer = [write(TOKENS["TK_SYS_NAK"]), _STRING, sentence.encode()]
            reply(answer)
        except EventManagerError as error:
            log.info("%s: %s", self._service.name, error)
        finally:
            self._room.release()

    def _run(self, frames: Frames) -> bytes:
        fields: List[bytes] = (frames[2] if len(frames) > 2 else b"").split(b"\0")
        subject = fields[1] if len(fields) > 1 else b""
        handler = self._service._answering.get(subject.decode("utf-8", "replace"))
        if handler is None:
            raise Reject("this service does not answer to that subject")
        result = self._execution.answer(handler, [subject, fields[0]])
        if inspect.isawaitable(result):
            import asyncio

            async def wait() -> Any:
                return await result

            result = asyncio.run_coroutine_threadsafe(wait(), self._aio).result() if self._aio else asyncio.run(wait())
        codec = handler.codec
        return _typed.encode(result) if codec is None or isinstance(result, bytes) else codec.encode(result)



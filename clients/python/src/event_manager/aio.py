"""The hub for asyncio: the same words as `event_manager.Hub`, to be awaited.

    async with event_manager.aio.connect() as hub:
        await hub.emit("order.created", {"id": 1})

Input and output are in the hub's thread; async handlers run in the loop that started their service.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from typing import TYPE_CHECKING, Any, Callable, List, Literal, Mapping, Optional, Sequence, Type, TypeVar, Union, overload

from . import _calls, _check, _event, _typed
from . import hub as _hub
from ._calls import Reply
from ._event import Event
from ._subscriber import Subscription
from . import lease as _lease
from .errors import Closed, EventManagerError, InvalidArgument, LeaseLost, Nak, NoAnswer
from .hub import Hub, Receipt, Stats
from .lease import Lease
from .service import Service

if TYPE_CHECKING:
    from .codecs import Codec
    from .curve import Curve
    from .hooks import Hooks
    from .letters import DeadLetter, DeadLetters, Settled
    from .status import Status

T = TypeVar("T")


async def _in_thread(call: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, functools.partial(call, *arguments))


class AsyncSubscription:
    """The events that come, in their order; see `event_manager.Subscription`. One task at a time may take them."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        subscription.listener = self._notify

    def _notify(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:  # The loop is closed: nobody waits any more.
            pass

    @property
    def dropped(self) -> int:
        """Events that were dropped because they were not taken in time."""
        return self._subscription.dropped

    async def next(self, timeout: Optional[float] = None) -> "Event[bytes]":
        """The next event. NoAnswer if none comes for `timeout` seconds (None: for ever); Closed at the end."""
        try:
            return await asyncio.wait_for(self._next(), None if timeout is None else _check.seconds(timeout))
        except asyncio.TimeoutError:
            raise NoAnswer(f"no event came for {timeout} s", may_be_taken=False) from None

    async def _next(self) -> "Event[bytes]":
        while True:
            # Before it looks, so that nothing that comes in between is overlooked.
            self._changed.clear()
            event = self._subscription.take()
            if event is not None:
                return event
            await self._changed.wait()

    def __aiter__(self) -> "AsyncSubscription":
        return self

    async def __anext__(self) -> "Event[bytes]":
        try:
            return await self._next()
        except Closed:
            raise StopAsyncIteration from None

    async def close(self) -> None:
        """Ends it. What came before can still be taken."""
        self._subscription.close()

    async def __aenter__(self) -> "AsyncSubscription":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncDeadLetters:
    """See `event_manager.letters.DeadLetters`."""

    def __init__(self, letters: "DeadLetters") -> None:
        self._letters = letters

    async def list(self, limit: int = 1000, **which: Any) -> "List[DeadLetter]":
        """The first letters, oldest first, that match."""
        return await _in_thread(lambda: list(itertools.islice(self._letters.list(**which), limit)))

    async def show(self, letter: "Union[int, DeadLetter]") -> "Optional[DeadLetter]":
        """One letter, or that of this number, with its frames."""
        return await _in_thread(self._letters.show, letter)

    async def replay(self, numbers: Optional[Sequence[int]] = None, **which: Any) -> "Settled":
        """Gives them to the service again."""
        return await _in_thread(lambda: self._letters.replay(numbers, **which))

    async def purge(self, numbers: Optional[Sequence[int]] = None, **which: Any) -> "Settled":
        """Deletes them."""
        return await _in_thread(lambda: self._letters.purge(numbers, **which))


class AsyncLease:
    """See `event_manager.Lease`; `lost` is an event of asyncio here. With `cancel`, what stands in `async with` is cancelled when the
    lease is lost, and LeaseLost is raised."""

    def __init__(self, hub: Hub, name: str, ttl: float, holder: Optional[str], wait: Optional[float], cancel: bool) -> None:
        self._lease = Lease(hub, name, ttl=ttl, holder=holder, wait=wait, on_lost=self._tell)
        self._wait = wait
        self._loop = asyncio.get_running_loop()
        #: Set when it is not held any more, though it was not released.
        self.lost = asyncio.Event()
        self._cancel = cancel
        self._task: "Optional[asyncio.Task[Any]]" = None
        self._cancelled = False

    def _tell(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._lose)
        except RuntimeError:  # The loop is closed: nobody waits any more.
            pass

    def _lose(self) -> None:
        self.lost.set()
        if self._cancel and self._task is not None and not self._task.done():
            self._cancelled = True
            self._task.cancel()

    @property
    def held(self) -> bool:
        """Whether it is held now."""
        return self._lease.held

    @property
    def token(self) -> int:
        """The number that it was given, higher than all before; 0 if it isn't held."""
        return self._lease.token

    def check(self) -> int:
        """The token; LeaseLost if it is not held."""
        return self._lease.check()

    async def acquire(self, wait: Optional[float] = None) -> bool:
        """Waits until it is held, for at most `wait` seconds (None: for ever; 0 asks once). Whether it is."""
        lease = self._lease
        deadline = None if wait is None else self._loop.time() + wait
        self.lost.clear()
        while True:
            left = None if deadline is None else deadline - self._loop.time()
            asked_at, answer = lease._ask_for(None if left is None else _lease._clock() + left)
            try:
                if lease._take(asked_at, await asyncio.wrap_future(answer)):
                    return True
            except (Nak, NoAnswer) as error:
                lease._judge(error)
            left = None if deadline is None else deadline - self._loop.time()
            if left is not None and left <= 0:
                return False
            pause = lease._pause()
            await asyncio.sleep(pause if left is None else min(pause, left))

    async def release(self) -> None:
        """Gives it back. Does nothing if it isn't held."""
        self._task = None
        released = self._lease._release()
        if released is not None:
            try:
                await asyncio.wrap_future(released)
            except EventManagerError:
                pass  # It ends by itself.

    async def __aenter__(self) -> "AsyncLease":
        if not await self.acquire(self._wait):
            raise NoAnswer(f"the lease {self._lease.name} was not free for {self._wait} s; try again later", may_be_taken=False)
        self._task = asyncio.current_task()
        return self

    async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> None:
        was_held = self.held
        await asyncio.shield(self.release())
        if not was_held and (kind is None or (self._cancelled and kind is asyncio.CancelledError)):
            uncancel = getattr(asyncio.current_task(), "uncancel", None)  # From Python 3.11 on.
            if self._cancelled and uncancel is not None:
                uncancel()
            raise LeaseLost(
                f"the lease {self._lease.name} was lost meanwhile; another may have done the same; check what was done without it"
            )


class AsyncHub:
    """A connection to a daemon, which comes back by itself; see `event_manager.Hub` for what each method means."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    @property
    def hub(self) -> Hub:
        """The same connection for what is not async; its methods wait."""
        return self._hub

    async def publish(self, subject: str, body: Any = b"", *, headers: Optional[Mapping[str, str]] = None) -> None:
        """Publishes an event, to be sent as soon as there is a connection; waits if `max_pending_bytes` wait already."""
        publisher = self._hub._alive().publisher
        if self._hub._packs:
            body, headers = self._hub._pack(subject, body, headers)
        event = _event.encode(subject, body, headers)
        if not publisher.offer(event):
            await _in_thread(publisher.publish, event, self._hub.timeout)

    async def flush(self, timeout: Optional[float] = None) -> None:
        """Waits until the daemon has taken all that was published before; MayBeLost if that isn't sure."""
        await _in_thread(self._hub.flush, timeout)

    async def emit(
        self,
        subject: str,
        body: Any = b"",
        *,
        id: Optional[str] = None,
        level: Literal["memory", "disk", "engine"] = "memory",
        ttl: Optional[float] = None,
        deliver_at: Optional[float] = None,
        headers: Optional[Mapping[str, str]] = None,
        timeout: Optional[float] = None,
    ) -> Receipt:
        """Publishes an event and waits until the daemon confirms it. If it is cancelled, the event may be taken."""
        event_id, answer = self._hub._emit(subject, body, id, level, ttl, deliver_at, headers, timeout)
        return _hub._receipt(event_id, await asyncio.wrap_future(answer))

    @overload
    async def call(self, subject: str, body: Any = b"", *, answers: Literal["first"] = "first", timeout: float = 30.0) -> Any: ...
    @overload
    async def call(
        self, subject: str, body: Any = b"", *, answers: Literal["first"] = "first", timeout: float = 30.0, reply: Type[T]
    ) -> T: ...
    @overload
    async def call(self, subject: str, body: Any = b"", *, answers: Literal["all"], timeout: float = 30.0) -> List[Reply]: ...

    async def call(
        self,
        subject: str,
        body: Any = b"",
        *,
        answers: Literal["first", "all"] = "first",
        timeout: float = 30.0,
        reply: Any = dict,
    ) -> Any:
        """Asks the services that are subscribed to a subject."""
        decode = _typed.decoder(reply)
        try:
            data = await asyncio.wrap_future(self._hub._call(subject, body, answers, timeout))
        except NoAnswer as error:
            raise _calls.unanswered(error) from error
        replies = _calls.replies_of(data)
        return replies if answers == "all" else _calls.first(subject, replies, decode, timeout)

    async def subscribe(
        self,
        *subjects: str,
        queue: int = 10_000,
        queue_bytes: int = 64 << 20,
        when_full: Literal["drop-oldest", "drop-newest"] = "drop-oldest",
        timeout: Optional[float] = None,
        wait: bool = True,
    ) -> AsyncSubscription:
        """Subscribes to every event whose subject begins with one of these texts ("" is everything)."""
        subscription = self._hub.subscribe(*subjects, queue=queue, queue_bytes=queue_bytes, when_full=when_full, wait=False)
        if not wait:
            return AsyncSubscription(subscription)
        try:
            await _in_thread(subscription.wait, self._hub.timeout if timeout is None else timeout)
        except BaseException:
            subscription.close()
            raise
        return AsyncSubscription(subscription)

    async def start(self, service: Service, timeout: Optional[float] = None) -> None:
        """Starts a service, as `Service.start` does; its async handlers run in this loop."""
        wait = self._hub.timeout if timeout is None else timeout
        if wait == float("inf"):
            raise InvalidArgument("a service of an AsyncHub doesn't wait for ever; start it again after NoAnswer")
        works = service._begin(self._hub, asyncio.get_running_loop())
        await _in_thread(service._wait_started, works, wait)

    async def stop(self, service: Service, drain: float = 5.0, unsubscribe: bool = False) -> None:
        """Stops a service, as `Service.stop` does, while this loop goes on with its handlers."""
        await _in_thread(service.stop, drain, unsubscribe)

    def lease(
        self, name: str, *, ttl: float = 10.0, holder: Optional[str] = None, wait: Optional[float] = None, cancel: bool = False
    ) -> AsyncLease:
        """A lease: of all programs that want it, one has it at a time; see `event_manager.Hub.lease`. With `cancel`, what stands in
        `async with` is cancelled when it is lost."""
        return AsyncLease(self._hub, name, ttl, holder, wait, cancel)

    def dead_letters(self, service: str) -> "AsyncDeadLetters":
        """The dead letters of a service that the daemon keeps."""
        return AsyncDeadLetters(self._hub.dead_letters(service))

    async def request(self, fields: Mapping[str, Any], *, repeatable: bool = False, timeout: Optional[float] = None) -> Any:
        """Sends any request of docs/protocol.md, and returns the `data` of its answer."""
        return await asyncio.wrap_future(self._hub._request(fields, repeatable, timeout))

    async def status(self, timeout: Optional[float] = None) -> "Status":
        """The daemon's state: docs/status.md explains each field."""
        wait = self._hub.timeout if timeout is None else timeout
        status: "Status" = await asyncio.wrap_future(self._hub._alive().requests.ask({"token": "status"}, wait))
        return status

    @property
    def stats(self) -> Stats:
        """Counts of events, in this process."""
        return self._hub.stats

    async def close(self, drain: float = 5.0) -> None:
        """Stops services, sends what is published, for at most `drain` seconds each, and closes all."""
        await _in_thread(self._hub.close, drain)

    async def __aenter__(self) -> "AsyncHub":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def connect(
    address: Optional[str] = None,
    *,
    timeout: float = 5.0,
    max_pending_bytes: int = 64 << 20,
    codec: "Optional[Codec]" = None,
    compress_above: Optional[int] = None,
    compression: Literal["deflate", "zstd"] = "deflate",
    hooks: "Sequence[Hooks]" = (),
    locator: Optional[str] = None,
    name: Optional[str] = None,
    curve: "Union[Curve, Literal[False], None]" = None,
) -> AsyncHub:
    """A hub for asyncio; see `event_manager.connect`."""
    return AsyncHub(
        _hub.connect(
            address,
            timeout=timeout,
            max_pending_bytes=max_pending_bytes,
            codec=codec,
            compress_above=compress_above,
            compression=compression,
            hooks=hooks,
            locator=locator,
            name=name,
            curve=curve,
        )
    )


__all__ = ["AsyncDeadLetters", "AsyncHub", "AsyncLease", "AsyncSubscription", "connect"]

"""Arguments that can't be used are refused with a typed error, before anything is sent."""

import datetime
import functools
import threading

import pytest
from support import PATIENCE, Log, details, settled

import event_manager as em
from event_manager import aio

NAN, INFINITY = float("nan"), float("inf")


WRONG = {
    "surrogate subject": lambda hub: hub.publish("\ud800"),
    "subject of bytes": lambda hub: hub.publish(b"a"),
    "subject that is a list": lambda hub: hub.publish(["a"]),
    "no subject": lambda hub: hub.emit(None),
    "surrogate body": lambda hub: hub.publish("a", "\ud800"),
    "surrogate header": lambda hub: hub.publish("a", headers={"x": "\ud800"}),
    "header of a number": lambda hub: hub.publish("a", headers={"x": 1}),
    "empty id": lambda hub: hub.emit("a", id=""),
    "surrogate id": lambda hub: hub.emit("a", id="\ud800"),
    "id of a number": lambda hub: hub.emit("a", id=5),
    "ttl below 0": lambda hub: hub.emit("a", ttl=-1),
    "ttl of text": lambda hub: hub.emit("a", ttl="5"),
    "ttl NaN": lambda hub: hub.emit("a", ttl=NAN),
    "ttl for ever": lambda hub: hub.emit("a", ttl=INFINITY),
    "deliver_at of a datetime": lambda hub: hub.emit("a", deliver_at=datetime.datetime.now()),
    "deliver_at NaN": lambda hub: hub.emit("a", deliver_at=NAN),
    "timeout of text": lambda hub: hub.emit("a", timeout="1"),
    "timeout NaN": lambda hub: hub.status(timeout=NAN),
    "flush of text": lambda hub: hub.flush("1"),
    "emit of 70 MiB": lambda hub: hub.emit("a", bytes(70 << 20)),
    "publish of 70 MiB": lambda hub: hub.publish("a", bytes(70 << 20)),
    "timeout below 0": lambda hub: hub.emit("a", timeout=-1),
    "request of a number": lambda hub: hub.request(5),
    "next event within text": lambda hub: hub.subscribe("a").next(timeout="x"),
    "call NaN": lambda hub: hub.call("a", timeout=NAN),
    "subscribe to a number": lambda hub: hub.subscribe(5),
    "subscribe to a surrogate": lambda hub: hub.subscribe("\ud800"),
    "subscribe to 100 kB": lambda hub: hub.subscribe("x" * 100_000),
    "subscribe with a queue of text": lambda hub: hub.subscribe("a", queue="5"),
    "address of a number": lambda hub: em.connect(5),
    "address with half a bracket": lambda hub: em.connect("tcp://[::1"),
    "long path": lambda hub: em.connect("ipc://" + "x" * 108),
    "hub's timeout NaN": lambda hub: em.connect(hub.address, timeout=NAN),
    "hub's codec of text": lambda hub: em.connect(hub.address, codec="json"),
    "hooks that are none": lambda hub: em.connect(hub.address, hooks=object()),
    "service of a number": lambda hub: em.Service(5),
    "service with a NUL": lambda hub: em.Service("a\0b"),
    "surrogate service": lambda hub: em.Service("\ud800"),
    "credit of text": lambda hub: em.Service("S", credit="5"),
    "half a concurrency": lambda hub: em.Service("S", concurrency=2.5),
    "retry of a number": lambda hub: em.Service("S", retry=5),
    "middleware of a number": lambda hub: em.Service("S", middleware=5),
    "middleware of numbers": lambda hub: em.Service("S", middleware=[5]),
    "service's codec of text": lambda hub: em.Service("S", codec="json"),
    "pattern of a number": lambda hub: em.Service("S").on(5)(print),
    "handler of a number": lambda hub: em.Service("S").on("a")(5),
    "builtin class": lambda hub: em.Service("S").on("a")(dict),
    "annotation that isn't there": lambda hub: em.Service("S").on("a")(unresolvable),
    "headers of a number": lambda hub: hub.emit("a", headers=5),
    "headers of a list": lambda hub: hub.publish("a", headers=["x"]),
    "event by name only": lambda hub: em.Service("S").on("a")(by_name),
    "start on nothing": lambda hub: with_handler().start(None),
    "start on an AsyncHub": lambda hub: with_handler().start(aio.connect(hub.address)),
    "retry of text": lambda hub: em.Retry(max="5"),
    "retry NaN": lambda hub: em.Retry(initial=NAN),
    "retry on text": lambda hub: em.Retry(on="Exception"),
    "run of text": lambda hub: em.run("module:service"),
}


def unresolvable(body: "Nowhere") -> None:  # noqa: F821
    pass


def by_name(body, *, event: em.Event) -> None:
    pass


def with_handler():
    service = em.Service("S")
    service.on("a")(lambda body: None)
    return service


@pytest.fixture(scope="module")
def shared(hub_session):
    with em.connect(hub_session.address, timeout=PATIENCE) as made:
        yield made


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(shared, name):
    with pytest.raises(em.InvalidArgument) as error:
        WRONG[name](shared)
    assert isinstance(error.value, ValueError) and not error.value.may_be_taken
    # The hub works as before.
    assert shared.emit("a", timeout=PATIENCE).services == 0


def test_arguments_that_are_unusual(shared):
    with pytest.raises(em.NoResponders):
        shared.call("nobody", timeout=INFINITY)
    assert shared.status(timeout=INFINITY)["draining"] is False
    with em.connect(shared.address, timeout=INFINITY) as patient:
        assert patient.emit("a").services == 0
        try:
            receipt = patient.emit("a", timeout=0)
        except em.NoAnswer as error:
            assert "0 s" in str(error)
        else:  # its answer was there before this thread looked
            assert receipt.services == 0


class Callable:
    def __init__(self, log):
        self.log = log

    def __call__(self, body: dict) -> None:
        self.log.add(body["id"])


class AsyncCallable(Callable):
    async def __call__(self, body: dict) -> None:
        self.log.add(body["id"])


def test_handlers_of_every_kind(hub, connected):
    def handle(log, body: dict) -> None:
        log.add(body["id"])

    async def handle_async(log, body: dict) -> None:
        log.add(body["id"])

    kinds = [Callable, AsyncCallable, lambda log: functools.partial(handle, log), lambda log: functools.partial(handle_async, log),
             lambda log: Callable(log).__call__]  # fmt: skip
    for number, kind in enumerate(kinds):
        log, service = Log(), em.Service(f"S{number}")
        service.on("a")(kind(log))
        service.start(connected)
        connected.publish("a", {"id": number})
        assert log.wait(1) == [number]
        service.stop(unsubscribe=True)


def test_a_generator_that_nobody_would_run_is_no_success(hub, connected):
    def handle(body: bytes):
        yield body

    async def handle_async(body: bytes):
        yield body

    for handler in (handle, handle_async):
        service = em.Service(handler.__name__, retry=em.Retry(max=1))
        service.on("a")(handler)
        service.start(connected)
    connected.publish("a", b"1")
    settled(hub, connected)
    for handler in (handle, handle_async):
        assert "returned the generator" in details(hub, handler.__name__)[0]


def test_a_coroutine_that_nobody_would_await_is_no_success(hub, connected):
    ran = threading.Event()

    async def work(body: bytes) -> None:
        ran.set()

    for events in (False, True):
        service = em.Service(f"Billing {events}", retry=em.Retry(max=1))
        if events:

            def handle(body: bytes, event: em.Event) -> object:
                return work(body)

            service.on("a")(handle)
            service.on("a")(lambda body: None)
        else:
            service.on("a")(lambda body: work(body))
            service.on("never")(work)  # so that it has a loop
        service.start(connected)
    connected.publish("a", b"1")
    settled(hub, connected)
    for events in (False, True):
        assert "returned the coroutine" in details(hub, f"Billing {events}")[0]
    assert not ran.is_set()

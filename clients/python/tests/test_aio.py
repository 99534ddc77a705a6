"""The hub for asyncio."""

import asyncio
import dataclasses
import threading

import pytest

import event_manager as em
from event_manager import aio
from event_manager._ask import ask

PATIENCE = 60.0


@dataclasses.dataclass
class Order:
    id: int


def run(hub, work, **options):
    """Runs `work(client)` with a client of this daemon."""

    async def main():
        async with aio.connect(hub.address, **{"timeout": PATIENCE, **options}) as client:
            return await asyncio.wait_for(work(client), PATIENCE)

    return asyncio.run(main())


def test_publish_and_subscribe(hub):
    async def work(client):
        async with await client.subscribe("order.") as events:
            for number in range(100):
                await client.publish("order.new", {"number": number}, headers={"a": "b"})
            await client.flush()
            came = []
            async for event in events:
                came.append(event)
                if len(came) == 100:
                    break
            assert [event.raw for event in came] == [b'{"number":%d}' % n for n in range(100)]
            assert came[0].headers == {"a": "b"}
            with pytest.raises(em.NoAnswer, match="no event"):
                await events.next(0.01)
            assert events.dropped == 0
            assert client.stats == em.Stats(100, 0)
        assert [event async for event in events] == []
        with pytest.raises(em.Closed):
            await events.next()

    run(hub, work)


def test_an_event_that_comes_later_wakes_who_waits(hub):
    async def work(client):
        async with await client.subscribe("t") as events:
            for number in range(20):
                waiting = asyncio.create_task(events.next())
                await asyncio.sleep(0)
                assert not waiting.done()
                await client.publish("t", str(number))
                assert (await waiting).raw == b"%d" % number
            # A task that is given up takes no event with it.
            waiting = asyncio.create_task(events.next())
            await asyncio.sleep(0)
            waiting.cancel()
            await client.publish("t", b"last")
            assert (await events.next()).raw == b"last"

    run(hub, work)


def test_emit_many_at_a_time(hub):
    ask(hub.address, {"token": "subscribe", "id": "S", "service": "S", "subjects": ["exact:t"], "delivery": "queue"}, PATIENCE)

    async def work(client):
        receipts = await asyncio.gather(*[client.emit("t", Order(n), id=str(n), level="disk") for n in range(300)])
        assert receipts == [em.Receipt(str(n), 1, "disk", False) for n in range(300)]
        assert (await client.emit("t", id="5")).duplicate
        with pytest.raises(em.Nak):
            await client.emit("t", id="x" * 300)
        assert (await client.status())["services"][0]["counters"]["queued"] == 300

    run(hub, work)


def test_calls(hub):
    async def work(client):
        with pytest.raises(em.NoResponders):
            await client.call("nobody")
        assert await client.call("nobody", answers="all") == []
        with pytest.raises(em.InvalidArgument):
            await client.call("t", b"\xff")

    run(hub, work)


def test_handlers_run_in_the_loop_that_started_the_service(hub):
    service = em.Service("Billing", concurrency=3)
    seen = []

    async def work(client):
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        @service.on("a")
        async def handle(order: Order, event: em.Event) -> None:
            assert asyncio.get_running_loop() is loop
            await client.publish("b", order)
            seen.append(order.id)

        @service.on("b")
        def plain(order: Order) -> None:
            assert threading.current_thread() is not threading.main_thread()
            if order.id == 49:
                loop.call_soon_threadsafe(done.set)

        await client.start(service)
        for number in range(50):
            await client.publish("a", Order(number))
        await done.wait()
        await client.stop(service)
        with pytest.raises(em.InvalidArgument):
            await client.start(service, float("inf"))

    run(hub, work)
    assert sorted(seen) == list(range(50))


def test_closing_finishes_what_handlers_hold(hub):
    service = em.Service("Billing", delivery="queue", concurrency=5)
    finished = []

    async def work(client):
        began = asyncio.Semaphore(0)

        @service.on("a")
        async def handle(number: int) -> None:
            began.release()
            await asyncio.sleep(0.05)
            finished.append(number)

        await client.start(service)
        for number in range(5):
            await client.publish("a", number)
        for _ in range(5):
            await began.acquire()

    run(hub, work)
    assert sorted(finished) == list(range(5))
    hub.wait_idle()


def test_a_full_buffer_and_a_closed_hub(hub):
    hub.kill()

    async def work():
        client = aio.connect(hub.address, timeout=0.2, max_pending_bytes=1000)
        for _ in range(9):
            await client.publish("t", bytes(100))
        with pytest.raises(em.NoAnswer, match="takes no events"):
            await client.publish("t", bytes(100))
        service = em.Service("Billing")
        service.on("a")(lambda body: None)
        with pytest.raises(em.NoAnswer):
            await client.start(service)
        with pytest.raises(em.NoAnswer):
            await client.subscribe("t")
        with pytest.raises(em.MayBeLost):
            await client.close(0.1)
        for use in (client.publish("t"), client.flush(), client.emit("t"), client.call("t"), client.subscribe("t"), client.status(), client.start(service)):
            with pytest.raises(em.Closed):
                await use

    asyncio.run(work())


def test_a_service_comes_back_after_kills(hub):
    service = em.Service("Billing", delivery="queue", concurrency=4)
    handled = set()

    async def work(client):
        @service.on("a")
        async def handle(number: int) -> None:
            await asyncio.sleep(0)
            handled.add(number)

        await client.start(service)
        loop = asyncio.get_running_loop()
        for round in range(5):
            confirmed = asyncio.gather(*[client.emit("a", round * 50 + n, level="disk") for n in range(50)])
            await asyncio.sleep(0)
            await loop.run_in_executor(None, hub.kill)
            await loop.run_in_executor(None, hub.start)
            assert all(receipt.services == 1 for receipt in await confirmed)
        while len(handled) < 250:
            await asyncio.sleep(0.005)

    run(hub, work)
    assert handled == set(range(250))

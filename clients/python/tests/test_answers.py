"""Services that answer calls, through the real daemon and its locator."""

import asyncio
import dataclasses
import threading

import pytest

import event_manager as em
from event_manager import aio
from event_manager.testing import TestHub

PATIENCE = 60.0


@dataclasses.dataclass
class Query:
    sku: str


@dataclasses.dataclass
class Price:
    sku: str
    cents: int


def prices(**options):
    service = em.Service("Prices", **options)

    @service.answers("price")
    def price(query: Query, event: em.Event) -> Price:
        if query.sku == "none":
            raise em.Reject("there is no such thing")
        return Price(query.sku, 950)

    @service.answers("echo")
    async def echo(body: bytes) -> bytes:
        await asyncio.sleep(0)
        return body

    return service


@pytest.mark.parametrize("isolation", ["event", "handler"])
def test_calls_are_answered(hub, isolation):
    with em.connect(hub.address, timeout=PATIENCE) as connected:
        service = prices(isolation=isolation)
        service.start(connected)
        assert connected.call("price", Query("a"), reply=Price) == Price("a", 950)
        assert connected.call("echo", "text", reply=str) == "text"
        with pytest.raises(em.CallRefused, match="nak") as refused:
            connected.call("price", Query("none"))
        assert refused.value.replies[0].data == b"rejected: Reject: there is no such thing"
        with pytest.raises(em.CallRefused) as refused:
            connected.call("price", "{")
        assert b"undecodable" in refused.value.replies[0].data
        # As an event it is acknowledged, and answered to nobody.
        assert connected.emit("price", Query("a")).services == 1
        hub.wait_idle()
        service.stop()
        with pytest.raises((em.NoResponders, em.CallTimeout)):
            connected.call("price", Query("a"), timeout=0.5)


def test_calls_run_at_once_in_the_loop_that_started_the_service(hub):
    async def main():
        async with aio.connect(hub.address, timeout=PATIENCE) as connected:
            service, waiting, loops = em.Service("S", concurrency=3), [], set()

            @service.answers("a")
            async def answer(body: int) -> int:
                loops.add(asyncio.get_running_loop())
                waiting.append(asyncio.get_running_loop().create_future())
                if len(waiting) == 3:
                    for each in waiting:
                        each.set_result(None)
                await waiting[-1] if len(waiting) < 3 else None
                return body + 1

            await connected.start(service)
            answers = await asyncio.gather(*[connected.call("a", number, reply=int, timeout=PATIENCE) for number in range(3)])
            assert answers == [1, 2, 3] and loops == {asyncio.get_running_loop()}
            await connected.stop(service)

    asyncio.run(main())


def test_more_calls_than_credit_are_refused(hub):
    with em.connect(hub.address, timeout=PATIENCE) as connected:
        service, release, began = em.Service("S", credit=1), threading.Event(), threading.Event()

        @service.answers("a")
        def answer(body: str) -> str:
            began.set()
            assert release.wait(PATIENCE)
            return body

        service.start(connected)
        first = connected._call("a", "1", "first", PATIENCE)
        assert began.wait(PATIENCE)
        with pytest.raises(em.CallRefused) as refused:
            connected.call("a", "2")
        assert refused.value.replies[0].data.startswith(b"busy")
        release.set()
        assert first.result()["results"][0]["status"] == "ack"


def test_without_a_locator_it_can_not_start():
    with TestHub(config={"embeddedLocator": False, "locatorAddress": "tcp://127.0.0.1:1"}) as daemon, em.connect(daemon.address, timeout=PATIENCE) as connected:
        service = prices()
        with pytest.raises(em.NoAnswer, match="ServiceLocator"):
            service.start(connected, 0.5)

"""The buffer of what is published, without a connection."""

import random

import pytest

from event_manager import _publisher
from event_manager._io import WRITE_BYTES
from event_manager._publisher import KICKS_IN_A_ROW, OFTEN_SECONDS, Publisher
from event_manager._zmtp import Command, Peer


class ManualLoop:
    """Calls nothing by itself."""

    new_peer = Peer

    def __init__(self):
        self.soon = []

    def call_soon(self, call):
        self.soon.append(call)

    def run_soon(self):
        while self.soon:
            self.soon.pop(0)()


@pytest.fixture
def loop():
    return ManualLoop()


@pytest.fixture
def publisher(loop):
    made = Publisher(loop, 1 << 20)
    made.received([Command(b"SUBSCRIBE", b"")])
    return made


def event(number, size=100):
    return b"%08d" % number + bytes(size - 8)


def events_of(data):
    """The events that were written, each of 100 bytes; a PING behind them is shorter."""
    return [data[at : at + 100] for at in range(0, len(data) - 99, 100)]


def pong(publisher):
    publisher.received([Command(b"PONG", publisher._marked.to_bytes(8, "big"))])


def test_much_is_written_in_chunks_and_in_order(publisher):
    events = [event(number) for number in range(3000)]
    for each in events:
        assert publisher.offer(each)
    written = []
    while True:
        data = publisher.more()
        if not data:
            break
        written.append(data)
        pong(publisher)
    assert [len(each) for each in written[:4]] == [(WRITE_BYTES // 100 + 1) * 100 + 17] * 4
    assert [each for data in written for each in events_of(data)] == events
    assert (publisher._bytes, publisher._full_at) == (0, WRITE_BYTES)


def test_what_is_marked_late_is_marked_nevertheless(publisher, loop):
    publisher.offer(event(1))
    first = publisher.more()
    publisher.offer(event(2))
    assert len(publisher.more()) == 100, "a PING is under way already"
    assert len(first) > 100
    pong(publisher)
    assert publisher.more()[2:7] == b"\4PING"
    pong(publisher)
    assert publisher._settled == 2
    assert publisher.more() == b""


def test_who_publishes_goes_on_if_the_loop_is_woken_for_each_event(publisher, loop, monkeypatch):
    slept, now = [], [0.0]
    monkeypatch.setattr(_publisher.time, "sleep", slept.append)
    monkeypatch.setattr(_publisher.time, "monotonic", lambda: now[0])
    for number in range(2 * KICKS_IN_A_ROW):
        now[0] += 1.0
        publisher.offer(event(number))
        loop.run_soon()
    assert not slept
    for number in range(2 * (KICKS_IN_A_ROW + 1)):
        now[0] += OFTEN_SECONDS / 2
        publisher.offer(event(number))
        loop.run_soon()
    assert len(slept) == 2


@pytest.mark.parametrize("seed", range(12))
def test_every_event_is_written_once_in_order_or_counted(seed, loop):
    """A random life against a naive account: connections end after any byte, and what no byte was written of comes again."""
    rng = random.Random(seed)
    publisher = Publisher(loop, 1 << 20)
    taken, offered = [], 0
    for _ in range(300):
        act = rng.random()
        if act < 0.5:
            for _ in range(rng.choice((1, 20, 900))):
                offered += publisher.offer(event(offered))
        elif act < 0.9:
            publisher.received([Command(b"SUBSCRIBE", b"")])
            data = publisher.more()
            unsent = rng.randrange(len(data)) if data and rng.random() < 0.3 else 0
            taken += events_of(data[: len(data) - unsent])
            if unsent:
                publisher.closed("cut off", unsent)
            elif rng.random() < 0.5:
                pong(publisher)
        loop.run_soon()
        pending = [each for chunk in [*publisher._full, publisher._filling] for each in chunk]
        assert publisher._bytes == sum(map(len, pending))
        assert publisher._full_at == WRITE_BYTES + sum(len(each) for chunk in publisher._full for each in chunk)
        assert publisher.published == offered == publisher._written + len(pending)
        assert offered - len(pending) - len(taken) <= publisher.lost
    assert taken == sorted(taken) and len(set(taken)) == len(taken)
    assert publisher.lost < offered

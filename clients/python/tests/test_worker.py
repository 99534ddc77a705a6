"""What a worker says, by a clock that the test sets."""

import pytest

from event_manager._about import CLIENT
from event_manager._worker import Worker
from event_manager._zmtp import message

READY = b'READY {"ack":true,"credit":4,"client":"%b"}' % CLIENT.encode()


def made(**options):
    return Worker(**{"credit": 4, "ack_timeout": 30.0, "max_handling": 100.0, "lease": 60.0, **options})


def said(worker):
    """What it has said since this was asked last."""
    words = []
    for data in worker.out:
        assert data == message([data[2:]])
        words.append(data[2:])
    worker.out = []
    return words


def event(worker, id, attempt=1):
    return worker.received([b"EVENT %d %d" % (id, attempt), b"subject", b"body"])


def test_it_is_ready_on_each_connection_and_first():
    worker = made()
    worker.opened()
    assert said(worker) == [READY]
    delivery = event(worker, 5, 2)
    assert (delivery.id, delivery.attempt, delivery.frames) == (5, 2, [b"subject", b"body"])
    delivery.begun = 0.0
    worker.closed()
    worker.settle(delivery, b"ACK 5")
    worker.opened()
    assert said(worker) == [READY, b"ACK 5"]


def test_what_no_handler_has_begun_goes_with_its_connection():
    worker = made()
    worker.opened()
    begun, waiting = event(worker, 1), event(worker, 2)
    begun.begun = 0.0
    assert worker.is_current(waiting)
    worker.closed()
    assert list(worker.held) == [1]
    worker.opened()
    assert not worker.is_current(waiting)
    assert worker.is_current(event(worker, 3))


def test_an_old_delivery_does_not_settle_a_new_one_of_the_same_number():
    worker = made()
    worker.opened()
    old = event(worker, 1)
    old.begun = 0.0
    worker.closed()
    worker.opened()
    new = event(worker, 1)
    worker.settle(old, b"ACK 1")
    assert worker.held == {1: new}


def test_wip_at_each_third_of_the_ack_timeout_until_max_handling():
    worker = made()
    worker.opened()
    running, waiting = event(worker, 1), event(worker, 2)
    running.begun = 1000.0
    said(worker)
    told = []
    for second in range(0, 200):
        worker.tick(1000.0 + second)
        told += [(second, word) for word in said(worker)]
    assert told == [(second, b"WIP 1") for second in range(10, 100, 10)]
    assert waiting.begun is None


def test_no_wip_without_a_connection():
    worker = made()
    worker.opened()
    event(worker, 1).begun = 0.0
    worker.closed()
    said(worker)
    worker.tick(50.0)
    assert said(worker) == []


def test_the_lease_is_prolonged_at_each_third():
    worker = made()
    worker.daemon_came()
    assert worker.wants_subscribe
    worker.wants_subscribe = False
    worker.subscribed(100.0)
    wanted = []
    for second in range(100, 200):
        worker.tick(float(second))
        if worker.wants_keep_alive:
            worker.wants_keep_alive = False
            wanted.append(second)
    assert wanted == [120, 140, 160, 180]


def test_a_lost_lease_subscribes_again_and_a_lost_connection_asks():
    worker = made()
    worker.subscribed(0.0)
    worker.opened()
    worker.closed()
    assert worker.wants_keep_alive
    worker.wants_keep_alive = False
    worker.closed()  # An attempt that failed.
    assert not worker.wants_keep_alive
    worker.lease_lost()
    assert worker.wants_subscribe
    worker.tick(1000.0)
    assert not worker.wants_keep_alive


def test_when_it_stops_it_says_bye_and_still_answers():
    worker = made()
    worker.opened()
    delivery = event(worker, 1)
    said(worker)
    worker.stop()
    worker.settle(delivery, b"ACK 1")
    assert said(worker) == [b"BYE", b"ACK 1"]
    worker.closed()
    worker.daemon_came()
    worker.lease_lost()
    worker.opened()
    worker.tick(1e6)
    assert said(worker) == []
    assert not worker.wants_subscribe and not worker.wants_keep_alive


@pytest.mark.parametrize("frames", [[b"ERROR no"], [b"EVENT 1"], [b"EVENT 1 1"], [b"EVENT x 1", b"s"], [b""]])
def test_what_is_no_event(frames):
    with pytest.raises(ValueError):
        made().received(frames)


@pytest.mark.parametrize("ack_timeout, lease, seconds", [(30.0, 60.0, 1.0), (1.2, 60.0, 0.1), (0.01, 60.0, 0.005), (30.0, 6.0, 0.5)])
def test_how_often_it_ticks(ack_timeout, lease, seconds):
    assert made(ack_timeout=ack_timeout, lease=lease).tick_seconds == pytest.approx(seconds)

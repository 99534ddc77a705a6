"""The hub against the real daemon."""

import dataclasses
import os
import socket
import threading
import time
import uuid

import pytest
from support import PATIENCE, wait_for
import zmq

import event_manager as em
from event_manager import _address, _io, _zmtp
from event_manager._ask import ask
from event_manager._io import Loop
from event_manager._publisher import Publisher
from event_manager._requests import Requests
from event_manager.testing import TestHub

def subscribe_service(daemon, *subjects, service="S", **more):
    return ask(daemon.address, {"token": "subscribe", "id": service, "service": service, "subjects": list(subjects), **more}, PATIENCE)


def test_events_published_at_once_all_arrive_in_order(hub, connected):
    # No slow joiner: the publisher's connection does not exist yet when these are published.
    with connected.subscribe("order.") as events:
        with em.connect(hub.address) as publisher:
            for number in range(20):
                publisher.publish("order.created", {"number": number})
        assert [events.next(PATIENCE).raw for _ in range(20)] == [b'{"number":%d}' % n for n in range(20)]


@dataclasses.dataclass
class Order:
    id: int


def test_bodies_and_headers(connected):
    with connected.subscribe("t") as events:
        connected.publish("t", b"\0\1" * 500)
        connected.publish("t", "ü")
        connected.publish("t", Order(7), headers={"x-a": "ü"})
        connected.publish("t")
        connected.publish("t", [1, None])
        came = [events.next(PATIENCE) for _ in range(5)]
    assert [event.raw for event in came] == [b"\0\1" * 500, "ü".encode(), b'{"id":7}', b"", b"[1,null]"]
    assert [event.headers for event in came] == [{}, {}, {"x-a": "ü"}, {}, {}]
    assert [len(event.frames) for event in came] == [2, 2, 3, 2, 2]
    assert came[0].subject == "t"


def test_a_plain_subscriber_of_libzmq_gets_two_frames(hub, connected):
    context = zmq.Context()
    sub = context.socket(zmq.SUB)
    sub.rcvtimeo = 20_000
    sub.subscribe(b"t")
    sub.connect(hub.subscribers)
    wait_for(lambda: hub.status()["subscribers"]["subscriptions"] == 1)
    connected.publish("t", {"a": 1})
    assert sub.recv_multipart() == [b"t", b'{"a":1}']
    sub.close()
    context.term()


def test_flush_tells_what_the_daemon_took(hub, connected):
    connected.flush()
    for _ in range(1000):
        connected.publish("nobody.asked", bytes(100))
    connected.flush()
    assert hub.status()["publishers"]["events"] == 1000
    assert connected.stats == em.Stats(published=1000, lost=0)


def test_a_publisher_waits_for_a_daemon_and_its_buffer_is_bounded(hub):
    hub.kill()
    with em.connect(hub.address, timeout=0.2, max_pending_bytes=1000) as publisher:
        with pytest.raises(em.InvalidArgument, match="max_pending_bytes"):
            publisher.publish("t", bytes(1000))
        for _ in range(9):
            publisher.publish("t", bytes(100))
        with pytest.raises(em.NoAnswer, match="takes no events") as full:
            publisher.publish("t", bytes(100))
        assert not full.value.may_be_taken
        with pytest.raises(em.MayBeLost) as lost:
            publisher.flush()
        assert (lost.value.lost, lost.value.of) == (9, 9)
        with pytest.raises(em.NoAnswer) as silent:
            publisher.status()
        assert not silent.value.may_be_taken
        with pytest.raises(em.NoAnswer):
            publisher.subscribe("t")
        hub.start()
        publisher.flush(PATIENCE)
        assert publisher.status(PATIENCE)["publishers"]["events"] == 9
        assert publisher.stats == em.Stats(9, 0)


class FakeDaemon:
    """The publishers' socket of a daemon that ends connections when it likes."""

    def __init__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(PATIENCE)
        self.endpoint = _address.parse("tcp://127.0.0.1:%d" % self.server.getsockname()[1])
        self.bodies = []
        self.rounds = 0

    def serve(self, events):
        """Takes so many events of a connection, then closes it (None: until the peer does)."""
        try:
            self.take(events)
        finally:
            self.rounds += 1

    def take(self, events):
        stream, _ = self.server.accept()
        stream.settimeout(PATIENCE)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
        peer = _zmtp.Peer(b"XSUB")
        taken = 0
        with stream:
            while events is None or taken < events:
                for data in peer.out:
                    stream.sendall(data)
                peer.out.clear()
                data = stream.recv(5000)
                if not data:
                    return
                for item in peer.feed(data):
                    if isinstance(item, list):
                        self.bodies.append(int(item[1][:8]))
                        taken += 1
                    elif item.name == b"READY":
                        stream.sendall(peer.subscription(b""))


def test_what_was_taken_long_before_a_crash_is_not_lost(hub, connected):
    connected.publish("t")
    wait_for(lambda: connected._core.publisher._settled == 1)
    connected.publish("t")
    wait_for(lambda: connected._core.publisher._settled == 2)
    hub.kill()
    connected.flush()
    hub.start()


def test_what_may_be_lost_is_counted_and_the_rest_arrives_once():
    daemon = FakeDaemon()
    loop = Loop("test")
    publisher = Publisher(loop, 4 << 20)
    loop.call_soon(lambda: publisher.link.dial(daemon.endpoint))
    count = 0
    server = threading.Thread(target=lambda: [daemon.serve(events) for events in (1, 300, 2000, 77, None)])
    server.start()
    while daemon.rounds < 4:
        publisher.publish(_zmtp.message([b"t", b"%08d" % count + bytes(500)]), PATIENCE)
        count += 1
    unconfirmed = len(daemon.bodies)
    for _ in range(100):
        publisher.publish(_zmtp.message([b"t", b"%08d" % count + bytes(500)]), PATIENCE)
        count += 1
    with pytest.raises(em.MayBeLost) as lost:
        publisher.flush(PATIENCE)
    loop.call_soon(publisher.close)
    loop.stop()
    server.join()
    daemon.server.close()
    arrived = set(daemon.bodies)
    assert len(arrived) == len(daemon.bodies), "none comes twice"
    assert daemon.bodies == sorted(daemon.bodies)
    missing = count - len(arrived)
    assert missing > 0
    # What was taken without a PING behind it counts as perhaps lost, too.
    assert missing <= lost.value.lost <= missing + unconfirmed
    assert lost.value.of == count
    assert "closed" in lost.value.why or "reset" in lost.value.why.lower() or "EPIPE" in lost.value.why or "pipe" in lost.value.why.lower()


def test_emit_is_confirmed_and_an_id_counts_once(hub, connected):
    subscribe_service(hub, "exact:t", delivery="queue")
    first = connected.emit("t", b"x\0y", id="o-1", level="disk")
    assert first == em.Receipt("o-1", 1, "disk", False)
    assert connected.emit("t", b"x\0y", id="o-1", level="disk") == em.Receipt("o-1", 1, "disk", True)
    ids = [connected.emit("t").id for _ in range(2)]
    assert ids[0] != ids[1]
    assert [uuid.UUID(each).version for each in ids] == [7, 7]
    assert abs((uuid.UUID(ids[0]).int >> 80) / 1000 - time.time()) < PATIENCE
    with pytest.raises(em.Nak) as nak:
        connected.emit("t", id="x" * 300)
    assert nak.value.code == "invalid-field"
    assert hub.status()["services"][0]["counters"]["queued"] == 3


def test_an_emit_waits_for_the_daemon_to_come_back(hub, connected):
    subscribe_service(hub, "exact:t", delivery="queue")
    hub.kill()
    receipts = []
    emitter = threading.Thread(target=lambda: receipts.append(connected.emit("t", b"x", id="late", level="disk")))
    emitter.start()
    hub.start()
    emitter.join(PATIENCE)
    assert receipts == [em.Receipt("late", 1, "disk", False)]


def test_emit_with_headers_and_times(connected):
    with connected.subscribe("t") as events:
        due = time.time() + 0.3
        connected.emit("t", b"\xff", headers={"a": "b"}, ttl=60, deliver_at=due)
        event = events.next(PATIENCE)
        assert time.time() >= due - 0.05
    assert (event.raw, event.headers) == (b"\xff", {"a": "b"})


def test_emit_of_a_large_event_with_headers(connected):
    with connected.subscribe("t") as events:
        body = os.urandom(12 << 20)
        assert not connected.emit("t", body, headers={"a": "b"}, id="1").duplicate
        event = events.next(PATIENCE)
        assert (event.raw == body, event.headers) == (True, {"a": "b"})
        assert connected.emit("t", body, headers={"a": "b"}, id="1").duplicate


def answering(daemon, answers):
    """A REP of libzmq that is service S: it answers each call with these (token, type, data)."""
    context = zmq.Context()
    rep = context.socket(zmq.REP)
    rep.rcvtimeo = 20_000
    rep.linger = 0
    port = rep.bind_to_random_port("tcp://127.0.0.1")
    ask(daemon.locator, {"token": "register", "service": "S", "address": f"tcp://127.0.0.1:{port}"}, PATIENCE)
    subscribe_service(daemon, "exact:q")

    def serve():
        for answer in answers:
            rep.recv_multipart()
            if answer is not None:
                rep.send_multipart(answer)
        rep.close()
        context.term()

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_call(hub, connected):
    ack, nak = b"TK_SYS_ACK", b"TK_SYS_NAK"
    thread = answering(hub, [[ack, b"STRING", b'{"id": 5}'], [ack, b"STRING", b"\xff"], [nak, b"STRING", b"no"], [nak, b"STRING", b"no"], None])
    assert connected.call("q", {"a": 1}, reply=Order) == Order(5)
    with pytest.raises(em.DecodeError, match="UTF-8"):
        connected.call("q", reply=str)
    with pytest.raises(em.CallRefused, match="S: nak") as refused:
        connected.call("q")
    assert refused.value.replies == [em.Reply("S", "nak", b"no")]
    assert connected.call("q", answers="all") == [em.Reply("S", "nak", b"no")]
    with pytest.raises(em.CallTimeout, match="S: timeout"):
        connected.call("q", timeout=0.2)
    thread.join()
    with pytest.raises(em.NoResponders, match="nobody got it"):
        connected.call("no.such.subject")
    with pytest.raises(em.InvalidArgument, match="UTF-8"):
        connected.call("q", b"\xff")


def test_a_call_that_may_have_been_taken_is_not_sent_again(hub, connected):
    entered = threading.Event()
    killed = threading.Event()
    calls = []

    def never():
        yield None
        entered.set()
        assert killed.wait(PATIENCE)

    thread = answering(hub, never())
    failures = []

    def call():
        try:
            calls.append(connected.call("q", timeout=20))
        except em.EventManagerError as error:
            failures.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    assert entered.wait(PATIENCE)
    hub.kill()
    killed.set()
    caller.join(PATIENCE)
    thread.join(PATIENCE)
    assert calls == []
    assert isinstance(failures[0], em.CallTimeout)
    assert "may have been done" in str(failures[0])


def test_a_slow_subscriber_drops_and_counts(connected):
    with connected.subscribe("t", queue=3) as oldest, connected.subscribe("t", queue=3, when_full="drop-newest") as newest, connected.subscribe("end") as end:
        for number in range(10):
            connected.publish("t", str(number))
        connected.publish("end")
        connected.flush()
        end.next(PATIENCE)
        wait_for(lambda: oldest.dropped == newest.dropped == 7)
        assert [oldest.next(PATIENCE).raw for _ in range(3)] == [b"7", b"8", b"9"]
        assert [newest.next(PATIENCE).raw for _ in range(3)] == [b"0", b"1", b"2"]
        with pytest.raises(em.NoAnswer, match="no event"):
            newest.next(0.01)


def test_a_subscription_comes_back_after_a_crash_and_ends_when_closed(hub, connected):
    with connected.subscribe("t") as events:
        hub.kill()
        hub.start()
        wait_for(lambda: hub.status()["subscribers"]["subscriptions"] == 1)
        connected.publish("t", b"again")
        assert next(events).raw == b"again"
    assert list(events) == []
    with pytest.raises(em.Closed):
        events.next()


def test_a_closed_hub_says_so(hub):
    closed = em.connect(hub.address)
    events = closed.subscribe("t")
    closed.close()
    closed.close()
    assert list(events) == []
    for use in (lambda: closed.publish("t"), closed.flush, closed.status, lambda: closed.emit("t"), lambda: closed.call("t"), lambda: closed.subscribe("t")):
        with pytest.raises(em.Closed):
            use()


def test_threads_share_a_hub(hub, connected):
    subscribe_service(hub, "exact:t", delivery="queue")
    failures = []

    def work(number):
        try:
            for at in range(200):
                connected.publish("t", b"x")
                if at % 20 == 0:
                    connected.emit("t", b"y", level="disk", id=f"{number}-{at}")
                if at % 50 == 0:
                    connected.flush()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failures == []
    connected.flush()
    assert hub.status()["services"][0]["counters"]["matched"] == 16 * 200 + 16 * 10


def test_a_child_process_connects_anew(hub, connected):
    subscribe_service(hub, "exact:t", delivery="queue")
    events = connected.subscribe("t")
    connected.publish("t", b"parent")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for _ in range(10):
                connected.publish("t", b"child")
            connected.flush(PATIENCE)
            connected.emit("t", b"child", level="disk")
            try:
                next(events)
            except em.Forked:
                code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    connected.publish("t", b"parent")
    connected.flush()
    assert connected.emit("t", b"parent", level="disk").services == 1
    came = [events.next(PATIENCE).raw for _ in range(14)]
    assert sorted(came) == [b"child"] * 11 + [b"parent"] * 3
    assert events.dropped == 0
    assert hub.status()["services"][0]["counters"]["matched"] == 14


def test_what_a_forked_parent_had_not_sent_is_sent_once(hub):
    subscribe_service(hub, "exact:t", delivery="queue")
    hub.kill()
    with em.connect(hub.address, timeout=PATIENCE) as publisher:
        publisher.publish("t", b"parent")
        pid = os.fork()
        if pid == 0:
            hub.close = lambda: None
            try:
                publisher.publish("t", b"child")
                publisher.flush(PATIENCE)
                os._exit(0)
            finally:
                os._exit(1)
        hub.start()
        assert os.waitpid(pid, 0)[1] == 0
        publisher.flush()
    assert hub.status()["services"][0]["counters"]["matched"] == 2


@pytest.mark.parametrize("subject", ["", "a\0b", "x" * 1025])
def test_what_is_no_subject(connected, subject):
    for use in (connected.publish, connected.emit, connected.call):
        with pytest.raises(em.InvalidArgument, match="subject"):
            use(subject)


def test_arguments_that_can_not_be_used(hub, connected):
    for use in (
        lambda: connected.publish("t", {1: object()}),
        lambda: connected.publish("t", b"", headers={"a": 1}),
        lambda: connected.emit("t", level="tape"),
        lambda: connected.emit("t", id="a\0b"),
        lambda: connected.subscribe(),
        lambda: connected.subscribe("t", queue=0),
        lambda: connected.call("t", answers="some"),
        lambda: em.connect("nonsense"),
        lambda: em.connect(hub.address, timeout=0),
    ):
        with pytest.raises(em.InvalidArgument):
            use()


def test_the_address_comes_from_the_environment(hub, monkeypatch):
    monkeypatch.setenv("EVENT_MANAGER_CLIENT_ADDRESS", hub.address)
    with em.connect() as found:
        assert found.address == hub.address
        assert found.status()["pid"] == hub.pid


def test_a_port_where_no_zeromq_answers_is_named(hub):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        with em.connect("tcp://127.0.0.1:%d" % server.getsockname()[1], timeout=PATIENCE) as wrong:
            answers = []

            def answer():
                for _ in range(3):
                    stream, _ = server.accept()
                    with stream:
                        stream.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                        stream.recv(1000)

            thread = threading.Thread(target=answer)
            thread.start()
            thread.join()
            with pytest.raises(em.NoAnswer, match="speaks no ZeroMQ|refused|closed|no answer"):
                wrong.status(0.5)
            assert answers == []


def test_local_sockets(tmp_path):
    addresses = {name: f"ipc://{tmp_path}/{name}" for name in ("requestAddress", "pubAddress", "subAddress")}
    with TestHub(config=addresses) as daemon, em.connect(daemon.address, timeout=PATIENCE) as hub:
        assert daemon.address == addresses["requestAddress"]
        with hub.subscribe("t") as events:
            hub.publish("t", b"x")
            assert events.next(PATIENCE).raw == b"x"


def test_a_daemon_with_several_addresses():
    with TestHub(config={"requestAddress": ["tcp://127.0.0.1:0", "tcp://127.0.0.1:0"]}) as daemon:
        first = daemon.address
        daemon.restart()
        assert daemon.address == first
        assert len(daemon.status()["addresses"]["requests"]) == 2


class Silent:
    """A peer that opens connections and then says nothing, however often it is asked."""

    def __init__(self, socket_type):
        self.type = socket_type
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(PATIENCE)
        self.endpoint = _address.parse("tcp://127.0.0.1:%d" % self.server.getsockname()[1])

    def accept(self):
        stream, _ = self.server.accept()
        stream.settimeout(PATIENCE)
        for data in _zmtp.Peer(self.type).out:
            stream.sendall(data)
        return stream

    def read(self, stream, pings):
        """Reads until so many PINGs have come, or the end; whether it ended."""
        seen = b""
        while seen.count(b"\x04PING") < pings:
            data = stream.recv(1000)
            if not data:
                return True
            seen += data
        return False


def test_a_silent_peer_is_given_up_unless_it_may_be_busy(monkeypatch):
    monkeypatch.setattr(_io, "HEARTBEAT_SECONDS", 0.4)
    loop = Loop("test")
    failures = []
    requests, publisher = Requests(loop, 1000, failures.append), Publisher(loop, 1000)
    daemon, busy = Silent(b"ROUTER"), Silent(b"XSUB")
    loop.call_soon(lambda: requests.link.dial(daemon.endpoint))
    loop.call_soon(lambda: publisher.link.dial(busy.endpoint))
    with daemon.accept() as first, busy.accept() as stream:
        assert daemon.read(first, 1000)
        wait_for(lambda: len(failures) > 1)
        assert failures[0] is None and "silent" in failures[1]
        # It connects again.
        with daemon.accept():
            # A publisher's peer acknowledges segments, so it only doesn't read.
            assert not busy.read(stream, 6)
            assert publisher.link.open
        loop.call_soon(requests.close)
        loop.call_soon(publisher.close)
        loop.stop()
    daemon.server.close()
    busy.server.close()

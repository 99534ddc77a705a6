"""CoreRL's EventBusClient on the real daemon."""

import json
import subprocess
import sys
import threading
from enum import auto

import pytest
import zmq

import event_manager as em
from event_manager.compat.corerl import BaseEventTopic, BaseEventType, EventBusClient, now_iso

pydantic = pytest.importorskip("pydantic")
from event_manager.compat.corerl import BaseEvent, RLEvent, RLEventBusClient, RLEventTopic, RLEventType  # noqa: E402

PATIENCE = 60.0


class Kind(BaseEventType):
    started = auto()
    updated = auto()
    Stopped = auto()


class Topic(BaseEventTopic):
    my_service = auto()
    my_service_inner = auto()
    other = auto()


class MyEvent(BaseEvent[Kind]):
    time: str = pydantic.Field(default_factory=now_iso)
    type: Kind
    note: str = ""


class MyClient(EventBusClient[MyEvent, Kind, Topic]):
    def __init__(self, host="localhost", pub_port=5559, sub_port=5560, **options):
        super().__init__(event_class=MyEvent, host=host, pub_port=pub_port, sub_port=sub_port, **options)


@pytest.fixture
def make(hub):
    made = []

    def make(**options):
        made.append(MyClient(address=hub.address, timeout=PATIENCE, **options))
        made[-1].connect()
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_the_readme_s_code_runs_with_import_shims(hub, tmp_path):
    (tmp_path / "app.py").write_text(
        '''from enum import auto
from pydantic import Field
from lib_defs.type_defs.base_events import BaseEvent, BaseEventTopic, BaseEventType
from lib_utils.messages import EventBusClient
from lib_utils.time import now_iso
from corerl.event_bus import EventBusClient as RL
from corerl.messages.events import RLEventType, RLEventTopic

class MyEventType(BaseEventType):
    started = auto()
    updated = auto()
    stopped = auto()

class MyEventTopic(BaseEventTopic):
    my_service = auto()

class MyEvent(BaseEvent[MyEventType]):
    time: str = Field(default_factory=now_iso)
    type: MyEventType

client = EventBusClient[MyEvent, MyEventType, MyEventTopic](
    event_class=MyEvent,
    host="localhost",
    pub_port=5559,
    sub_port=5560,
)
client.connect()
client.attach_callbacks({MyEventType.started: lambda event: print("callback", event.type, flush=True)})
client.subscribe(MyEventTopic.my_service)
client.start_consumer()
client.emit_event(MyEventType.started, topic=MyEventTopic.my_service)
client.emit_event(MyEvent(type=MyEventType.stopped), topic=MyEventTopic.my_service)
for event in client.listen_forever():
    print(f"Received: {event.type}")
    if event.type == MyEventType.stopped:
        break
client.close()
client = RL()
client.connect()
client.emit_event(RLEventType.service_started, topic=RLEventTopic.corerl)
client.close()
'''
    )
    done = subprocess.run(
        [sys.executable, "-m", "event_manager.compat", "--as", "lib_utils,lib_defs,corerl", "app.py"],
        cwd=tmp_path, env={"EVENT_MANAGER_CLIENT_ADDRESS": hub.address}, capture_output=True, text=True, timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == ["Received: started", "Received: stopped", "callback started"]


def test_no_event_is_lost_right_after_connect(make):
    receiver, sender = make(), make()
    receiver.subscribe(Topic.my_service)
    receiver.start_consumer()
    for number in range(20):
        sender.emit_event(MyEvent(type=Kind.updated, note=str(number)), topic=Topic.my_service)
    assert [receiver.recv_event(timeout=PATIENCE).note for _ in range(20)] == [str(number) for number in range(20)]
    assert sender.stats.emitted == 20 and receiver.stats.received == 20


def test_the_frames_are_the_original_s(hub, make):
    client = make()
    client.subscribe(Topic.my_service)
    client.start_consumer()
    with zmq.Context() as context, context.socket(zmq.SUB) as sub, context.socket(zmq.XPUB) as pub:
        for each in (sub, pub):
            each.setsockopt(zmq.LINGER, 0)
            each.setsockopt(zmq.RCVTIMEO, round(PATIENCE * 1000))
        sub.connect(hub.subscribers)
        sub.setsockopt(zmq.SUBSCRIBE, b"my_service")
        pub.connect(hub.publishers)
        assert pub.recv() == b"\x01"
        pub.send_multipart([b"my_service", MyEvent(type=Kind.updated, note="theirs").model_dump_json().encode()])
        assert client.recv_event(PATIENCE).note == "theirs"
        client.emit_event(Kind.started, topic=Topic.my_service)
        while True:
            frames = sub.recv_multipart()
            if json.loads(frames[1])["type"] == "started":
                break
        assert len(frames) == 2 and frames[0] == b"my_service"


def test_topics_are_prefixes_and_each_event_comes_once(make):
    client = make()
    client.subscribe(Topic.my_service)
    client.subscribe(Topic.my_service_inner)
    client.subscribe(Topic.my_service)
    client.start_consumer()
    client.start_consumer()
    client.emit_event(Kind.started, topic=Topic.my_service_inner)
    client.emit_event(Kind.updated, topic=Topic.other)
    client.emit_event(Kind.Stopped, topic=Topic.my_service)
    assert {client.recv_event(PATIENCE).type, client.recv_event(PATIENCE).type} == {Kind.started, Kind.Stopped}
    assert client.recv_event(timeout=0.01) is None


def test_callbacks_and_what_is_not_understood(hub, make):
    called, done = [], threading.Event()
    client = make()

    def fails(event):
        called.append("fails")
        raise RuntimeError("no")

    client.attach_callback(Kind.started, fails)
    client.attach_callbacks({Kind.started: lambda event: called.append(event.note), Kind.Stopped: lambda event: done.set()})
    client.subscribe(Topic.other)
    client.start_consumer()
    with em.connect(hub.address) as other:
        other.publish("other", b"nonsense")
        other.publish("other", b"nonsense", headers={"content-encoding": "deflate"})
        other.flush()
    client.emit_event(MyEvent(type=Kind.started, note="n"), topic=Topic.other)
    client.emit_event(Kind.Stopped, topic=Topic.other)
    assert done.wait(PATIENCE)
    assert called == ["fails", "n"]
    assert (client.stats.invalid, client.stats.callbacks_failed) == (2, 1)


def test_it_comes_back_when_the_daemon_does(hub, make):
    client = make()
    client.subscribe(Topic.my_service)
    client.start_consumer()
    client.emit_event(Kind.started, topic=Topic.my_service)
    assert client.recv_event(PATIENCE).type == Kind.started
    hub.kill()
    hub.start()
    while True:  # Plain subscribers don't see what passes before they are back.
        client.emit_event(Kind.updated, topic=Topic.my_service)
        event = client.recv_event(0.05)
        if event is not None:
            assert event.type == Kind.updated
            break
    assert client.is_connected()


def test_large_events_are_compressed(hub, make):
    client = make(compress_above=1024)
    client.subscribe(Topic.other)
    client.start_consumer()
    with em.connect(hub.address) as other, other.subscribe("other") as events:
        for note in ("short", "long" * 10_000):
            client.emit_event(MyEvent(type=Kind.started, note=note), topic=Topic.other)
            assert client.recv_event(PATIENCE).note == note
            assert len(events.next(PATIENCE).frames[1]) < 1000


def test_closing_and_connecting_again(make):
    client = make()
    client.subscribe(Topic.other)
    client.start_consumer()
    got = []
    thread = threading.Thread(target=lambda: got.extend(client.listen_forever()))
    thread.start()
    client.close()
    thread.join(PATIENCE)
    assert not thread.is_alive() and not client.is_connected() and got == []
    client.close()
    for call in (lambda: client.emit_event(Kind.started, topic=Topic.other), lambda: client.subscribe(Topic.other), client.start_consumer):
        with pytest.raises(em.Closed):
            call()
    with client:
        client.subscribe(Topic.other)
        client.start_consumer()
        client.emit_event(Kind.started, topic=Topic.other)
        client.flush()
        assert client.recv_event(PATIENCE).type == Kind.started


def test_what_cannot_be_is_refused_with_typed_errors(make):
    with pytest.raises(em.InvalidArgument):
        EventBusClient(event_class=dict)
    with pytest.raises(em.InvalidArgument):
        MyClient(colour="red")
    client = make()
    with pytest.raises(em.InvalidArgument):
        client.emit_event("exploded", topic=Topic.other)
    with pytest.raises(em.InvalidArgument):
        client.attach_callback(Kind.started, None)


def test_rl_events(hub):
    with RLEventBusClient(address=hub.address, timeout=PATIENCE) as client:
        client.subscribe(RLEventTopic.corerl)
        client.start_consumer()
        client.emit_event(RLEventType.service_started, topic=RLEventTopic.corerl_cli)
        event = client.recv_event(PATIENCE)
        assert isinstance(event, RLEvent) and event.type == RLEventType.service_started
    assert f"{RLEventType.step}" == "step"

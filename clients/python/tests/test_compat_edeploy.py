"""e-deploy's MessageBus on the real daemon."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import zmq

import event_manager as em
from event_manager._ask import ask
from event_manager.compat.edeploy import (
    AckMessage,
    DataType,
    DefaultToken,
    Event,
    JsonSwaggerMessage,
    Message,
    MessageBus,
    MessageBusException,
    MessageBusExceptionType,
    MessageHandler,
    MessageHandlerBuilder,
    NakMessage,
    SubscriptionInfo,
    TokenCreator,
    TokenPriority,
    ZeroMqMessageBus,
)
from event_manager.testing import TestHub

PATIENCE = 60.0
TK_PRINT = TokenCreator.create_token(TokenPriority.high, "6", "101")


class Seen:
    """What handlers saw; they may be held up."""

    def __init__(self):
        self.items = []
        self.running = self.peak = 0
        self.changed = threading.Condition()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, bus, event):
        with self.changed:
            self.items.append(event.data)
            self.running += 1
            self.peak = max(self.peak, self.running)
            self.changed.notify_all()
        assert self.gate.wait(PATIENCE)
        with self.changed:
            self.running -= 1
            self.changed.notify_all()

    def wait(self, test):
        with self.changed:
            assert self.changed.wait_for(lambda: test(self), PATIENCE), self.items


class Builder(MessageHandlerBuilder):
    def __init__(self, handler):
        self.handler = handler
        self.calls = []

    def build_singletons(self):
        self.calls.append("singletons")

    def build_message_handler(self):
        self.calls.append("handler")
        return self.handler

    def destroy_message_handler(self, message_handler):
        assert message_handler is self.handler
        self.calls.append("destroyed")

    def destroy_singletons(self):
        self.calls.append("end")


@pytest.fixture
def make(hub):
    made = []

    def make(name="MyService", **options):
        bus = ZeroMqMessageBus(name, None, address=hub.address, locator=hub.locator, timeout=PATIENCE, **options)
        made.append(bus)
        return bus

    yield make
    for each in made:
        each.close()


def publish(bus, subject, count):
    for number in range(count):
        assert bus.publish_event(Event(subject, "TYPE", str(number))).token == DefaultToken.TK_SYS_ACK


@pytest.fixture
def registered_hub():
    """A daemon that its ServiceLocator knows."""
    with TestHub(config={"locatorRegister": True}) as daemon:
        yield daemon


def test_the_readme_s_example_runs_unmodified_with_import_shims(registered_hub, tmp_path):
    hub = registered_hub
    (tmp_path / "app.py").write_text(
        """import zmq
from messagebus import SubscriptionInfo
from zeromqmessagehandler import ZeroMqMessageBus

context = zmq.Context()
message_bus = ZeroMqMessageBus("MyService", context)

message_bus.subscribe([
    SubscriptionInfo("OrderCreated", SubscriptionInfo.TYPE_NON_REENTRANT),
    SubscriptionInfo("PaymentReceived", SubscriptionInfo.TYPE_REENTRANT),
])
import sys
print(sys.argv[1:], flush=True)
got = []
def handler(bus, event):
    print(event.subject, event.data, flush=True)
    got.append(event)
    if len(got) == 2:
        import threading
        threading.Thread(target=bus.close).start()
message_bus.handle_events(handler)
"""
    )
    program = subprocess.Popen(
        [sys.executable, "-m", "event_manager.compat", "--as", "messagebus,zeromqmessagehandler", "app.py", "one", "two"],
        cwd=tmp_path, env={"SERVICE_LOCATOR_ADDRESS": hub.locator}, stdout=subprocess.PIPE, text=True,
    )
    try:
        assert program.stdout.readline() == "['one', 'two']\n"
        with em.connect(hub.address, timeout=PATIENCE) as client:
            # One as this bus says it, one as any publisher says it.
            client.emit("PaymentReceived", b"9.5\0PaymentReceived\0T\0false\0")
            assert program.stdout.readline() == "PaymentReceived 9.5\n"
            client.emit("OrderCreated.x", b"plain")
            assert program.stdout.readline() == "OrderCreated.x plain\n"
        assert program.wait(PATIENCE) == 0
    finally:
        program.kill()
        program.communicate()


def test_reentrant_events_are_handled_at_the_same_time(hub, make):
    seen, bus = Seen(), make()
    seen.gate.clear()
    bus.subscribe([SubscriptionInfo("A", SubscriptionInfo.TYPE_REENTRANT)])
    publish(bus, "A", 40)  # They wait for the handler.
    bus._handle_with(seen)
    seen.wait(lambda seen: seen.running == 40)
    seen.gate.set()
    hub.wait_idle()


def test_non_reentrant_events_are_dropped_while_one_is_handled(hub, make):
    seen, bus = Seen(), make()
    seen.gate.clear()
    bus.subscribe(SubscriptionInfo("A", SubscriptionInfo.TYPE_NON_REENTRANT))
    bus._handle_with(seen)
    publish(bus, "A", 1)
    seen.wait(lambda seen: seen.running == 1)
    publish(bus, "A", 5)
    publish(bus, "A.other", 1)  # Another subject, of the same subscription.
    seen.wait(lambda seen: seen.running == 2)
    [service] = hub.status()["services"]
    while service["counters"]["inFlight"] > 2 or service["counters"]["queued"]:
        [service] = hub.status()["services"]
    seen.gate.set()
    hub.wait_idle()
    assert (seen.items, bus.dropped) == (["0", "0"], 5)


def test_non_reentrant_events_wait_if_that_is_asked_for(hub, make):
    seen, bus = Seen(), make(on_busy="queue")
    bus.subscribe(SubscriptionInfo("A", SubscriptionInfo.TYPE_NON_REENTRANT))
    publish(bus, "A", 6)
    bus._handle_with(seen)
    seen.wait(lambda seen: len(seen.items) == 6)
    hub.wait_idle()
    assert (seen.items, seen.peak, bus.dropped) == ([str(each) for each in range(6)], 1, 0)


def test_queue_events_are_handled_one_after_the_other(hub, make):
    seen, bus = Seen(), make()
    bus.subscribe(SubscriptionInfo("A", SubscriptionInfo.TYPE_QUEUE))
    publish(bus, "A", 200)
    bus._handle_with(seen)
    seen.wait(lambda seen: len(seen.items) == 200)
    hub.wait_idle()
    assert (seen.items, seen.peak) == ([str(each) for each in range(200)], 1)


def test_more_can_be_subscribed_to_while_it_works(hub, make):
    seen, bus = Seen(), make(handler=Seen())
    bus.close()
    bus = make("Other", handler=seen)
    seen.gate.clear()
    bus.subscribe("A")
    publish(bus, "A", 1)
    seen.wait(lambda seen: seen.running == 1)
    bus.subscribe(["B", SubscriptionInfo("C")])  # A handler runs meanwhile.
    bus.subscribe("A")
    for subject in "ABC":
        publish(bus, subject, 3)
    seen.wait(lambda seen: seen.running == 10)
    seen.gate.set()
    hub.wait_idle()
    with pytest.raises(em.InvalidArgument):
        bus.handle_events(seen)


def test_a_failed_event_comes_again_and_builders_are_called_as_said(hub, make):
    attempts, done = [], threading.Event()

    class Handler(MessageHandler):
        def handle_event(self, message_bus, event):
            assert isinstance(message_bus, MessageBus)
            attempts.append((event.subject, event.type, event.data, event.source_id, event.sync))
            if len(attempts) < 3:
                raise RuntimeError("not yet")
            done.set()

    builder = Builder(Handler())
    bus = make(retry=em.Retry(initial=0.01), handler=builder)
    bus.subscribe("A")
    bus.publish_event(Event("A", "T", "data", 7))
    assert done.wait(PATIENCE)
    hub.wait_idle()
    bus.close()
    assert attempts == [("A", "T", "data", 7, False)] * 3
    assert builder.calls == ["singletons"] + ["handler", "destroyed"] * 3 + ["end"]


def test_sync_events_are_answered_by_handlers(hub, make):
    def handler(bus, event):
        if event.subject == "Fails":
            raise ValueError("no")
        bus.reply_event(event, Message(DefaultToken.TK_SYS_ACK, DataType.string, event.data.upper()))

    server, client = make(handler=handler), make("Client")
    server.subscribe([SubscriptionInfo("Price", SubscriptionInfo.TYPE_SYNC), SubscriptionInfo("Fails", SubscriptionInfo.TYPE_SYNC)])
    assert server.registered.wait(PATIENCE)
    answer = client.publish_event(Event("Price", "T", "beer", sync=True))
    assert answer.token == DefaultToken.TK_SYS_ACK
    [result] = json.loads(answer.data)
    assert (result["service"], result["status"], result["data"]) == ("MyService", "ack", "BEER")
    answer = client.publish_event(Event("Fails", "T", "", sync=True))
    assert answer.token == DefaultToken.TK_SYS_NAK
    assert "ValueError: no" in json.loads(answer.data)[0]["data"]
    assert client.publish_event(Event("Nobody", "T", "", sync=True)).token == DefaultToken.TK_SYS_ACK


def test_sync_events_of_other_subjects_are_answered_at_once(hub, make):
    seen = Seen()
    seen.gate.clear()
    server, client = make(handler=seen), make("Client")
    server.subscribe(
        [SubscriptionInfo("Q", SubscriptionInfo.TYPE_QUEUE), SubscriptionInfo("N", SubscriptionInfo.TYPE_NON_REENTRANT), "R"]
    )
    assert server.registered.wait(PATIENCE)
    for subject in ("Q", "Q", "N", "N", "R"):
        assert client.publish_event(Event(subject, "", "x", sync=True)).token == DefaultToken.TK_SYS_ACK
    seen.wait(lambda seen: seen.running == 3)
    seen.gate.set()
    seen.wait(lambda seen: len(seen.items) == 4 and not seen.running)
    assert server.dropped == 1


def test_messages_are_sent_and_answered(hub, make):
    class Handler(MessageHandler):
        def handle_message(self, message_bus, message):
            if message.data == "fail":
                raise RuntimeError("out of paper")
            if message.data == "silent":
                return
            if message.data is None:
                return message_bus.reply_message(message, JsonSwaggerMessage(200, "{}"))
            message_bus.reply_message(message, Message(DefaultToken.TK_SYS_ACK, DataType.param, f"{message.token}\0{message.data}"))
            message_bus.reply_message(message, NakMessage())  # too late

        def handle_event(self, message_bus, event):
            raise AssertionError

    server, client = make("Printer", handler=Builder(Handler())), make("Client")
    assert server.registered.wait(PATIENCE)
    reply = client.send_message("Printer", Message(TK_PRINT, data_type=DataType.param, data="\0hello", timeout=60_000_000))
    assert (reply.token, reply.data_type, reply.data) == (DefaultToken.TK_SYS_ACK, DataType.param, f"{TK_PRINT}\0\0hello")
    reply = client.send_message("Printer", Message(TK_PRINT))
    assert (reply.data_type, json.loads(reply.data)["status_code"]) == (DataType.swagger, 200)
    reply = client.send_message("Printer", Message(TK_PRINT, DataType.string, "fail"))
    assert (reply.token, reply.data) == (DefaultToken.TK_SYS_NAK, "RuntimeError: out of paper")
    with pytest.raises(MessageBusException) as error:
        client.send_message("Printer", Message(TK_PRINT, DataType.string, "silent", 50_000))
    assert error.value.type == MessageBusExceptionType.timeout
    with pytest.raises(MessageBusException) as error:
        client.send_message("Nobody", Message(TK_PRINT))
    assert error.value.type == MessageBusExceptionType.unknown and isinstance(error.value, em.EventManagerError)
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda n: client.send_message("Printer", Message(TK_PRINT, DataType.string, str(n))).data, range(40)))
    assert replies == [f"{TK_PRINT}\0{n}" for n in range(40)]


def test_libzmq_peers_may_ask_and_nonsense_harms_nobody(hub, make):
    server = make("Printer", handler=lambda bus, event: None)
    server.subscribe("A")
    assert server.registered.wait(PATIENCE)
    address = ask(hub.locator, {"token": "3.2", "data": ["Printer"]}, PATIENCE)
    with zmq.Context() as context, context.socket(zmq.REQ) as asker:
        asker.setsockopt(zmq.LINGER, 0)
        asker.setsockopt(zmq.RCVTIMEO, round(PATIENCE * 1000))
        asker.connect(address)
        for token, answer in ((b"\x01\x00\x40\xf0", b"\x01\x00\x10\xf0"), (b"TK_EVT_EVENT", b"TK_SYS_ACK"), (b"0xF0400001", b"0xF0100001")):
            asker.send_multipart([token, b"PARAM", b"x\0A\0\0true\0"])
            assert asker.recv_multipart()[0] == answer
    with zmq.Context() as context, context.socket(zmq.DEALER) as talker:
        talker.setsockopt(zmq.LINGER, 0)
        talker.setsockopt(zmq.RCVTIMEO, round(PATIENCE * 1000))
        talker.connect(address)
        talker.send_multipart([b"what is this"])
        talker.send_multipart([b"", b""])
        talker.send_multipart([b"TK_EVT_EVENT", b"PARAM", b"\xff"])
        assert talker.recv_multipart()[0] == b"TK_SYS_ACK"


def test_a_bus_survives_the_daemon(hub, make):
    seen, bus = Seen(), make(handler=None, delivery="queue")
    bus.subscribe("A")
    bus._handle_with(seen)
    publish(bus, "A", 1)
    seen.wait(lambda seen: seen.items == ["0"])
    hub.kill()
    hub.start()
    publish(bus, "A", 3)
    seen.wait(lambda seen: set(seen.items) == {"0", "1", "2"})
    hub.wait_idle()


def test_what_cannot_be_is_refused_with_typed_errors(hub, make):
    with pytest.raises(em.InvalidArgument):
        make("")
    with pytest.raises(em.InvalidArgument):
        make(on_busy="explode")
    with pytest.raises(em.InvalidArgument):
        make(handler=5)
    with pytest.raises(em.InvalidArgument):
        SubscriptionInfo("A", "SOMETIMES")
    with pytest.raises(em.InvalidArgument):
        TokenCreator.create_token(TokenPriority.low, "xyz", "1")
    with pytest.raises(em.InvalidArgument):
        TokenCreator.create_token(TokenPriority.low, "1", 70000)
    bus = make("Fine")
    for event in (Event("", "T", "x"), Event("A", "T", "a\0b"), Event("A", "T", b"\xff")):
        with pytest.raises(em.InvalidArgument):
            bus.publish_event(event)
    with pytest.raises(em.InvalidArgument):
        bus.subscribe("a\0b")
    bus.subscribe("A")
    bus.close()
    bus.close()
    with pytest.raises(em.Closed):
        bus.subscribe("B")
    with pytest.raises(MessageBusException):
        ZeroMqMessageBus("X", address="tcp://127.0.0.1:1", timeout=0.05).publish_event(Event("A"))
    with pytest.raises(em.NoAnswer):
        ZeroMqMessageBus("X", locator="tcp://127.0.0.1:1", timeout=0.05)


def test_tokens_are_those_of_the_protocol():
    assert DefaultToken.TK_SYS_ACK == 0xF0100001
    assert TokenCreator.create_token(TokenPriority.high, "4", "1") == DefaultToken.TK_EVT_EVENT
    assert TokenCreator.create_token(TokenPriority.low, "2", "1") == 0x00200001
    assert TokenCreator.create_token(TokenPriority.high, "123", "1") == 0xF_1230_0001
    assert AckMessage({"a": 1}).data_type == DataType.json and AckMessage().data_type == DataType.empty
    assert JsonSwaggerMessage(200, "{}", {"Content-Type": "x"}).headers == {"Content-Type": "x"}


def test_the_daemon_is_found_by_the_locator(registered_hub, monkeypatch):
    monkeypatch.setenv("SERVICE_LOCATOR_ADDRESS", registered_hub.locator)
    with ZeroMqMessageBus("X", timeout=PATIENCE) as bus:
        assert bus.publish_event(Event("A")).token == DefaultToken.TK_SYS_ACK


def test_shims_stand_for_what_is_not_installed_only(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "event_manager.compat", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
        )

    (tmp_path / "app.py").write_text("import messagebus\nprint(messagebus.__name__)\n")
    assert run("--as", "messagebus", "app.py").stdout == "event_manager.compat.edeploy\n"
    assert run("--as=messagebus", "-m", "app").stdout == "event_manager.compat.edeploy\n"
    (tmp_path / "messagebus.py").write_text("")
    refused = run("--as", "messagebus", "app.py")
    assert refused.returncode == 1 and "a package messagebus is installed" in refused.stderr
    assert run("--as", "messagebus", "--replace", "app.py").stdout == "event_manager.compat.edeploy\n"
    for wrong in (["app.py"], ["--as", "messagebus"], ["--as", "messagebus", "--what", "x"], ["--as", "messagehandler", "none.py"]):
        assert run(*wrong).returncode == 2
    unknown = run("--as", "zope", "app.py")
    assert unknown.returncode == 1 and "no module here stands for 'zope'" in unknown.stderr
    assert run("--help").returncode == 0

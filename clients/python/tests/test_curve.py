"""Encrypted connections to the real daemon, and keys in files, texts and the environment."""

import asyncio
import base64
import logging
import os
import pickle
import re
import socket
import subprocess
import sys
import threading

import pytest
import zmq.auth
from support import PATIENCE, Log, in_the_clear, law, settled, wait_for
from zmq.utils import z85

import event_manager as em
from event_manager import aio
from event_manager._messages import ask
from event_manager._zmtp import ProtocolError
from event_manager.curve import write_certificate
from event_manager.hooks import Hooks
from event_manager.testing import TestHub

#: The pair of ZMTP's specification.
SERVER = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
CLIENT_SECRET = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"
CLIENT_PUBLIC = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"


@pytest.fixture
def closed():
    """A daemon that admits only clients with keys."""
    with TestHub(curve=True, durable=True) as daemon:
        yield daemon


def everything(daemon, hub):
    """Each thing that a hub does."""
    done = Log()
    service = em.Service("Billing", delivery="queue")

    @service.on("order.*")
    def handle(body: dict) -> None:
        done.add(body["id"])

    with hub.subscribe("order.") as events:
        service.start(hub)
        hub.publish("order.created", {"id": 1})
        hub.flush()
        assert hub.emit("order.created", {"id": 2}, level="disk").services == 1
        hub.publish("order.big", {"id": 3, "note": "x" * 3_000_000})
        hub.flush(PATIENCE)
        assert sorted(done.wait(3)) == [1, 2, 3]
        assert [len(events.next(timeout=PATIENCE).raw) > 1_000_000 for _ in range(3)].count(True) == 1
    with pytest.raises(em.NoResponders):
        hub.call("nobody", {})
    settled(daemon, hub)
    service.stop()
    law(daemon)


def test_everything_works_with_keys(closed):
    with em.connect(closed.address, timeout=PATIENCE, curve=closed.curve) as hub:
        everything(closed, hub)
    assert closed.running


def test_one_port_serves_clients_with_and_without_keys():
    with TestHub(curve=True, durable=True, config={"security": {"mechanisms": ["null", "curve"]}}) as daemon:
        for curve in (False, daemon.curve):
            with em.connect(daemon.address, timeout=PATIENCE, curve=curve) as hub:
                everything(daemon, hub)


def test_asyncio_with_keys(closed):
    import asyncio

    async def main():
        async with aio.connect(closed.address, timeout=PATIENCE, curve=closed.curve) as hub:
            service, done = em.Service("Billing"), asyncio.Event()

            @service.on("order.*")
            async def handle(body: dict) -> None:
                done.set()

            async with await hub.subscribe("order.") as events:
                await hub.start(service)
                await hub.emit("order.created", {"id": 1})
                assert (await events.next(timeout=PATIENCE)).raw == b'{"id":1}'
            await asyncio.wait_for(done.wait(), PATIENCE)

    asyncio.run(main())


def test_a_client_without_keys_is_told_what_may_be_missing(closed):
    with em.connect(closed.address, timeout=2, curve=False) as hub:
        with pytest.raises(em.NoAnswer, match=r"closed the connection, before the handshake was over: .*want keys \(curve=\)"):
            hub.emit("order.created", b"")


@pytest.mark.parametrize("what", ["the server's", "the client's"])
def test_a_wrong_key_is_told(closed, tmp_path, what):
    key, server_key = write_certificate(tmp_path, "other")
    curve = em.Curve(server_key, secret_key=closed.curve._secret) if what == "the server's" else em.Curve.load(key, closed.curve.server_key)
    with em.connect(closed.address, timeout=4, curve=curve) as hub:
        with pytest.raises(em.NoAnswer, match="during the handshake of CURVE: wrong server key, or this key is not known there") as error:
            hub.emit("order.created", b"")
        assert error.value.may_be_taken is False
        with pytest.raises(em.NoAnswer, match="wrong server key"):
            hub.subscribe("order.", timeout=2)


@in_the_clear
def test_a_daemon_without_curve_is_told(hub, closed):
    with em.connect(hub.address, timeout=2, curve=closed.curve) as connected:
        with pytest.raises(em.NoAnswer, match="may not have CURVE"):
            connected.emit("order.created", b"secret")


def test_a_key_that_is_removed_and_comes_back(closed):
    curve = closed.admit("late")
    handled, states = Log(), []
    service = em.Service("Billing", delivery="queue", retry=em.Retry(initial=0.01))
    service.on("order.*")(lambda event: handled.add(event))

    class Tell(Hooks):
        def on_state(self, connected, why):
            states.append((connected, why))

    with em.connect(closed.address, timeout=PATIENCE, curve=curve, hooks=[Tell()]) as hub:
        service.start(hub)
        events = hub.subscribe("order.")
        hub.emit("order.created", b"1")
        handled.wait(1)
        closed.dismiss("late")
        wait_for(lambda: states[-1][0] is False)
        wait_for(lambda: "not known there" in hub._core.requests.why)
        with pytest.raises(em.NoAnswer, match="not known there"):
            hub.emit("order.created", b"2", timeout=0.5)
        closed.admit("late")
        receipt = hub.emit("order.created", b"3", id="three")
        assert receipt.services == 1
        handled.wait(2)
        wait_for(lambda: hub._core.publisher._subscribed and events._subscribed and events.link.open)
        hub.publish("order.created", b"4")
        hub.flush()
        handled.wait(3)
        while events.next(timeout=PATIENCE).raw != b"4":
            pass
        settled(closed, hub)
    law(closed)


def test_reconnects_after_a_kill_of_the_daemon(closed):
    with em.connect(closed.address, timeout=PATIENCE, curve=closed.curve) as hub:
        hub.emit("order.created", b"1")
        closed.kill()
        closed.start()
        hub.emit("order.created", b"2")


def test_a_child_process_makes_keys_of_its_own(closed):
    with em.connect(closed.address, timeout=PATIENCE, curve=closed.curve) as hub:
        hub.emit("order.created", b"1")
        child = os.fork()
        if child == 0:
            try:
                hub.emit("order.created", b"2")
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        hub.emit("order.created", b"3")


def test_nothing_that_was_published_is_on_the_wire(closed):
    """Between the client and the daemon, somebody listens."""
    import socket

    listener = socket.create_server(("127.0.0.1", 0))
    heard = bytearray()

    def copy(source, target):
        try:
            while True:
                data = source.recv(1 << 16)
                heard.extend(data)
                if not data:
                    break
                target.sendall(data)
        except OSError:
            pass

    def serve():
        ours, _ = listener.accept()
        host, _, port = closed.address[6:].rpartition(":")
        theirs = socket.create_connection((host, int(port)))
        ends.extend((ours, theirs))
        threading.Thread(target=copy, args=(theirs, ours), daemon=True).start()
        copy(ours, theirs)

    ends = [listener]
    threading.Thread(target=serve, daemon=True).start()
    with em.connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}", timeout=PATIENCE, curve=closed.curve) as hub:
        for _ in range(200):
            hub.emit("order.created.secretly", b"an interesting body")
    for end in ends:
        end.close()
    assert len(heard) > 20_000
    assert not re.search(rb"order|interesting|framesBase64|emit|TK_SYS", bytes(heard))


def prices(isolation="event"):
    service = em.Service("Prices", isolation=isolation)

    @service.answers("price")
    def price(query: dict) -> dict:
        return {**query, "cents": 950, "note": "x" * 100_000}

    @service.answers("echo")
    async def echo(body: str) -> str:
        return body

    return service


@pytest.mark.parametrize("isolation", ["event", "handler"])
def test_calls_are_answered_by_curve_only(closed, isolation):
    with em.connect(closed.address, timeout=PATIENCE, curve=closed.curve) as hub:
        service = prices(isolation)
        service.start(hub)
        answers = hub.call("price", {"sku": "a"})
        assert (answers["sku"], answers["cents"], len(answers["note"])) == ("a", 950, 100_000)
        assert [hub.call("echo", f"text {number}", reply=str) for number in range(20)] == [f"text {number}" for number in range(20)]
        running = service._parts[0]._running if isolation == "handler" else service._running
        port = running.answers._answerer.port
        with pytest.raises(em.NoAnswer, match="NULL|CURVE|closed"):
            ask(f"tcp://127.0.0.1:{port}", [b"TK_EVENT_MANAGER_PUBLISH", b"6", b"{}\0price"], PATIENCE)
        with pytest.raises(ProtocolError):
            handshake(port, em.Curve(running.core.curve.public_key))
        assert hub.call("echo", "still", reply=str) == "still"
        service.stop()
        with pytest.raises((em.NoResponders, em.CallTimeout)):
            hub.call("price", {}, timeout=0.5)


def handshake(port, curve):
    """Connects as somebody whom the service doesn't know."""
    peer = curve.new_peer(b"DEALER")
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as stream:
        while not peer.open:
            for data in peer.out:
                stream.sendall(data)
            peer.out.clear()
            data = stream.recv(1 << 16)
            if not data:
                raise ProtocolError("it closed the connection")
            peer.feed(data)


def test_calls_are_answered_by_curve_only_with_asyncio(closed):
    async def main():
        async with aio.connect(closed.address, timeout=PATIENCE, curve=closed.curve) as hub:
            service = prices()
            await hub.start(service)
            assert (await hub.call("price", {"sku": "a"}))["cents"] == 950
            assert await asyncio.gather(*[hub.call("echo", str(each), reply=str) for each in range(10)]) == [str(each) for each in range(10)]
            await hub.stop(service)

    asyncio.run(main())


def test_what_is_called_and_answered_is_not_in_the_clear(closed, monkeypatch):
    heard = []
    real = socket.socket.sendall
    monkeypatch.setattr(socket.socket, "sendall", lambda self, data, *more: (heard.append(bytes(data)), real(self, data, *more))[1])
    with em.connect(closed.address, timeout=PATIENCE, curve=closed.curve) as hub:
        service = prices()
        service.start(hub)
        assert hub.call("echo", "an interesting body", reply=str) == "an interesting body"
    assert len(b"".join(heard)) > 300 and b"interesting" not in b"".join(heard)


# Keys.


def test_keys_in_every_form():
    raw = z85.decode(SERVER)
    for form in (SERVER, SERVER.encode(), raw, raw.hex(), base64.b64encode(raw).decode(), base64.b64encode(raw).decode().rstrip("=")):
        assert em.Curve(form).server_key == SERVER
        made = em.Curve(SERVER, secret_key=CLIENT_SECRET)
        assert made.public_key == CLIENT_PUBLIC
    assert em.Curve(SERVER, CLIENT_PUBLIC, CLIENT_SECRET).public_key == CLIENT_PUBLIC
    anonymous = em.Curve(SERVER)
    assert anonymous.public_key == anonymous.public_key != em.Curve(SERVER).public_key


def test_keys_from_pyzmqs_files(tmp_path):
    zmq.auth.create_certificates(tmp_path, "server")
    zmq.auth.create_certificates(tmp_path, "billing", metadata={"note": "public-key"})
    public, secret = zmq.auth.load_certificate(tmp_path / "billing.key_secret")
    server = zmq.auth.load_certificate(tmp_path / "server.key")[0].decode()
    for key in (tmp_path / "billing.key_secret", str(tmp_path / "billing.key_secret")):
        for server_key in (tmp_path / "server.key", str(tmp_path / "server.key"), server, tmp_path / "server.key_secret"):
            made = em.Curve.load(key, server_key=server_key)
            assert (made.server_key, made.public_key) == (server, public.decode())
            assert secret.decode() not in repr(made) and public.decode() in repr(made)


def test_ours_can_be_read_by_pyzmq(tmp_path):
    secret, public = write_certificate(tmp_path, "x")
    assert zmq.auth.load_certificate(secret)[0] == zmq.auth.load_certificate(public)[0]
    assert em.Curve.load(secret, SERVER).public_key.encode() == zmq.auth.load_certificate(public)[0]
    assert os.stat(secret).st_mode & 0o777 == 0o600


def test_a_secret_that_others_can_read_is_told(tmp_path, caplog):
    zmq.auth.create_certificates(tmp_path, "billing")
    path = tmp_path / "billing.key_secret"
    for mode, warns in ((0o644, True), (0o600, False)):
        caplog.clear()
        path.chmod(mode)
        with caplog.at_level(logging.WARNING):
            em.Curve.load(path, SERVER)
        assert (f"run chmod 600 {path}" in caplog.text) == warns


def test_the_environment_names_keys(closed, tmp_path, monkeypatch):
    monkeypatch.setenv("EVENT_MANAGER_SERVER_KEY", closed.curve.server_key)
    monkeypatch.setenv("EVENT_MANAGER_KEY", str(closed._directory / "test.key_secret"))
    with em.connect(closed.address, timeout=PATIENCE) as hub:
        hub.emit("order.created", b"1")
    monkeypatch.setenv("EVENT_MANAGER_SERVER_KEY", str(closed._directory / "server.key"))
    with em.connect(closed.address, timeout=PATIENCE) as hub:
        hub.emit("order.created", b"1")
    monkeypatch.delenv("EVENT_MANAGER_SERVER_KEY")
    with pytest.raises(em.InvalidArgument, match="EVENT_MANAGER_SERVER_KEY has to name"):
        em.connect(closed.address)
    em.connect("tcp://localhost:1", curve=False, timeout=0.1).close()


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "is no certificate"),
        ("metadata\ncurve\n", "is no certificate"),
        (f'curve\n    public-key = "{SERVER}"\n', "no line secret-key"),
        (f'curve\n    secret-key = "{CLIENT_SECRET[:-1]}"\n', "line 2: secret-key is not 40 characters"),
        (f"curve\n    secret-key = {CLIENT_SECRET}\n", "line 2: secret-key is not 40 characters"),
        (f'public-key = "{SERVER}"\nsecret-key = "{CLIENT_SECRET}"', "does not belong"),
    ],
)
def test_files_that_are_no_certificates(tmp_path, text, why):
    path = tmp_path / "x.key_secret"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(em.InvalidArgument, match=why) as error:
        em.Curve.load(path, SERVER).prepare()
    assert CLIENT_SECRET[:-1] not in str(error.value)


def test_keys_that_are_none(tmp_path):
    for arguments in (("short",), (b"x" * 31,), (SERVER, SERVER), (SERVER[:-1] + "~",), (None,), (SERVER, "short", SERVER),
                      (SERVER, None, "short"), ("%" * 40,), (5,), (b"\xff" * 40,)):
        with pytest.raises(em.InvalidArgument) as error:
            em.Curve(*arguments)
        assert SERVER not in str(error.value) and "short" not in str(error.value)
    for missing in ("none.key", "/nowhere/none.key", tmp_path / "none.key"):
        with pytest.raises(em.InvalidArgument, match="none.key can't be read: No such file.*nothing was sent; name another file"):
            em.Curve(missing)
    for secret in (CLIENT_SECRET, CLIENT_SECRET[:-1]):
        with pytest.raises(em.InvalidArgument, match="it may be a key itself") as error:
            em.Curve.load(secret, SERVER)
        assert CLIENT_SECRET[:-1] not in str(error.value)
    with pytest.raises(em.InvalidArgument, match="a number that is no key"):
        em.Curve(bytes(32)).prepare()
    for wrong in ("key", SERVER, True, 1, ()):
        with pytest.raises(em.InvalidArgument, match="curve is an event_manager.Curve"):
            em.connect("tcp://localhost:1", curve=wrong)


def test_a_secret_is_not_told():
    made = em.Curve(SERVER, CLIENT_PUBLIC, CLIENT_SECRET)
    made.prepare()
    shown = repr(made) + str(made) + repr(em.connect("tcp://localhost:1", curve=made).curve)
    assert CLIENT_SECRET not in shown and z85.decode(CLIENT_SECRET).hex() not in shown and SERVER in shown
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(made)


def test_without_its_extra_curve_is_missing():
    program = (
        "import sys; sys.modules['nacl'] = sys.modules['nacl.bindings'] = None\n"
        "import event_manager as em\n"
        f"try: em.connect('tcp://localhost:1', curve=em.Curve({SERVER!r}))\n"
        "except em.Missing as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "needs the package PyNaCl; nothing was done; pip install 'event-manager[curve]'" in said


@in_the_clear
def test_keys_cost_nothing_where_there_are_none():
    program = "import event_manager as em, sys; em.connect('tcp://localhost:1', timeout=1); print([m for m in sys.modules if 'nacl' in m or 'curve' in m])"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == "[]\n"

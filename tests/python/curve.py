"""CURVE with libzmq's own sockets, on the ports that sockets without keys use too."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import zmq
import zmq.auth

from messagebus import ACK, LOCATOR_REGISTER, NAK, SUBSCRIBE, ask

PATIENCE_S = 20


class Keys:
    """Certificates as pyzmq writes them."""

    def __init__(self, directory, clients="clients"):
        self._directory = directory
        self.clients = directory / clients
        self.clients.mkdir(exist_ok=True)
        self.own = {}

    def make(self, name):
        zmq.auth.create_certificates(self._directory, name)
        os.chmod(self.secret(name), 0o600)
        self.own[name] = zmq.auth.load_certificate(self.secret(name))

    def secret(self, name):
        return self._directory / f"{name}.key_secret"

    def admit(self, name):
        shutil.copy(self._directory / f"{name}.key", self.clients)

    def revoke(self, name):
        (self.clients / f"{name}.key").unlink()


def start(binary, directory, keys):
    (directory / "config.json").write_text(json.dumps({
        "pubAddress": "tcp://127.0.0.1:0", "subAddress": "tcp://127.0.0.1:0",
        "requestAddress": "tcp://127.0.0.1:0", "pullAddress": "tcp://127.0.0.1",
        "minStreamerPort": 0, "maxStreamerPort": 0, "publicHostname": "127.0.0.1",
        "httpAddress": "off", "embeddedLocator": True, "locatorAddress": "tcp://127.0.0.1:0", "stateDir": "",
        "security": {"mechanisms": ["null", "curve"], "secretKey": str(keys.secret("server")),
                     "keysDir": str(keys.clients)},
    }))
    ready = directory / "ready"
    daemon = subprocess.Popen([binary, "serve", "--ready-file", ready], cwd=directory)
    deadline = time.monotonic() + PATIENCE_S
    while not (ready.exists() and ready.read_text().endswith("\n")):
        assert time.monotonic() < deadline and daemon.poll() is None, "the daemon does not start"
        time.sleep(0.02)
    return daemon, {name: value[0] for name, value in json.loads(ready.read_text()).items()
                    if name in ("publishers", "subscribers", "requests")}


def socket(context, keys, kind, address, name=None, **options):
    new = context.socket(kind)
    new.linger, new.rcvtimeo = 0, PATIENCE_S * 1000
    new.sndhwm = new.rcvhwm = 0
    if name:
        new.curve_serverkey = keys.own["server"][0]
        new.curve_publickey, new.curve_secretkey = keys.own[name]
    for option, value in options.items():
        setattr(new, option, value)
    if kind == zmq.SUB:
        new.subscribe(b"Order")
    new.connect(address)
    return new


def check_events(context, keys, at):
    """Events of every size, from each kind of publisher to each kind of subscriber."""
    subscribers = [socket(context, keys, zmq.SUB, at["subscribers"], name) for name in (None, "client")]
    subscribers.append(socket(context, keys, zmq.XSUB, at["subscribers"], "client"))
    subscribers[-1].send(b"\x01Order")
    publishers = [socket(context, keys, zmq.XPUB, at["publishers"], name) for name in (None, "client")]
    for publisher in publishers:
        assert publisher.recv() == b"\x01"
    wait_until_heard(publishers[0], subscribers)
    for size in (0, 1, 221, 222, 223, 255, 256, 8191, 65536, 1 << 20, 20 << 20):
        for publisher in publishers:
            event = [b"Order", os.urandom(size), b""]
            publisher.send_multipart(event)
            for subscriber in subscribers:
                assert subscriber.recv_multipart() == event, size
    for count in (1, 5_000):
        for n in range(count):
            publishers[1].send_multipart([b"Order", b"%d" % n])
        for subscriber in subscribers:
            assert [subscriber.recv_multipart()[1] for _ in range(count)] == [b"%d" % n for n in range(count)]


def wait_until_heard(publisher, subscribers):
    """All of them hear it, and nothing is under way."""
    number, deadline = 0, time.monotonic() + PATIENCE_S
    heard = set()
    while len(heard) < len(subscribers):
        assert time.monotonic() < deadline, "they hear nothing"
        number += 1
        publisher.send_multipart([b"Order", b"%d" % number])
        heard |= {subscriber for subscriber in subscribers if subscriber.poll(20)}
    publisher.send_multipart([b"Order", b"last"])
    for subscriber in subscribers:
        while subscriber.recv_multipart()[1] != b"last":
            pass


def check_worker(context, keys, at):
    """A service's worker, and requests by REQ and DEALER."""
    requests = socket(context, keys, zmq.REQ, at["requests"], "client")
    token, answer = ask(requests, SUBSCRIBE, "sub-1", "Billing", "Order")
    assert token == ACK, answer
    address = answer.split("\0")[2]
    worker = socket(context, keys, zmq.DEALER, address, "client", identity=b"w" * 255)
    worker.send(b"READY")
    publisher = socket(context, keys, zmq.XPUB, at["publishers"], "client")
    assert publisher.recv() == b"\x01"
    publisher.send_multipart([b"Order", b"work"])
    assert worker.recv_multipart()[-1] == b"work"


def check_admission(context, keys, at):
    """A client that isn't known works once its file is there, and ends once it is gone."""
    keys.make("late")
    late = socket(context, keys, zmq.SUB, at["subscribers"], "late")
    monitor = late.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    publisher = socket(context, keys, zmq.XPUB, at["publishers"])
    assert publisher.recv() == b"\x01"
    publisher.send_multipart([b"Order", b"too early"])
    assert not late.poll(500)
    keys.admit("late")
    admitted = time.monotonic()
    wait_until_heard(publisher, [late])
    print(f"admitted after {time.monotonic() - admitted:.2f} s")
    while monitor.poll(0):
        monitor.recv_multipart()
    keys.revoke("late")
    revoked = time.monotonic()
    assert monitor.poll(PATIENCE_S * 1000)
    print(f"revoked after {time.monotonic() - revoked:.2f} s")


def check_made_keys(binary, directory):
    """What `keys init` and `keys new` make is read by pyzmq, and opens the daemon."""
    run = lambda *arguments: subprocess.run([binary, "keys", *arguments], cwd=directory, check=True)
    run("init", "--dir", directory / "made")
    run("new", "billing", "--dir", directory / "made" / "keys", "--out", directory)
    server, none = zmq.auth.load_certificate(directory / "made" / "server.key")
    assert len(server) == 40 and none is None
    assert zmq.auth.load_certificate(directory / "made" / "server.key_secret")[0] == server
    public, secret = zmq.auth.load_certificate(directory / "billing.key_secret")
    assert zmq.curve_public(secret) == public
    assert zmq.auth.load_certificate(directory / "made" / "keys" / "billing.key") == (public, None)
    assert zmq.auth.load_certificates(directory / "made" / "keys") == {public: True}
    for name in ("made/server.key_secret", "billing.key_secret"):
        assert (directory / name).stat().st_mode & 0o777 == 0o600
    keys = Keys(directory / "made", clients="keys")
    keys.own = {"server": (server, None), "billing": (public, secret)}
    daemon, at = start(binary, directory / "made", keys)
    context = zmq.Context()
    try:
        token, answer = ask(socket(context, keys, zmq.REQ, at["requests"], "billing"), SUBSCRIBE, "sub-1", "Billing", "")
        assert token == ACK, answer
    finally:
        context.destroy(linger=0)
        daemon.terminate()
        assert daemon.wait(PATIENCE_S) == 0


def check_locator(binary, directory):
    """A ServiceLocator alone, with keys: unmodified sockets register and ask by CURVE, and only by that."""
    keys = Keys(directory)
    for name in ("server", "prices", "stranger"):
        keys.make(name)
    keys.admit("prices")
    (directory / "config.json").write_text(json.dumps({"security": {
        "mechanisms": ["curve"], "secretKey": str(keys.secret("server")), "keysDir": str(keys.clients),
        "clients": {"prices": {"services": ["Prices"]}},
    }}))
    log = directory / "log"
    with log.open("w") as stderr:
        locator = subprocess.Popen([binary, "locator", "--address", "tcp://127.0.0.1:0", "--config",
                                    directory / "config.json"], cwd=directory, stderr=stderr)
    context = zmq.Context()
    try:
        deadline = time.monotonic() + PATIENCE_S
        while "address=" not in log.read_text():
            assert time.monotonic() < deadline and locator.poll() is None, log.read_text()
            time.sleep(0.02)
        address = log.read_text().split("address=")[1].split()[0]
        prices = socket(context, keys, zmq.REQ, address, "prices")
        token, answer = ask(prices, LOCATOR_REGISTER, "Prices", "tcp://127.0.0.1:1")
        assert token == ACK, answer
        token, answer = ask(prices, LOCATOR_REGISTER, "EventManager", "tcp://127.0.0.1:2")
        assert token == NAK and answer.startswith("forbidden"), answer
        for name in (None, "stranger"):
            other = socket(context, keys, zmq.REQ, address, name)
            other.rcvtimeo = 700
            try:
                ask(other, LOCATOR_REGISTER, "Prices", "tcp://127.0.0.1:3")
                raise AssertionError(f"{name} is admitted")
            except zmq.Again:
                pass
    finally:
        context.destroy(linger=0)
        locator.terminate()
        assert locator.wait(PATIENCE_S) == 0


def main(binary):
    with tempfile.TemporaryDirectory() as directory:
        check_locator(binary, Path(directory))
    with tempfile.TemporaryDirectory() as directory:
        check_made_keys(binary, Path(directory))
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        keys = Keys(directory)
        for name in ("server", "client"):
            keys.make(name)
        keys.admit("client")
        daemon, at = start(binary, directory, keys)
        context = zmq.Context()
        try:
            check_events(context, keys, at)
            check_worker(context, keys, at)
            check_admission(context, keys, at)
        finally:
            context.destroy(linger=0)
            daemon.terminate()
            assert daemon.wait(PATIENCE_S) == 0
    print("libzmq's sockets with keys are served beside those without")


if __name__ == "__main__":
    main(sys.argv[1])

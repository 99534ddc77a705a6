"""Each type of libzmq's sockets that clients have, over tcp and ipc, with keys and without on one port; and how
often one comes back that is refused."""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import zmq

from curve import PATIENCE_S, Keys, socket, wait_until_heard
from messagebus import ACK, PARAM, SUBSCRIBE, UNSUBSCRIBE


def start(binary, directory, keys, pull_address):
    """A daemon at TCP ports and at sockets in the directory; its addresses, by transport."""
    both = lambda name: ["tcp://127.0.0.1:0", f"ipc://{directory}/{name}"]
    (directory / "config.json").write_text(json.dumps({
        "pubAddress": both("pub"), "subAddress": both("sub"), "requestAddress": both("request"),
        "pullAddress": pull_address, "minStreamerPort": 0, "maxStreamerPort": 0,
        "publicHostname": "127.0.0.1", "httpAddress": "off", "embeddedLocator": True,
        "locatorAddress": "tcp://127.0.0.1:0", "stateDir": "",
        "security": {"mechanisms": ["null", "curve"], "secretKey": str(keys.secret("server")),
                     "keysDir": str(keys.clients)},
    }))
    ready = directory / "ready"
    if ready.exists():
        ready.unlink()
    daemon = subprocess.Popen([binary, "serve", "--ready-file", ready], cwd=directory)
    deadline = time.monotonic() + PATIENCE_S
    while not (ready.exists() and ready.read_text().endswith("\n")):
        assert time.monotonic() < deadline and daemon.poll() is None, "the daemon does not start"
        time.sleep(0.02)
    bound = json.loads(ready.read_text())
    return daemon, [{name: bound[name][i] for name in ("publishers", "subscribers", "requests")} for i in range(2)]


def check_events(context, keys, at, name):
    """PUB and XPUB to SUB and XSUB."""
    make = lambda kind, address: socket(context, keys, kind, at[address], name)
    subscribers = [make(zmq.SUB, "subscribers"), make(zmq.XSUB, "subscribers")]
    subscribers[1].send(b"\x01Order")
    knowing = make(zmq.XPUB, "publishers")
    assert knowing.recv() == b"\x01"
    plain = make(zmq.PUB, "publishers")
    for publisher in (knowing, plain):
        wait_until_heard(publisher, subscribers)
        for size in (0, 255, 100_000):
            event = [b"Order", b"x" * size]
            publisher.send_multipart(event)
            for subscriber in subscribers:
                assert subscriber.recv_multipart() == event, size


def check_requests(context, keys, at, name):
    """REQ, DEALER and ROUTER ask; DEALER and REQ work."""
    fields = lambda *texts: "\0".join(texts).encode()
    for kind in (zmq.REQ, zmq.DEALER, zmq.ROUTER):
        before = {zmq.REQ: [], zmq.DEALER: [b""], zmq.ROUTER: [b"hub", b""]}[kind]
        options = {"connect_rid": b"hub"} if kind == zmq.ROUTER else {}
        if kind == zmq.ROUTER:
            # Until it is connected, there is nobody with this name.
            options["router_mandatory"] = 1
        asking = socket(context, keys, kind, at["requests"], name, **options)

        def ask(token, *texts):
            message = [*before, hex(token).encode(), str(PARAM).encode(), fields(*texts)]
            deadline = time.monotonic() + PATIENCE_S
            while True:
                try:
                    asking.send_multipart(message)
                    break
                except zmq.ZMQError as error:
                    assert error.errno == zmq.EHOSTUNREACH and time.monotonic() < deadline, error
                    time.sleep(0.01)
            answer = asking.recv_multipart()
            assert answer[:len(before)] == before, answer
            return int(answer[len(before)], 16), answer[-1].decode()

        token, answer = ask(SUBSCRIBE, "sub-1", "Billing", "Order")
        assert token == ACK, answer
        address = answer.split("\0")[2]
        for worker_kind in (zmq.DEALER, zmq.REQ):
            worker = socket(context, keys, worker_kind, address, name, identity=b"worker")
            worker.send(b"READY")
            publisher = socket(context, keys, zmq.XPUB, at["publishers"], name)
            assert publisher.recv() == b"\x01"
            publisher.send_multipart([b"Order", b"work"])
            assert worker.recv_multipart()[-1] == b"work"
            worker.close()
            publisher.close()
        token, answer = ask(UNSUBSCRIBE, "sub-1")
        assert token == ACK, answer


def refused(context, keys, at):
    asking = socket(context, keys, zmq.REQ, at["requests"])
    asking.send(b'{"token": "status"}')
    found = json.loads(asking.recv())
    status = found.get("data", found)
    return status["peers"]["refused"].get("unknown-key", 0)


def check_denied(context, keys, at):
    """A client with an unknown key tries again by itself, and costs little."""
    keys.make("stranger")
    seconds = 6
    # Old pyzmq knows sockets' types as numbers.
    for name, kind in (("SUB", zmq.SUB), ("DEALER", zmq.DEALER)):
        before = refused(context, keys, at)
        stranger = socket(context, keys, kind, at["subscribers" if kind == zmq.SUB else "requests"], "stranger")
        time.sleep(seconds)
        times = refused(context, keys, at) - before
        stranger.close()
        print(f"{name} with an unknown key: {times / seconds:.2f} handshakes a second")
        assert 2 <= times <= 1.2 * seconds + 1, times


def main(binary):
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        keys = Keys(directory)
        for name in ("server", "client"):
            keys.make(name)
        keys.admit("client")
        for pull_address in ("tcp://127.0.0.1", f"ipc://{directory}/service"):
            daemon, transports = start(binary, directory, keys, pull_address)
            context = zmq.Context()
            try:
                for at, name in itertools.product(transports, (None, "client")):
                    check_events(context, keys, at, name)
                    check_requests(context, keys, at, name)
                if pull_address.startswith("tcp"):
                    check_denied(context, keys, transports[0])
            finally:
                context.destroy(linger=0)
                daemon.terminate()
                assert daemon.wait(PATIENCE_S) == 0
    print("every type of socket is served over tcp and ipc, with keys and without")


if __name__ == "__main__":
    main(sys.argv[1])

"""A daemon and its clients: some do well, some stumble, hang, or never come."""

import json
import math
import os
import re
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import zmq

from messagebus import ACK, SUBSCRIBE, ask, connect

ROOT = Path(__file__).resolve().parents[2]
#: The daemon names variables of this kind that it does not know, so it is taken away.
PROGRAM = os.environ.pop("EVENT_MANAGER_BINARY", None) or ROOT / "target/debug/event-manager"
EVIL = "<img src=x onerror=alert(1)>"
PATIENCE_S = 40


def wait_for(what, wanted, patience=PATIENCE_S):
    """What `wanted` returns, once that is true."""
    deadline = time.monotonic() + patience
    while not (found := wanted()):
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.05)
    return found


class Daemon:
    """On ports of the system's choice; after a restart on the same."""

    def __init__(self, work):
        self._work = work
        self._http = "127.0.0.1:0"
        self.start()

    def start(self):
        config = self._work / "config.json"
        config.write_text(json.dumps({
            "pubAddress": "tcp://127.0.0.1:0", "subAddress": "tcp://127.0.0.1:0",
            "requestAddress": "tcp://127.0.0.1:0", "pullAddress": "tcp://*",
            "httpAddress": self._http, "locatorRegister": False,
            "stateDir": str(self._work / "state"), "minStreamerPort": 0, "maxStreamerPort": 0,
            "publicHostname": "127.0.0.1", "subscriptionTtl": 600, "heartbeatInterval": 1,
            "budgets": {"subscriberOutboxBytes": 262144, "workerOutboxBytes": 16384},
            "services": {
                "Archive": {"delivery": "queue", "subjects": ["Order"]},
                "Reports": {"queueEvents": 2000},
                "Labels": {"queueEvents": 5000},
                "Kitchen": {"retry": {"maxDeliveries": 2, "initialMs": 50, "maxMs": 50}},
            },
        }))
        self.log = self._work / "log"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [PROGRAM], stdout=log, stderr=log, env={**os.environ, "CONFIG_PATH": str(config)})
        ready = wait_for("a ready daemon", self._ready_line)
        address = {name: value for name, value in re.findall(r'(\w+)="([^"]*)"', ready)}
        self.publishers, self.subscribers = address["publishers"], address["subscribers"]
        self.requests, self._http = address["requests"], address["http"]

    def _ready_line(self):
        assert self._process.poll() is None, self.log.read_text()
        return next((line for line in self.log.read_text().splitlines() if " ready " in line), None)

    @property
    def url(self):
        return f"http://{self._http}/"

    def stats(self):
        with urllib.request.urlopen(self.url + "stats", timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def signal(self, number):
        self._process.send_signal(number)

    def kill(self):
        """Waits for the end of it, too."""
        self._process.kill()
        self._process.wait()

    def stop(self):
        self._process.terminate()
        return self._process.wait(PATIENCE_S)


class Load:
    """Publishers, workers and subscribers, until they are told to stop."""

    def __init__(self, daemon):
        self._daemon = daemon
        self._context = zmq.Context()
        self._requests = connect(self._context, zmq.REQ, daemon.requests)
        self._stop = threading.Event()
        self._threads = []
        self._idle = []

    def subscribe(self, service, *subjects):
        token, data = ask(self._requests, SUBSCRIBE, f"sub-{service}", service, *subjects)
        assert token == ACK, data
        return data.split("\0")[2]

    def _run(self, body, *arguments):
        thread = threading.Thread(target=body, args=arguments, daemon=True)
        thread.start()
        self._threads.append(thread)

    def begin(self, for_picture=False):
        """For a picture nobody is evil, and fewer stand idle."""
        evil = "Analytics" if for_picture else EVIL
        for service, workers, *subjects in [
            ("Billing", 3, "OrderCreated", "OrderPaid"), ("Stock", 2, "OrderCreated"),
            ("Mail", 1, "OrderPaid", "CustomerAdded"), ("Search", 2, ""), (evil, 1, "Order"),
        ]:
            address = self.subscribe(service, *subjects)
            for n in range(workers):
                name = {"Billing": f"till-{n}", evil: evil}.get(service)
                self._run(self._work, address, 0, name)
        self._run(self._stumble, self.subscribe("Kitchen", "OrderCreated"))
        reports, archive = self.subscribe("Reports", "OrderPaid"), self.subscribe("Archive", "Order")
        labels = self.subscribe("Labels", "OrderPaid")
        # It says that it is there, and takes nothing.
        self._hang(zmq.DEALER, labels, [b"READY"])
        if for_picture:
            self._run(self._work, labels)
            self._run(self._work, reports, .0009)
            self._run(self._work, archive, .0005)
            self._run(self._listen, .0004)
        else:
            self._hang(zmq.SUB, self._daemon.subscribers, None)
        self._run(self._listen)
        for subject, pause, bytes_ in [("OrderCreated", .001, 120), ("OrderPaid", .0012, 900),
                                       ("CustomerAdded", .01, 200), ("Heartbeat", .05, 50)]:
            self._run(self._publish, subject, pause, bytes_)

    def _publish(self, subject, pause, size):
        socket = connect(self._context, zmq.XPUB, self._daemon.publishers)
        socket.recv()
        n = 0
        while not self._stop.is_set():
            for _ in range(5):
                socket.send_multipart([subject.encode(), str(n).encode().ljust(size)])
                n += 1
            # In waves, so that the lines are no straight ones.
            self._stop.wait(5 * pause * (1.3 + math.sin(time.monotonic() / 15 + size)))
        socket.close()

    def _work(self, address, pause=0, name=None):
        socket = connect(self._context, zmq.DEALER, address)
        socket.send(b"READY " + json.dumps({"name": name, "client": "python/3"}).encode())
        while not self._stop.is_set():
            if socket.poll(50):
                socket.recv_multipart()
                socket.send(b"READY")
                self._stop.wait(pause)
        # What is on its way still is taken, lest it counts as under way for ever.
        while socket.poll(1000):
            socket.recv_multipart()
        self._idle.append(socket)

    def _stumble(self, address):
        socket = connect(self._context, zmq.DEALER, address)
        socket.send(b'READY {"ack": true, "credit": 16, "name": "cook"}')
        while not self._stop.is_set() or socket.poll(500):
            if socket.poll(50):
                head, _subject, body = socket.recv_multipart()
                _event, delivery, _attempt = head.split()
                number = int(body)
                word = b"TERM %s no such table" if number % 997 == 5 else b"NAK %s 50 busy" if number % 499 == 7 else b"ACK %s"
                socket.send(word % delivery)
        self._idle.append(socket)

    def _listen(self, pause=0):
        socket = connect(self._context, zmq.SUB, self._daemon.subscribers)
        socket.subscribe(b"Order")
        while not self._stop.is_set() or socket.poll(500):
            if socket.poll(50):
                socket.recv_multipart()
                self._stop.wait(pause)
        self._idle.append(socket)

    def _hang(self, kind, address, hello):
        socket = self._context.socket(kind)
        socket.linger, socket.rcvhwm, socket.rcvbuf = 0, 1, 4096
        if hello is None:
            socket.subscribe(b"Order")
        socket.connect(address)
        if hello:
            socket.send_multipart(hello)
        self._idle.append(socket)

    def stop(self):
        """Ends what moves; who is connected stays so."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def close(self):
        self.stop()
        self._context.destroy(linger=0)

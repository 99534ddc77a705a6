"""Usage: restart.py PROGRAM

Restarts a daemon under a publisher of 200 events a second and five plain subscribers, and counts
what each of them misses.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import zmq

PATIENCE_S = 20
# What the daemon had read and not written when it was killed; without waiting for subscribers it is
# dozens, and hundreds after three seconds.
LOST_MAX = 5


class Subscriber(threading.Thread):
    def __init__(self, context, address, prefix):
        super().__init__()
        self.socket = context.socket(zmq.SUB)
        self.socket.setsockopt(zmq.SUBSCRIBE, prefix)
        self.socket.setsockopt(zmq.RCVTIMEO, 50)
        self.socket.connect(address)
        self.heard = []
        self.ends = False

    def run(self):
        while not self.ends:
            try:
                self.heard.append(int(self.socket.recv_multipart()[1]))
            except zmq.Again:
                pass
        self.socket.close(linger=0)

    def lost(self):
        return sum(after - before - 1 for before, after in zip(self.heard, self.heard[1:]))


class Publisher(threading.Thread):
    def __init__(self, context, address):
        super().__init__()
        self.socket = context.socket(zmq.PUB)
        self.socket.connect(address)
        self.sent = 0
        self.ends = False

    def run(self):
        while not self.ends:
            self.sent += 1
            self.socket.send_multipart([b"Order", b"%d" % self.sent])
            time.sleep(0.005)
        self.socket.close(linger=0)


def wait_for_all(publisher, subscribers):
    """Until each has heard something that was sent after this call."""
    sent, deadline = publisher.sent, time.monotonic() + PATIENCE_S
    while any(not one.heard or one.heard[-1] <= sent for one in subscribers):
        if time.monotonic() > deadline:
            sys.exit("a subscriber hears nothing")
        time.sleep(0.01)


def free_address():
    # Nobody else takes ports of this address.
    host = "127.%d.%d.9" % (64 + os.getpid() % 64, os.getpid() // 64 % 250)
    with socket.socket() as taken:
        taken.bind((host, 0))
        return "tcp://%s:%d" % taken.getsockname()


def main(program):
    program = os.path.abspath(program)
    addresses = {key: free_address() for key in ["pubAddress", "subAddress", "requestAddress"]}
    keys = {"httpAddress": "off", "locatorRegister": False, "minStreamerPort": 0,
            "maxStreamerPort": 0, "stateDir": "state"}
    with tempfile.TemporaryDirectory() as work, open(os.path.join(work, "log"), "w") as log:
        with open(os.path.join(work, "config.json"), "w") as file:
            json.dump({**addresses, **keys}, file)

        def start():
            return subprocess.Popen([program], cwd=work, stderr=log)

        daemon, context = start(), zmq.Context()
        subscribers = [Subscriber(context, addresses["subAddress"], prefix)
                       for prefix in [b"", b"Order", b"Order", b"O", b""]]
        publisher = Publisher(context, addresses["pubAddress"])
        threads = [publisher, *subscribers]
        failed = False
        try:
            for thread in threads:
                thread.start()
            before = 0
            for end, away_s in [(signal.SIGKILL, 0), (signal.SIGTERM, 0), (signal.SIGKILL, 3)]:
                wait_for_all(publisher, subscribers)
                # So that the state database knows them all.
                time.sleep(1)
                daemon.send_signal(end)
                daemon.wait()
                time.sleep(away_s)
                daemon = start()
                wait_for_all(publisher, subscribers)
                lost = max(one.lost() for one in subscribers)
                print(f"{end.name}, {away_s} s away: at most {lost - before} events lost")
                failed |= lost - before > LOST_MAX
                before = lost
        finally:
            for thread in threads:
                thread.ends = True
            for thread in threads:
                thread.join()
            daemon.terminate()
            daemon.wait()
            context.destroy(linger=0)
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))

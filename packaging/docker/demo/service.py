"""A service with one worker, which prints each event that it gets.

    service.py REQUEST_ADDRESS SERVICE SUBJECT...
"""

import signal
import sys
import time

import zmq

KEEP_ALIVE_S = 15


class Requests:
    """A client of the request socket. A REQ that got no answer can't ask again: it is made anew."""

    def __init__(self, context, address):
        self._context, self._address, self._socket = context, address, None

    def ask(self, token, *fields):
        """The answer's token and data, or nothing in 5 s."""
        if self._socket is None:
            self._socket = self._context.socket(zmq.REQ)
            self._socket.linger = 0
            self._socket.connect(self._address)
        self._socket.send_multipart([token, b"PARAM", "\0".join(fields).encode()])
        if not self._socket.poll(5000):
            self._socket.close()
            self._socket = None
            return None
        answer, _data_type, data = self._socket.recv_multipart()
        return answer.decode(), data.decode()


def subscribe(context, requests, service, subjects):
    """A worker of the service, and the subscription's id; asks until somebody answers."""
    while True:
        answer = requests.ask(b"TK_EVENT_MANAGER_SUBSCRIBE", "", service, *subjects)
        if answer is None:
            print("nobody answers; asking again")
            continue
        token, data = answer
        if token != "TK_SYS_ACK":
            sys.exit(data)
        sub_id, _pub_address, pull_address = data.split("\0")
        worker = context.socket(zmq.DEALER)
        worker.linger = 0
        worker.connect(pull_address)
        worker.send(b"READY")
        print(f"{service} is subscribed as {sub_id} and receives at {pull_address}")
        return sub_id, worker


def main(address, service, *subjects):
    # Else the first process of a container doesn't hear it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    context = zmq.Context()
    requests = Requests(context, address)
    sub_id, worker = subscribe(context, requests, service, subjects)
    refresh_at = time.monotonic() + KEEP_ALIVE_S
    while True:
        if worker.poll(1000):
            print(*(frame.decode(errors="replace") for frame in worker.recv_multipart()), sep="\t")
        if time.monotonic() < refresh_at:
            continue
        answer = requests.ask(b"TK_EVENT_MANAGER_KEEP_ALIVE", sub_id)
        if answer and answer[1].startswith("unknown-subscription"):
            worker.close()
            sub_id, worker = subscribe(context, requests, service, subjects)
        refresh_at = time.monotonic() + KEEP_ALIVE_S


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])

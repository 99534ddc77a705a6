"""A MessageBus client of a few lines, as sites have written it: plain pyzmq, nothing of ours."""

import threading

import zmq

SUBSCRIBE = 0x00200001
UNSUBSCRIBE = 0x00200002
PUBLISH = 0x00200003
KEEP_ALIVE = 0x00200004
LOCATOR_REGISTER = 0x00300001
ACK = 0xF0100001
NAK = 0xF0100002
EVENT = 0xF0400001

PARAM = 2
STRING = 6

PATIENCE_MS = 10_000


def connect(context, kind, address):
    """A socket that waits with patience and never lingers."""
    socket = context.socket(kind)
    socket.linger = 0
    socket.rcvtimeo = socket.sndtimeo = PATIENCE_MS
    socket.connect(address)
    return socket


def ask(socket, token, *fields):
    """Sends token, type and data; returns the answer's token and data."""
    data = "\0".join(fields).encode()
    socket.send_multipart([hex(token).encode(), str(PARAM).encode(), data])
    token, _data_type, data = socket.recv_multipart()
    return int(token, 16), data.decode()


class Service(threading.Thread):
    """A service with a REP socket of its own, which answers each sync event alike."""

    def __init__(self, context, answer, data):
        super().__init__(daemon=True)
        self.calls = []
        self._answer = [str(answer).encode(), str(STRING).encode(), data.encode()]
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.address = f"tcp://127.0.0.1:{port}"
        self._stop_read, self._stop_write = (context.socket(zmq.PAIR) for _ in range(2))
        self._stop_read.bind(f"inproc://stop-{port}")
        self._stop_write.connect(f"inproc://stop-{port}")
        self.start()

    def run(self):
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._stop_read, zmq.POLLIN)
        while self._stop_read not in dict(poller.poll()):
            token, _data_type, data, *_timeout = self._socket.recv_multipart()
            self.calls.append((int(token), data.split(b"\0")))
            self._socket.send_multipart(self._answer)
        self._socket.close()
        self._stop_read.close()

    def stop(self):
        self._stop_write.send(b"")
        self.join()
        self._stop_write.close()

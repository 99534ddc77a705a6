"""A daemon's machine that can be cut off without a word: nobody gets a FIN or an RST, bytes just go nowhere."""

import selectors
import socket
import threading


class Wire:
    """Stands at 127.0.0.2, at the ports that the daemon has at 127.0.0.1, and hands on what comes.

    Daemons that call themselves local are looked for where the hub's address is: so clients of `address` use it for all.
    """

    HOST = "127.0.0.2"

    def __init__(self, daemon):
        self.daemon = daemon
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._listening = set()
        self._pairs = []
        self._silent = set()
        self._over = False
        port = daemon.address.rpartition(":")[2]
        self.address = f"tcp://{self.HOST}:{port}"
        for each in (daemon.address, daemon.publishers, daemon.subscribers):
            self._listen(int(each.rpartition(":")[2]))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _listen(self, port):
        if port not in self._listening:
            self._listening.add(port)
            server = socket.create_server((self.HOST, port))
            server.setblocking(False)
            self._selector.register(server, selectors.EVENT_READ, port)

    def cut(self):
        """All connections of now are silent from now on; new ones work."""
        with self._lock:
            self._silent.update(each for pair in self._pairs for each in pair)

    def _run(self):
        while not self._over:
            # Services' ports are known when they are there.
            for service in self.daemon.status()["services"]:
                if service["port"]:
                    self._listen(service["port"])
            for key, _ in self._selector.select(0.02):
                if isinstance(key.data, int):
                    self._accept(key.fileobj, key.data)
                else:
                    self._hand_on(key.fileobj, key.data)

    def _accept(self, server, port):
        here, _ = server.accept()
        try:
            there = socket.create_connection(("127.0.0.1", port))
        except OSError:
            here.close()
            return
        with self._lock:
            self._pairs.append((here, there))
        self._selector.register(here, selectors.EVENT_READ, there)
        self._selector.register(there, selectors.EVENT_READ, here)

    def _hand_on(self, source, target):
        if source.fileno() < 0:  # Just now, with the other side.
            return
        try:
            data = source.recv(1 << 16)
        except OSError:
            data = b""
        with self._lock:
            silent = source in self._silent
        if silent:
            if not data:
                self._selector.unregister(source)  # Nor does the other side hear of the end.
            return
        try:
            if data:
                target.sendall(data)
                return
        except OSError:
            pass
        for each in (source, target):
            if each in self._selector.get_map():
                self._selector.unregister(each)
            each.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._over = True
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        for pair in self._pairs:
            for each in pair:
                each.close()
        self._selector.close()

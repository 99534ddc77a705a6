"""A real daemon for tests, on free ports, with an environment of its own.

    with TestHub() as daemon:
        with event_manager.connect(daemon.address) as hub: ...

With pytest there are fixtures `hub` (a daemon for each test) and `hub_session` (one for all).
"""

from __future__ import annotations

import collections
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Deque, Dict, List, Mapping, Optional

from ._ask import ask
from .errors import BinaryNotFound, DaemonFailed, EventManagerError, InvalidArgument

if TYPE_CHECKING:
    from .curve import Curve

#: Names the daemon's binary.
BINARY_VARIABLE = "EVENT_MANAGER_BINARY"
_NAME = "event-manager"
_ANY_PORT = "tcp://127.0.0.1:0"


def find_binary(binary: "str | os.PathLike[str] | None" = None) -> str:
    """The daemon's binary: the argument, else EVENT_MANAGER_BINARY, else where pip installs scripts,
    else PATH. BinaryNotFound if there is none."""
    named = os.fspath(binary) if binary else os.environ.get(BINARY_VARIABLE)
    if named:
        found = shutil.which(named)
        if found:
            return os.path.abspath(found)
        raise BinaryNotFound(f"{named} is no program that can be run")
    for directory in (sysconfig.get_path("scripts"), None):
        found = shutil.which(_NAME, path=directory)
        if found:
            return os.path.abspath(found)
    try:
        # It knows more places: `pip install --user`, `--target`.
        from event_manager_server import find_event_manager_bin  # type: ignore[import-not-found,unused-ignore]

        return str(find_event_manager_bin())
    except (ImportError, FileNotFoundError):
        pass
    raise BinaryNotFound(
        f"there is no {_NAME} beside Python or in PATH; pip install 'event-manager[server]', or let {BINARY_VARIABLE} name it"
    )


class TestHub:
    """A daemon that runs until `close`, or the end of the `with` block.

    `durable=True` gives it a temporary directory for its state, so services may have
    `delivery="queue"`. `curve=True` lets it admit only clients with keys, such as `curve`, which is for
    `event_manager.connect(curve=...)`. `config` has further keys of its configuration. `timeout` is how many
    seconds it may take to become ready, idle, or to end. It starts at once.
    """

    __test__ = False  # for pytest: it is no test

    #: Where it answers requests: what `event_manager.connect` wants.
    address: str
    #: Where it takes events of PUB sockets, and where SUB sockets get them.
    publishers: str
    subscribers: str
    #: Its ServiceLocator.
    locator: str
    #: The keys of a client that it admits; None if it was not started with `curve=True`.
    curve: "Optional[Curve]" = None

    def __init__(
        self,
        *,
        binary: "str | os.PathLike[str] | None" = None,
        durable: bool = False,
        curve: bool = False,
        config: Optional[Mapping[str, Any]] = None,
        timeout: float = 30.0,
    ) -> None:
        self._binary = find_binary(binary)
        self._timeout = timeout
        self._directory = Path(tempfile.mkdtemp(prefix="event-manager-test-"))
        self._settings: Dict[str, Any] = {
            "pubAddress": _ANY_PORT,
            "subAddress": _ANY_PORT,
            "requestAddress": _ANY_PORT,
            "locatorAddress": _ANY_PORT,
            "pullAddress": "tcp://127.0.0.1",
            "minStreamerPort": 0,
            "maxStreamerPort": 0,
            "publicHostname": "127.0.0.1",
            "httpAddress": "off",
            "embeddedLocator": True,
            "locatorRegister": False,
            "drainTimeout": 2,
            "subscriberGrace": 0,
            "stateDir": str(self._directory / "state") if durable else "",
            "log": {"format": "json"},
            **(config or {}),
        }
        if curve:
            self._settings["security"] = {**self._make_keys(), **self._settings.get("security", {})}
            self.curve = self.admit("test")
        self._ports = self._hold_ports()
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._log: Deque[str] = collections.deque(maxlen=1000)
        self._finalizer = weakref.finalize(self, _clean_up, self._directory, [], self._ports)
        self.start()

    def _hold_ports(self) -> "List[socket.socket]":
        """Chooses its ports. They stay bound here, so that nobody else gets them while it is down.

        The daemon can bind them too, because it also sets SO_REUSEADDR, and nobody listens here. That is so on Linux.
        """
        held: List[socket.socket] = []
        for key in ("pubAddress", "subAddress", "requestAddress", "locatorAddress"):
            if self._settings[key] == _ANY_PORT and sys.platform == "linux":
                port = socket.socket()
                held.append(port)
                port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                port.bind(("127.0.0.1", 0))
                self._settings[key] = f"tcp://127.0.0.1:{port.getsockname()[1]}"
        return held

    def _make_keys(self) -> Dict[str, Any]:
        """Its own keys, and a directory for those of its clients."""
        from .curve import write_certificate

        self._clients = self._directory / "keys"
        self._clients.mkdir()
        secret, self._server_key = write_certificate(self._directory, "server")
        return {"mechanisms": ["curve"], "secretKey": str(secret), "keysDir": str(self._clients)}

    def admit(self, name: str) -> "Curve":
        """Keys for a client with this name, which it admits within a second or two: new ones, or those it had before `dismiss`."""
        from .curve import Curve, write_certificate

        if "security" not in self._settings:
            raise InvalidArgument("a TestHub admits keys if it is started with curve=True; nothing was done")
        secret = self._directory / f"{name}.key_secret"
        if not secret.exists():
            write_certificate(self._directory, name)
        shutil.copy(secret.with_suffix(".key"), self._clients)
        return Curve.load(secret, self._server_key)

    def dismiss(self, name: str) -> None:
        """Takes the keys of a client out of force: within a second, it is disconnected."""
        (self._clients / f"{name}.key").unlink()

    def start(self) -> None:
        """Starts it, if it doesn't run, and waits until it is ready."""
        if self.running:
            return
        config = self._directory / "config.json"
        config.write_text(json.dumps(self._settings))
        process = subprocess.Popen(
            [self._binary, "serve", "--config", str(config)],
            cwd=self._directory,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._process = process
        self._finalizer.detach()
        self._finalizer = weakref.finalize(self, _clean_up, self._directory, [process], self._ports)
        ready: List[Dict[str, Any]] = []
        told = threading.Event()
        assert process.stderr is not None
        reader = threading.Thread(
            target=_read_log, args=(process.stderr, self._log, ready, told), name="event-manager-log", daemon=True
        )
        reader.start()
        if not told.wait(self._timeout) or not ready:
            process.kill()
            process.wait()
            reader.join(self._timeout)
            raise DaemonFailed(f"{self._binary} did not become ready; its log ends with:\n" + "\n".join(self.log[-20:]))
        bound = ready[0]
        # Of several addresses, the first.
        self.address, self.publishers, self.subscribers, self.locator = (
            bound[name].split(",")[0] for name in ("requests", "publishers", "subscribers", "locator")
        )
        # It keeps its ports over a restart.
        self._settings.update(
            requestAddress=bound["requests"],
            pubAddress=bound["publishers"],
            subAddress=bound["subscribers"],
            locatorAddress=bound["locator"],
        )

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The number of its process, or of the last one."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> List[str]:
        """The last lines of its log, at most 1000, as JSON."""
        return list(self._log)

    def kill(self) -> None:
        """Ends it as a crash does (SIGKILL)."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it in order (SIGTERM): it delivers what it can."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Starts it again at the same addresses, with the same state; stops it before if it runs."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Ends it and deletes its directory."""
        self._finalizer()

    def status(self) -> Dict[str, Any]:
        """What it answers to STATUS (docs/status.md)."""
        answer: Dict[str, Any] = ask(self.address, {"token": "status"}, self._timeout, self.curve)
        return answer

    def wait_idle(self, timeout: Optional[float] = None) -> None:
        """Waits until no event is queued for a service, or under way to its workers.

        Events that are not flushed are not known to it. DaemonFailed after `timeout` seconds.
        """
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        pause = 0.002
        while True:
            busy = {each["name"]: _work(each) for each in self.status()["services"] if any(_work(each).values())}
            if not busy:
                return
            if time.monotonic() > deadline:
                raise DaemonFailed(f"the daemon does not become idle: {busy}")
            time.sleep(pause)
            pause = min(pause * 2, 0.05)

    def _end(self, number: int) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(self._timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise DaemonFailed(f"the daemon did not end within {self._timeout} s, so it was killed") from None

    def __enter__(self) -> "TestHub":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _work(service: Dict[str, Any]) -> Dict[str, int]:
    """What a service still has to do. Just after a start, the events on disk aren't counted yet."""
    counters, durable = service["counters"], service["durable"] or {}
    return {
        "queued": counters["queued"],
        "inFlight": counters["inFlight"],
        "pending": durable.get("pendingEvents", 0),
        "opening": int(durable.get("state", "ok") == "opening"),
    }


def _read_log(pipe: IO[bytes], log: Deque[str], ready: List[Dict[str, Any]], told: threading.Event) -> None:
    with pipe:
        for raw in pipe:
            line = raw.decode("utf-8", "replace").rstrip("\n")
            log.append(line)
            if not told.is_set() and '"EM-0001"' in line:
                ready.append(json.loads(line))
                told.set()
    told.set()


def _clean_up(directory: Path, processes: List["subprocess.Popen[bytes]"], ports: "List[socket.socket]") -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()
    for port in ports:
        port.close()
    shutil.rmtree(directory, ignore_errors=True)


__all__ = ["BINARY_VARIABLE", "BinaryNotFound", "DaemonFailed", "EventManagerError", "TestHub", "find_binary"]

"""The daemon for tests."""

import os
import socket
import time

import pytest

from event_manager import _address
from event_manager._ask import ask
from event_manager.errors import BinaryNotFound, DaemonFailed, InvalidArgument, Nak, NoAnswer
from event_manager.testing import TestHub, find_binary

SUBSCRIBE = {"token": "subscribe", "id": "s", "service": "S", "subjects": ["exact:a"]}
EMIT = {"token": "emit", "subject": "a", "payload": "x"}


def test_it_runs_and_restarts_at_the_same_addresses_with_its_state(hub):
    assert hub.running
    before = (hub.address, hub.publishers, hub.subscribers, hub.locator)
    ask(hub.address, {**SUBSCRIBE, "delivery": "queue"}, 20)
    ask(hub.address, {**EMIT, "level": "disk"}, 20)
    first = hub.pid
    hub.kill()
    assert not hub.running
    hub.restart()
    assert hub.pid != first
    assert (hub.address, hub.publishers, hub.subscribers, hub.locator) == before
    # Just after its start it may not have counted them yet: that isn't idle, either.
    with pytest.raises(DaemonFailed, match="S.*(queued.: 1|opening.: 1)"):
        hub.wait_idle(0.1)
    while hub.status()["services"][0]["durable"]["state"] == "opening":
        time.sleep(0.005)
    [service] = hub.status()["services"]
    assert (service["name"], service["counters"]["queued"]) == ("S", 1)


def test_nobody_else_gets_its_ports_while_it_is_down():
    with TestHub() as daemon:
        addresses = [daemon.address, daemon.publishers, daemon.subscribers, daemon.locator]
        daemon.kill()
        for address in addresses:
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", int(address.rpartition(":")[2])))
        daemon.start()
        assert [daemon.address, daemon.publishers, daemon.subscribers, daemon.locator] == addresses
    for address in addresses:
        with socket.socket() as other:
            other.bind(("127.0.0.1", int(address.rpartition(":")[2])))


def test_it_is_idle_without_events(hub):
    hub.wait_idle()


def test_its_environment_is_its_own(monkeypatch):
    monkeypatch.setenv("EVENT_MANAGER_PUB_ADRESS", "misspelt, which ends a daemon that sees it")
    with TestHub() as daemon:
        assert daemon.status()["stateDir"] == ""
        directory = daemon._directory
    assert not daemon.running
    assert not directory.exists()


def test_a_configuration_that_it_refuses_is_shown():
    with pytest.raises(DaemonFailed, match="noSuchKey"):
        TestHub(config={"noSuchKey": 1})


def test_a_missing_binary_is_named(monkeypatch, tmp_path):
    with pytest.raises(BinaryNotFound, match="/no/such/binary"):
        find_binary("/no/such/binary")
    monkeypatch.delenv("EVENT_MANAGER_BINARY", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(BinaryNotFound, match="EVENT_MANAGER_BINARY"):
        find_binary()
    program = tmp_path / "event-manager"
    program.write_text("#!/bin/sh\n")
    os.chmod(program, 0o755)
    assert find_binary() == str(program)


def test_refusals_and_silence_are_typed(hub):
    with pytest.raises(Nak, match="unknown-service") as nak:
        ask(hub.address, {"token": "end", "service": "nobody"}, 20)
    assert nak.value.code == "unknown-service"
    hub.kill()
    with pytest.raises(NoAnswer, match="refused") as silence:
        ask(hub.address, {"token": "status"}, 20)
    assert silence.value.may_be_taken


@pytest.mark.parametrize("text", ["localhost:5101", "tcp://localhost", "tcp://:5", "tcp://a:0", "tcp://a:99999", "ipc://", "tcp://a:٣"])
def test_what_is_no_address(text):
    with pytest.raises(InvalidArgument, match="tcp://HOST:PORT"):
        _address.parse(text)


def test_addresses():
    far = _address.parse("tcp://far.example:5101")
    assert str(_address.parse("tcp://localhost:5000").reached_by(far)) == "tcp://far.example:5000"
    assert str(_address.parse("tcp://other:5000").reached_by(far)) == "tcp://other:5000"
    assert str(_address.parse("tcp://[::1]:5000")) == "tcp://[::1]:5000"
    assert str(_address.parse("ipc://@name")) == "ipc://@name"
    assert _address.parse("ipc://@name").sockets()[0][1] == "\0name"

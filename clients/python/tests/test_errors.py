"""Whatever goes wrong is an error with one base class, which says what may have been taken and what to do."""

import inspect
import socket
import threading

import pytest
from support import PATIENCE

import event_manager as em
from event_manager import _typed, errors
from event_manager._ask import ask
from event_manager.testing import TestHub


@pytest.mark.parametrize("address", ["localhost:5101", "tcp://", "tcp://:1", "tcp://a:0", "tcp://a:70000", "http://a:1", "ipc://", "tcp://a:b"])
def test_an_address_that_is_none_is_refused_at_once(address):
    with pytest.raises(em.InvalidArgument, match="tcp://HOST:PORT"):
        em.connect(address)


def answer_as_web(server):
    try:
        while True:
            stream, _ = server.accept()
            with stream:
                stream.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                stream.recv(1000)
    except OSError:
        pass  # It is closed.


def wrong_addresses(daemon):
    silent = socket.create_server(("127.0.0.1", 0))
    web = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=answer_as_web, args=(web,), daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as gone:
        nobody = gone.getsockname()[1]
    yield f"tcp://127.0.0.1:{nobody}", "REFUSED"
    yield daemon.publishers, "a DEALER can't talk to it|closed the connection|refuses"
    yield daemon.subscribers, "a DEALER can't talk to it|closed the connection|refuses"
    yield f"tcp://127.0.0.1:{web.getsockname()[1]}", "speaks no ZeroMQ|closed the connection"
    yield f"tcp://127.0.0.1:{silent.getsockname()[1]}", "no connection yet"
    yield "tcp://no.such.host.invalid:5101", "no.such.host.invalid"
    yield "ipc:///no/such/socket", "ENOENT|No such file"
    silent.close()
    web.close()


def test_a_wrong_address_is_told_by_each_method(hub):
    for address, why in wrong_addresses(hub):
        with em.connect(address, timeout=1.0) as wrong:
            for method in (wrong.status, lambda: wrong.emit("a", b"", timeout=0.3), lambda: wrong.subscribe("a", timeout=0.3)):
                with pytest.raises(em.NoAnswer, match=why) as error:
                    method()
                assert not error.value.may_be_taken
                assert "check that a daemon runs and answers requests" in str(error.value)
            service = em.Service("Billing")
            service.on("a")(lambda body: None)
            with pytest.raises(em.NoAnswer, match="check that a daemon"):
                service.start(wrong, 0.2)


def test_naks_say_what_to_do(connected):
    service = em.Service("Billing", delivery="queue")
    service.on("a")(lambda body: None)
    with TestHub() as stateless, em.connect(stateless.address, timeout=PATIENCE) as hub:
        with pytest.raises(em.Nak, match="nothing was done; give the daemon a stateDir") as nak:
            service.start(hub)
    assert (nak.value.code, nak.value.may_be_taken) == ("no-store", False)
    with pytest.raises(em.InvalidArgument, match="nothing was sent"):
        connected.emit("a" * 2000)
    assert errors.Nak("store-failed", "the disk is full", "emit").may_be_taken


def test_a_daemon_too_old_for_a_request_or_an_option(hub):
    for fields, what in (({"token": "2.0fff"}, "2.0fff"), ({"token": "status", "newer": 1}, "newer of status")):
        with pytest.raises(em.TooOld, match=f"does not know {what}.*nothing was done; use a newer daemon") as old:
            ask(hub.address, fields, PATIENCE)
        assert isinstance(old.value, em.Nak) and not old.value.may_be_taken


def test_a_closed_hub(hub):
    closed = em.connect(hub.address)
    events = closed.subscribe("a")
    closed.close()
    service = em.Service("Billing")
    service.on("a")(lambda body: None)
    for method in (
        closed.status, closed.flush, events.next, lambda: closed.publish("a"), lambda: closed.emit("a"), lambda: closed.call("a"),
        lambda: closed.subscribe("a"), lambda: service.start(closed),
    ):
        with pytest.raises(em.Closed, match="connect again") as error:
            method()
        assert not error.value.may_be_taken
    closed.close()


def test_all_errors_have_one_base_and_say_whether_something_was_taken():
    made = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, Exception)]
    assert len(made) > 12
    for each in made:
        assert issubclass(each, em.EventManagerError) and each.__doc__
        assert isinstance(each.may_be_taken, bool)


def test_an_undecodable_body():
    with pytest.raises(em.DecodeError, match="not JSON") as error:
        _typed.decoder(dict)(b"{")
    assert error.value.may_be_taken

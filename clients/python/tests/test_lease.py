"""Leases: one at a time, tokens that grow, and whoever loses one is told."""

import asyncio
import os
import signal
import threading
import time

import pytest
from support import PATIENCE

import event_manager as em
from event_manager import aio
from event_manager.testing import TestHub


@pytest.fixture
def other(hub):
    with em.connect(hub.address, timeout=PATIENCE) as made:
        yield made


def test_one_holds_it_at_a_time_and_tokens_grow(connected, other):
    with connected.lease("job", ttl=5) as first:
        assert first.held and first.token > 0 and 0 < first.left <= 5
        second = other.lease("job", ttl=5)
        assert not second.acquire(wait=0) and not second.held and second.token == 0
        told = other.request({"token": "lease", "op": "get", "name": "job"})
        assert (told["holder"], told["token"]) == (first.holder, first.token)
        before = first.token
    # Released, so that the other needn't wait for its time.
    begun = time.monotonic()
    with second:
        assert second.token > before
    assert time.monotonic() - begun < 4
    with pytest.raises(em.LeaseLost):
        first.check()


def test_it_is_renewed_while_it_is_held(connected, other):
    with connected.lease("job", ttl=0.3) as first:
        token = first.token
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            assert not other.lease("job", ttl=0.3).acquire(wait=0)
            time.sleep(0.05)
        assert first.check() == token


def test_who_waits_gets_it_or_is_told_that_time_is_over(connected, other):
    with connected.lease("job", ttl=5):
        with pytest.raises(em.NoAnswer):
            with other.lease("job", ttl=5, wait=0.2):
                pass


def test_who_loses_it_is_told_before_another_has_it(hub, connected):
    told = threading.Event()
    lease = connected.lease("job", ttl=0.5, on_lost=told.set)
    assert lease.acquire()
    os.kill(hub.pid, signal.SIGSTOP)
    try:
        assert told.wait(PATIENCE)
        assert not lease.held and lease.lost.is_set() and lease.token == 0
    finally:
        os.kill(hub.pid, signal.SIGCONT)
    with em.connect(hub.address, timeout=PATIENCE) as other, other.lease("job", ttl=0.5) as second:
        assert second.held
    with pytest.raises(em.LeaseLost):
        with connected.lease("job", ttl=0.5) as lease:
            os.kill(hub.pid, signal.SIGSTOP)
            try:
                assert lease.lost.wait(PATIENCE)
            finally:
                os.kill(hub.pid, signal.SIGCONT)


def test_a_restart_of_the_daemon_is_survived_and_no_token_is_given_again(hub, connected):
    lease = connected.lease("job", ttl=10)
    assert lease.acquire()
    token = lease.token
    hub.kill()
    hub.start()
    with em.connect(hub.address, timeout=PATIENCE) as other:
        assert not other.lease("job", ttl=10).acquire(wait=0), "it is held for its whole time again"
        assert lease.check() == token
        lease.release()
        with other.lease("job", ttl=10, wait=PATIENCE) as second:
            assert second.token > token


def test_a_child_process_does_not_hold_its_parents_lease(connected):
    with connected.lease("job", ttl=5) as lease:
        child = os.fork()
        if child == 0:
            os._exit(1 if lease.held or lease.token else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert lease.held


def test_without_a_state_directory_there_are_no_leases():
    with TestHub(config={"stateDir": ""}) as hub, em.connect(hub.address, timeout=PATIENCE) as connected:
        with pytest.raises(em.Nak) as refused:
            connected.lease("job").acquire()
    assert refused.value.code == "no-state"


@pytest.mark.parametrize("wrong", [{"ttl": 0.01}, {"ttl": 4000}, {"holder": ""}, {"holder": "x" * 256}])
def test_wrong_arguments_are_refused_before_anything_is_sent(connected, wrong):
    with pytest.raises(em.InvalidArgument):
        connected.lease("job", **wrong)


def test_the_same_for_asyncio(hub):
    async def run():
        async with aio.connect(hub.address, timeout=PATIENCE) as one, aio.connect(hub.address, timeout=PATIENCE) as other:
            async with one.lease("job", ttl=5) as first:
                assert first.held and not await other.lease("job", ttl=5).acquire(wait=0)
                token = first.check()
            async with other.lease("job", ttl=5, wait=PATIENCE) as second:
                assert second.token > token
            with pytest.raises(em.NoAnswer):
                async with other.lease("job", ttl=5), one.lease("job", ttl=5, wait=0.1):
                    pass
            # What it protects is cancelled when it is lost.
            begun = asyncio.Event()
            with pytest.raises(em.LeaseLost):
                async with one.lease("job", ttl=0.5, cancel=True) as lease:
                    os.kill(hub.pid, signal.SIGSTOP)
                    try:
                        begun.set()
                        await asyncio.sleep(PATIENCE)
                    finally:
                        os.kill(hub.pid, signal.SIGCONT)
            assert begun.is_set() and lease.lost.is_set() and not lease.held

    asyncio.run(run())

"""APScheduler's event broker on the real daemon."""

import asyncio
import contextlib
import functools
import json
import logging
import subprocess
import sys
from datetime import datetime, timezone

import pytest

import event_manager as em

try:
    from apscheduler import AsyncScheduler, ScheduleAdded, TaskAdded
    from apscheduler.triggers.date import DateTrigger

    from event_manager.compat.apscheduler import EventManagerBroker, ZMQEventBroker
except ImportError:
    pytest.skip("APScheduler 4 isn't installed", allow_module_level=True)

PATIENCE = 60.0
log = logging.getLogger("test")


def in_loop(test):
    @functools.wraps(test)
    def run(*arguments, **named):
        asyncio.run(asyncio.wait_for(test(*arguments, **named), PATIENCE))

    return run


async def until(test):
    """Waits for a state that nothing tells of."""
    while not test():
        await asyncio.sleep(0.005)


def job():
    pass


@in_loop
async def test_two_schedulers_see_each_other_s_events_once(hub):
    seen = asyncio.Queue()
    async with AsyncScheduler(event_broker=EventManagerBroker(hub.address)) as one:
        async with AsyncScheduler(event_broker=EventManagerBroker(hub.address)) as other:
            other.subscribe(seen.put, {TaskAdded, ScheduleAdded})
            await one.add_schedule(job, DateTrigger(datetime(2100, 1, 1, tzinfo=timezone.utc)), id="s1")
            assert {type(await seen.get()), type(await seen.get())} == {TaskAdded, ScheduleAdded}
            await one.add_schedule(job, DateTrigger(datetime(2100, 1, 1, tzinfo=timezone.utc)), id="s2")
            event = await seen.get()
            assert (event.schedule_id, seen.empty()) == ("s2", True)


@in_loop
async def test_instances_know_each_other_and_elect_a_leader(hub, tmp_path):
    def make(name, **more):
        return ZMQEventBroker(
            publish_address="tcp://0.0.0.0:5555", subscribe_addresses=["tcp://instance-2:5555"], instance_id=name,
            heartbeat_interval=0.05, address=hub.address, event_log=str(tmp_path / "log.jsonl"), **more,
        )

    first, second = make("a"), make("b")
    async with contextlib.AsyncExitStack() as stack:
        await first.start(stack, log)
        assert first.is_leader
        async with contextlib.AsyncExitStack() as inner:
            await second.start(inner, log)
            await until(lambda: "b" in first.get_alive_instances() and "a" in second.get_alive_instances())
            await until(lambda: first.is_leader and not second.is_leader)
            await until(lambda: len(first.get_alive_instances()["b"]["heartbeats"]) == 10)
            await second.publish(TaskAdded(task_id="t"))
            await until(lambda: first.stats["received"] == 1)
        await until(lambda: not first.get_alive_instances())
        # One that isn't heard of any more.
        with em.connect(hub.address) as other:
            other.publish("apscheduler.heartbeat", {"instance_id": "0", "pid": 0}, headers={"x-instance": "0"})
            other.publish("apscheduler.event", b"nonsense")
            other.publish("apscheduler.heartbeat", b"[")
            other.flush()
        await until(lambda: not first.is_leader)
        await until(lambda: first.is_leader)
        await until(lambda: first.stats["invalid"] == 2)
    assert [each["event_type"] for each in first.leadership_log] == ["elected", "resigned", "elected", "resigned"]
    kinds = {json.loads(line)["type"] for line in (tmp_path / "log.jsonl").read_text().splitlines()}
    assert {"TaskAdded", "heartbeat_received", "instance_timeout", "leader_elected"} <= kinds


@in_loop
async def test_what_came_before_it_left_is_taken_in_silence(hub):
    class Came:
        headers = {"x-instance": "other"}
        subject = "apscheduler.heartbeat"
        raw = b'{"instance_id": "other", "pid": 1000000000}'

    broker = ZMQEventBroker("tcp://x:1", instance_id="a", address=hub.address)
    async with contextlib.AsyncExitStack() as stack:
        await broker.start(stack, log)
    await broker._take(Came)
    assert not broker.is_leader
    assert [each["event_type"] for each in broker.leadership_log] == ["elected", "resigned"]


@in_loop
async def test_it_comes_back_when_the_daemon_does(hub):
    one, other = EventManagerBroker(hub.address), EventManagerBroker(hub.address)
    async with contextlib.AsyncExitStack() as stack:
        await one.start(stack, log)
        await other.start(stack, log)
        hub.kill()
        hub.start()
        while not other.stats["received"]:  # What passes before it is back is not seen.
            await one.publish(TaskAdded(task_id="t"))
            await asyncio.sleep(0.01)


@in_loop
async def test_what_cannot_be_is_refused_with_typed_errors(hub):
    with pytest.raises(em.InvalidArgument):
        EventManagerBroker(channel="")
    with pytest.raises(em.InvalidArgument):
        EventManagerBroker(heartbeat_interval=0)
    with pytest.raises(em.Closed):
        await EventManagerBroker(hub.address).publish(TaskAdded(task_id="t"))
    with pytest.raises(BaseException) as error:
        async with contextlib.AsyncExitStack() as stack:
            await EventManagerBroker("tcp://127.0.0.1:1", timeout=0.05).start(stack, log)
    found = getattr(error.value, "exceptions", [error.value])
    assert isinstance(found[0], em.NoAnswer)


def test_schedule_zero_s_import_runs_with_shims(hub, tmp_path):
    (tmp_path / "app.py").write_text(
        """from schedule_zero.zmq_event_broker import ZMQEventBroker
event_broker = ZMQEventBroker(
    publish_address="tcp://0.0.0.0:5555",
    subscribe_addresses=["tcp://instance-2:5555", "tcp://instance-3:5555"],
    instance_id="scheduler-x",
    heartbeat_interval=5
)
print(event_broker.instance_id)
"""
    )
    done = subprocess.run(
        [sys.executable, "-m", "event_manager.compat", "--as", "schedule_zero", "app.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE,
    )
    assert (done.stdout, done.returncode) == ("scheduler-x\n", 0), done

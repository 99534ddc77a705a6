"""Runs the event broker of ScheduleZero's scheduler as it is, and writes down each 20 ms whether it leads.

    scheduler_instance.py FILE PUBLISHES SUBSCRIBES ID INTERVAL LOG

FILE has the class. It publishes at the address PUBLISHES, and subscribes at SUBSCRIBES. The first line added to
LOG is `started`, its process id and the monotonic clock in nanoseconds; each further one that clock, milliseconds
since 1970 and 0 or 1. It ends with its standard input.
"""

import asyncio
import importlib.util
import logging
import os
import sys
import threading
import time
from contextlib import AsyncExitStack

file, publishes, subscribes, name, interval, log_path = sys.argv[1:]


def load():
    spec = importlib.util.spec_from_file_location("event_broker", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["event_broker"] = module
    spec.loader.exec_module(module)
    return module.ZMQEventBroker


def look(broker, log):
    """In a thread of its own: what holds up the broker doesn't hold up this."""
    at = time.monotonic()
    while True:
        leads = int(broker.is_leader)
        log.write(f"{time.monotonic_ns()} {time.time_ns() // 1_000_000} {leads}\n")
        at = max(at + 0.02, time.monotonic())
        time.sleep(max(0, at - time.monotonic()))


async def main():
    broker = load()(
        publishes,
        subscribe_addresses=[subscribes],
        instance_id=name,
        heartbeat_interval=int(interval),
    )
    with open(log_path, "a", buffering=1, encoding="ascii") as log:
        log.write(f"started {os.getpid()} {time.monotonic_ns()}\n")
        threading.Thread(target=look, args=(broker, log), daemon=True).start()
        async with AsyncExitStack() as stack:
            await broker.start(stack, logging.getLogger("broker"))
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
            os._exit(0)


asyncio.run(main())

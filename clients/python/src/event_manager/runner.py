"""Runs services until a signal ends them: what `python -m event_manager run module:service` does."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading
from contextlib import ExitStack
from types import FrameType
from typing import List, Optional

from .errors import EventManagerError, InvalidArgument
from .hub import Hub, connect
from .service import Service

log = logging.getLogger("event_manager")


def run(*services: Service, hub: Optional[Hub] = None, drain: float = 5.0) -> None:
    """Runs services until SIGINT or SIGTERM; then each finishes for at most `drain` seconds what it holds.

    A second signal ends the program at once. `hub` is the connection to use, and stays open; without one, that of `connect()`.
    It waits for a daemon for ever. It has to be called by the main thread. Nak if a subscription is refused.
    """
    if not services:
        raise InvalidArgument("run wants at least one service")
    for service in services:
        if not isinstance(service, Service):
            raise InvalidArgument(f"run is for services, not {service!r}")
    if threading.current_thread() is not threading.main_thread():
        raise InvalidArgument("run is for the main thread, which gets signals; use Service.start in others")
    ended = threading.Event()

    def end(number: int, _: Optional[FrameType]) -> None:
        if ended.is_set():
            os._exit(128 + number)
        ended.set()
        raise _Ended

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with ExitStack() as stack:
            used = hub if hub is not None else stack.enter_context(connect())
            started: List[Service] = []
            try:
                for service in services:
                    service.start(used, float("inf"))
                    started.append(service)
                    log.info("service %s works", service.name)
                ended.wait()
            except _Ended:
                pass
            finally:
                for service in started:
                    service.stop(drain)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Ended(BaseException):
    """A signal came."""


def load(name: str) -> Service:
    """The service that `module:attribute` names; InvalidArgument if there is none."""
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise InvalidArgument(f"{name!r} does not name a service; write module:service")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(error.name + ".")):
            raise
        raise InvalidArgument(f"there is no module {module!r} here or where Python looks for modules") from None
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(found, Service):
        raise InvalidArgument(f"{attribute!r} of {module} is no Service")
    return found


def main(arguments: List[str]) -> int:
    """The command line; its exit code: 0, or 1 after an error, or 2 if it was not understood."""
    if len(arguments) < 2 or arguments[0] != "run":
        print("usage: python -m event_manager run module:service...", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        run(*[load(name) for name in arguments[1:]])
    except EventManagerError as error:
        print(f"event_manager: {error}", file=sys.stderr)
        return 1
    return 0

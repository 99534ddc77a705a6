"""APIs of other event buses, on this daemon. One import line changes, or none:

    python -m event_manager.compat --as messagebus,zeromqmessagehandler app.py

| Written for | Import | Names that `--as` and `install` know |
|---|---|---|
| e-deploy's MessageBus | `event_manager.compat.edeploy` | `messagebus`, `zeromqmessagehandler`, `messagehandler` |
| CoreRL's EventBusClient | `event_manager.compat.corerl` | `lib_utils`, `lib_defs`, `corerl` |
| the RabbitMQ building blocks | `event_manager.compat.pubsub` | `pubsub` |
| pika | `event_manager.compat.pika` | `pika` |
| dotmac events | `event_manager.compat.dotmac` | `dotmac` |
| ScheduleZero's broker for APScheduler 4 | `event_manager.compat.apscheduler` | `schedule_zero` |

No distribution of ours on PyPI installs one of these names, because they belong to others; `clients/python/shims` in the repository
has some that a site may install by itself. Each module says what differs.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Dict

from ..errors import EventManagerError, InvalidArgument


class AlreadyInstalled(EventManagerError):
    """A package with this name is installed, or imported already. Nothing was changed."""


_PUBSUB = ("amqp_connection", "event_base", "events", "handler_registry", "handlers", "publisher", "subscriber")

#: The modules that stand for each name, by their dotted names there.
SHIMS: Dict[str, Dict[str, str]] = {
    "messagebus": {"messagebus": "edeploy"},
    "zeromqmessagehandler": {"zeromqmessagehandler": "edeploy"},
    "messagehandler": {"messagehandler": "edeploy"},
    "lib_utils": {"lib_utils.messages": "corerl", "lib_utils.time": "corerl"},
    "lib_defs": {"lib_defs.type_defs.base_events": "_corerl_events"},
    "corerl": {"corerl.event_bus": "_corerl_bus", "corerl.messages.events": "_corerl_events"},
    "dotmac": {"dotmac.events": "dotmac", "dotmac.events.consumer": "dotmac.consumer"},
    "schedule_zero": {"schedule_zero.zmq_event_broker": "apscheduler"},
    "pubsub": {
        "pubsub": "pubsub",
        **{f"pubsub.{each}": f"pubsub.{each}" for each in _PUBSUB},
    },
    "pika": {
        "pika": "pika",
        "pika.exceptions": "pika.exceptions",
        "pika.spec": "pika.spec",
        "pika.connection": "pika.connection",
        "pika.credentials": "pika.connection",
        "pika.delivery_mode": "pika.spec",
        "pika.exchange_type": "pika.spec",
        "pika.channel": "pika.channel",
        "pika.adapters": "pika.adapters",
        "pika.adapters.blocking_connection": "pika.blocking_connection",
    },
}


def install(*names: str, replace: bool = False) -> None:
    """Lets `import NAME` give our module. AlreadyInstalled if there is a real one, unless `replace`."""
    for name in names:
        if name not in SHIMS:
            raise InvalidArgument(f"no module here stands for {name!r}; there are {', '.join(sorted(SHIMS))}")
        for dotted in SHIMS[name]:
            there = sys.modules.get(dotted)
            if there is not None and not replace and not there.__name__.startswith(__name__):
                raise AlreadyInstalled(f"{dotted} is imported already; install ours before, or insist with replace")
        if name not in sys.modules and not replace and importlib.util.find_spec(name) is not None:
            raise AlreadyInstalled(f"a package {name} is installed; uninstall it, or insist with replace (--replace)")
    for name in names:
        if replace:
            for loaded in [each for each in sys.modules if each == name or each.startswith(name + ".")]:
                del sys.modules[loaded]
        stand_for(name)


def stand_for(dotted: str) -> None:
    """Puts our modules under this dotted name and those below it: what the shims of the repository do when they are imported."""
    for each, ours in SHIMS[dotted.partition(".")[0]].items():
        if f"{each}.".startswith(f"{dotted}."):
            _put(each, importlib.import_module(f"{__name__}.{ours}"))


def _put(dotted: str, module: types.ModuleType) -> None:
    """Puts a module under a dotted name, with the packages above it."""
    sys.modules[dotted] = module
    parent, _, last = dotted.rpartition(".")
    if not parent:
        return
    if parent not in sys.modules:
        package = types.ModuleType(parent, f"Stands for {parent}: {__name__}.")
        package.__path__ = []
        package.__dict__["__event_manager__"] = True
        _put(parent, package)
    if not hasattr(sys.modules[parent], last):
        setattr(sys.modules[parent], last, module)


__all__ = ["AlreadyInstalled", "SHIMS", "install", "stand_for"]

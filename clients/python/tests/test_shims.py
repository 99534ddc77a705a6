"""Distributions with others' module names, for sites that need them."""

import runpy
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from support import PATIENCE

import event_manager as em
from event_manager.compat import SHIMS

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "shims" / "build-shim"

#: As the original's README has it, but for a handler: theirs isn't public.
PROGRAM = '''
from messagebus import Event, MessageHandler, SubscriptionInfo
from zeromqmessagehandler import ZeroMqMessageBus
import threading

done = threading.Event()

class Handler(MessageHandler):
    def handle_event(self, message_bus, event):
        print(event.subject, event.data, flush=True)
        done.set()

context = None
message_bus = ZeroMqMessageBus("MyService", context, handler=Handler())

message_bus.subscribe([
    SubscriptionInfo("OrderCreated", SubscriptionInfo.TYPE_NON_REENTRANT),
    SubscriptionInfo("PaymentReceived", SubscriptionInfo.TYPE_REENTRANT),
])
message_bus.publish_event(Event("OrderCreated", "", "order 1"))
assert done.wait(60)
message_bus.close()
'''
#: Every module under its own name, with its submodules as attributes, and each class there once.
IMPORTS = """
import importlib
import pika.adapters.blocking_connection, pika.exceptions
import lib_utils.messages, lib_utils.time
from lib_defs.type_defs.base_events import BaseEvent
from dotmac.events import Event
from dotmac.events.consumer import ConsumerOptions
from pubsub.event_base import Event as Other
assert pika.adapters.blocking_connection.BlockingConnection is pika.BlockingConnection
assert pika.exceptions.AMQPError is importlib.import_module("event_manager.compat.pika.exceptions").AMQPError
assert lib_utils.messages.EventBusClient is importlib.import_module("event_manager.compat.corerl").EventBusClient
print("ok")
"""


def run(*command, **more):
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, timeout=5 * PATIENCE, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(out, name, *more):
    return Path(run(sys.executable, BUILD, "--name", name, "--version", "1.2.0", "--out", out, *more).strip())


def test_a_shim_in_a_bare_environment(hub, tmp_path):
    venv.create(tmp_path / "bare", with_pip=True)
    python = tmp_path / "bare" / "bin" / "python"
    dist = tmp_path / "dist"
    build(dist, "MessageBus")
    build(dist, "ZeroMqMessageHandler")
    # pip builds the client from the checkout, as a user would; that needs setuptools from PyPI.
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ROOT)
    # All that is left is found on the site's own "index".
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--find-links", dist,
        "MessageBus==1.2.0", "ZeroMqMessageHandler==1.2.0")  # fmt: skip
    (tmp_path / "app.py").write_text(PROGRAM)
    environment = {"EVENT_MANAGER_CLIENT_ADDRESS": hub.address}
    assert run(python, tmp_path / "app.py", env=environment) == "OrderCreated order 1\n"
    listed = run(python, "-m", "pip", "list", "--disable-pip-version-check", "--format=freeze")
    assert "MessageBus==1.2.0" in listed and "pyzmq" not in listed
    run(python, "-m", "pip", "check", "--disable-pip-version-check")
    # The client's own distribution has no name but its own.
    installed = run(python, "-m", "pip", "show", "--files", "event-manager").partition("Files:")[2].split()
    assert {each.partition("/")[0] for each in installed if not each.startswith("..")} <= {
        "event_manager", f"event_manager-{em.__version__}.dist-info",
    }  # fmt: skip


def test_all_modules_of_the_shims(tmp_path):
    path = tmp_path / "site"
    for name in SHIMS:
        if name != "schedule_zero":  # needs APScheduler
            with zipfile.ZipFile(build(tmp_path, f"shim-{name}", "--modules", name)) as wheel:
                wheel.extractall(path)
    assert run(sys.executable, "-c", IMPORTS, env={"PYTHONPATH": str(path)}) == "ok\n"


def test_the_folders_are_those_of_the_table():
    for path, text in runpy.run_path(str(BUILD))["folders"]().items():
        assert (BUILD.parent / path).read_text() == text, f"{path}: run shims/build-shim --write"


def test_a_wheel_is_the_same_each_time_and_says_that_it_is_private(tmp_path):
    one, two = build(tmp_path / "1", "MessageBus"), build(tmp_path / "2", "MessageBus")
    assert one.read_bytes() == two.read_bytes()
    with zipfile.ZipFile(one) as wheel:
        metadata = wheel.read("MessageBus-1.2.0.dist-info/METADATA").decode()
    assert "Classifier: Private :: Do Not Upload" in metadata and "Requires-Dist: event-manager\n" in metadata


@pytest.mark.parametrize(
    "arguments, why",
    [
        (["--name", "Foo"], "which modules"),
        (["--name", "Foo", "--modules", "zope"], "not zope"),
        (["--name", "a b"], "--name is"),
        (["--name", "MessageBus", "--version", "../1"], "no version"),
        (["--name", "Event_Manager", "--modules", "pika"], "the client itself"),
        ([], "--name is"),
    ],
)
def test_what_can_not_be_built(tmp_path, arguments, why):
    done = subprocess.run([sys.executable, BUILD, "--out", tmp_path, *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and why in done.stderr and not list(tmp_path.iterdir())

"""Services as programs."""

import os
import signal
import subprocess
import sys

import pytest

import event_manager as em
from event_manager.runner import load

PATIENCE = 60.0

PROGRAM = '''
import event_manager as em

service = em.Service("Billing", delivery="queue")
other = em.Service("Other", delivery="queue")

@service.on("order.*")
def order(body: dict) -> None:
    print("order", body["id"], flush=True)

@other.on("x")
def nothing(body: bytes) -> None:
    pass
'''


@pytest.fixture
def program(tmp_path, hub):
    (tmp_path / "shop.py").write_text(PROGRAM)
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "event_manager", *arguments],
            cwd=tmp_path,
            env={**os.environ, "EVENT_MANAGER_CLIENT_ADDRESS": hub.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for each in started:
        each.kill()
        each.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_works_until_a_signal(hub, program, number):
    process = program("run", "shop:service", "shop:other")
    for line in process.stderr:
        if "service Other works" in line:
            break
    with em.connect(hub.address, timeout=PATIENCE) as publisher:
        assert publisher.emit("order.new", {"id": 7}, level="disk").services == 1
        assert process.stdout.readline() == "order 7\n"
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
        assert publisher.emit("order.new", {"id": 8}, level="disk").services == 1
    hub.status()["services"]
    assert {each["name"]: each["counters"]["queued"] for each in hub.status()["services"]} == {"Billing": 1, "Other": 0}


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        ((), 2, "usage"),
        (("run",), 2, "usage"),
        (("run", "shop"), 1, "write module:service"),
        (("run", "nowhere:service"), 1, "no module 'nowhere'"),
        (("run", "shop:em"), 1, "is no Service"),
    ],
)
def test_what_it_does_not_understand(program, arguments, code, said):
    process = program(*arguments)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert said in errors
    assert "Traceback" not in errors


def test_an_import_that_fails_inside_the_module_is_shown(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("import not_there_at_all")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        load("broken:service")


def test_it_wants_a_service():
    with pytest.raises(em.InvalidArgument):
        em.run()

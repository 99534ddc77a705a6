"""The blocks of README.md do what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

from support import in_the_clear

import event_manager as em

PATIENCE = 60.0
README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


@in_the_clear
def test_every_block_runs(hub, tmp_path):
    service, sender, watcher, awaiting, test = BLOCKS
    environment = {**os.environ, "EVENT_MANAGER_CLIENT_ADDRESS": hub.address}

    def python(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )

    (tmp_path / "shop.py").write_text(service)
    (tmp_path / "sender.py").write_text(sender)
    (tmp_path / "watcher.py").write_text(watcher)
    (tmp_path / "awaiting.py").write_text(awaiting)
    (tmp_path / "test_it.py").write_text(test)
    worker = subprocess.Popen(
        [sys.executable, "-u", "-m", "event_manager", "run", "shop:service"],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    try:
        for line in worker.stderr:
            if "service Orders works" in line:
                break
        sent = python("sender.py")
        assert (sent.returncode, sent.stdout, sent.stderr) == (0, "1 disk\n", "")
        # Both may be printed at the same time, and `print` writes a line and its end one after the other.
        printed = worker.stdout.readline() + worker.stdout.readline()
        assert sorted(printed.replace("\n", "").split("order.created: ")) == ["", "1 costs 9.5", "2 costs 3.0"]
    finally:
        worker.terminate()
        worker.communicate(timeout=PATIENCE)
    assert worker.returncode == 0
    seen = python("watcher.py")
    assert (seen.returncode, seen.stdout) == (0, """order.created b'{"id":3,"total":1}' {'x-from': 'readme'}\n"""), seen
    awaited = python("awaiting.py")
    assert (awaited.returncode, awaited.stdout) == (0, """1 b'{"id":4,"total":2.5}'\n"""), awaited
    tested = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py")
    assert tested.returncode == 0 and "1 passed" in tested.stdout, tested


def test_the_defaults_are_as_said():
    assert "64 MiB" in README.read_text()
    with em.connect("tcp://127.0.0.1:1") as hub:
        assert hub._max_pending_bytes == 64 << 20

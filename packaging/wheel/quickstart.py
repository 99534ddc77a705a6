"""Runs the blocks of the Python client's README in this environment, with the daemon that is installed in it, and compares what they
print. Usage: quickstart.py README.md"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import event_manager
from event_manager.testing import TestHub, find_binary
from event_manager_server import find_event_manager_bin

PATIENCE = 60


def main() -> None:
    binary = find_event_manager_bin()
    for module in (binary, event_manager.__file__):
        assert module.startswith(sys.prefix), f"{module} is not of this environment"
    assert os.path.samefile(find_binary(), binary)
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    as_module = subprocess.run([sys.executable, "-m", "event_manager_server", "--version"], capture_output=True, text=True, check=True).stdout
    assert version == as_module and version.startswith("event-manager "), (version, as_module)
    blocks = re.findall(r"^```python\n(.*?)^```", Path(sys.argv[1]).read_text(), re.MULTILINE | re.DOTALL)
    service, sender, watcher, awaiting = blocks[:4]
    with TestHub(durable=True) as daemon, tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "EVENT_MANAGER_CLIENT_ADDRESS": daemon.address}

        def python(code: str) -> str:
            return subprocess.run(
                [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True
            ).stdout

        Path(folder, "shop.py").write_text(service)
        worker = subprocess.Popen(
            [sys.executable, "-u", "-m", "event_manager", "run", "shop:service"],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert worker.stdout is not None and worker.stderr is not None
        try:
            for line in worker.stderr:
                if "service Billing works" in line:
                    break
            assert python(sender) == "1 disk\n"
            lines = {worker.stdout.readline(), worker.stdout.readline()}
            assert lines == {"order.created: 1 costs 9.5\n", "order.created: 2 costs 3.0\n"}, lines
        finally:
            worker.terminate()
            worker.communicate(timeout=PATIENCE)
        assert worker.returncode == 0
        assert python(watcher) == "order.created b'hello' {'x-from': 'readme'}\n"
        assert python(awaiting) == "1 b'hello'\n"


if __name__ == "__main__":
    main()

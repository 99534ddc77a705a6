"""The examples of README.md print what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from event_manager.testing import TestHub

PAGE = (Path(__file__).parent.parent / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_each_example_says_what_it_prints():
    assert len(EXAMPLES) == len(re.findall("^```python$", PAGE, re.MULTILINE)) == 5


@pytest.mark.parametrize("example, printed", EXAMPLES)
def test_examples(tmp_path, example, printed):
    (tmp_path / "shop.py").write_text(example)
    with TestHub(durable=True) as daemon:
        out = subprocess.run(
            [sys.executable, "shop.py"],
            cwd=tmp_path,
            env={**os.environ, "EVENT_MANAGER_CLIENT_ADDRESS": daemon.address},
            capture_output=True,
            text=True,
            timeout=60,
        )
    # FastStream's log is in between.
    lines = [line for line in out.stdout.splitlines(keepends=True) if not re.match(r"\d{4}-\d\d-\d\d ", line)]
    assert (out.returncode, "".join(lines)) == (0, printed), out.stdout + out.stderr


def test_the_limits_are_as_said():
    from event_manager.aio import AsyncHub

    assert "10,000" in PAGE and AsyncHub.subscribe.__kwdefaults__["queue"] == 10_000

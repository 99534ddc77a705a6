"""The examples of docs/python.md print what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[3] / "docs" / "python.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_each_example_says_what_it_prints():
    assert len(EXAMPLES) == len(re.findall("^```python$", PAGE, re.MULTILINE)) >= 5


@pytest.mark.parametrize("example, printed", EXAMPLES)
def test_examples(hub, tmp_path, example, printed):
    out = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env={**os.environ, "EVENT_MANAGER_CLIENT_ADDRESS": hub.address},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (out.returncode, out.stdout) == (0, printed), out.stderr

"""The types of what the documents show: mypy and pyright have nothing to say about it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "clients/python/README.md", ROOT / "docs/python.md", ROOT / "docs/migrating.md"]


@pytest.fixture
def examples(tmp_path):
    number = 0
    for page in PAGES:
        for kind, block in re.findall(r"^```python ?(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            if kind != "before" and "import zmq" not in block:
                number += 1
                (tmp_path / f"{page.parent.name}_{page.stem}_{number}.py").write_text(block)
    assert number > 15
    return tmp_path


def test_mypy(examples):
    pytest.importorskip("mypy")
    done = subprocess.run([sys.executable, "-m", "mypy", *map(str, examples.glob("*.py"))], cwd=examples, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pyright(examples):
    pyright = shutil.which("pyright", path=str(Path(sys.executable).parent))
    if pyright is None or subprocess.run([pyright, "--version"], capture_output=True, timeout=120).returncode != 0:
        pytest.skip("pyright can't be fetched here")
    done = subprocess.run([pyright, "--pythonpath", sys.executable, str(examples)], cwd=examples, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

"""The blocks of docs/migrating.md do what it says."""

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from event_manager import compat

PATIENCE = 60.0
TEXT = (Path(__file__).parents[3] / "docs" / "migrating.md").read_text()
BLOCKS = re.findall(r"^```(\w+) ?(\w*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
PRINTED = {
    "edeploy": "OrderCreated order 1\n",
    "corerl": "started\n",
    "pubsub": "order.created {'order_id': 'ORD-123'}\n",
    "pika": "Hello World!\n",
    "dotmac": "User created: {'user_id': 123}\n",
    "apscheduler": "leads: True\n",
}
NEEDED = {"corerl": "pydantic", "apscheduler": "apscheduler.eventbrokers"}


def has(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def test_each_block_is_known():
    assert {(language, name) for language, name, _ in BLOCKS} == {
        ("sh", ""), ("python", "before"), *(("python", name) for name in PRINTED)
    }


@pytest.mark.parametrize("name", PRINTED)
def test_a_block_runs(hub, tmp_path, name):
    if name in NEEDED and not has(NEEDED[name]):
        pytest.skip(f"{NEEDED[name]} isn't installed")
    [code] = [code for _, each, code in BLOCKS if each == name]
    (tmp_path / "app.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "app.py"], cwd=tmp_path, env={**os.environ, "EVENT_MANAGER_CLIENT_ADDRESS": hub.address},
        capture_output=True, text=True, timeout=PATIENCE,
    )
    assert (done.stdout, done.returncode) == (PRINTED[name], 0), done


def test_what_was_imported_before_is_what_shims_give(tmp_path):
    for _, name, code in BLOCKS:
        if name != "before":
            continue
        names = {getattr(each, "module", None) or each.names[0].name for each in ast.walk(ast.parse(code)) if not isinstance(each, ast.Module) and hasattr(each, "names")}
        tops = {each.partition(".")[0] for each in names}
        assert tops <= set(compat.SHIMS)
        if any(has(NEEDED[each]) is False for each, top in (("corerl", "lib_defs"), ("apscheduler", "schedule_zero")) if top in tops):
            continue
        (tmp_path / "app.py").write_text(code)
        done = subprocess.run(
            [sys.executable, "-m", "event_manager.compat", "--as", ",".join(tops), "--replace", "app.py"],
            cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE,
        )
        assert (done.returncode, done.stderr) == (0, ""), code


def test_the_names_are_those_that_there_are():
    [told] = re.findall(r"The names are (.*?);", TEXT)
    assert set(re.findall(r"`(\w+)`", told)) == set(compat.SHIMS)
    for shims in compat.SHIMS.values():
        for ours in shims.values():
            if ours == "apscheduler" and not has(NEEDED["apscheduler"]):
                continue
            if ours.startswith("_corerl") and not has("pydantic"):
                continue
            importlib.import_module(f"event_manager.compat.{ours}")

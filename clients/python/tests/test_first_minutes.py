"""The repository's README: its first five minutes in Python."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from support import PATIENCE

from event_manager.testing import TestHub

SECTION = (Path(__file__).parents[3] / "README.md").read_text().partition("## The first five minutes in Python")[2].partition("\n## ")[0]


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)


def test_as_it_is_written(tmp_path):
    for block in blocks("python"):
        (tmp_path / re.match(r"# (\w+\.py)\n", block).group(1)).write_text(block)
    [console], [printed], [install] = blocks("console"), blocks("text"), blocks("sh")
    assert install == "pip install ./clients/python\n"  # test_shims does that in a bare environment
    run, send, *said = console.splitlines()
    with TestHub() as daemon:
        environment = {**os.environ, "EVENT_MANAGER_CLIENT_ADDRESS": daemon.address}

        def start(line):
            prompt, program, *arguments = shlex.split(line)
            assert (prompt, program) == ("$", "python")
            return subprocess.Popen(
                [sys.executable, *arguments], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )

        service = start(run)
        try:
            for line in service.stderr:
                if "service Billing works" in line:
                    break
            sender = start(send)
            out, error = sender.communicate(timeout=PATIENCE)
            assert (sender.returncode, out.splitlines(), error) == (0, said, "")
            assert [service.stdout.readline() for _ in printed.splitlines()] == printed.splitlines(keepends=True)
        finally:
            service.terminate()
            rest, _ = service.communicate(timeout=PATIENCE)
        assert (service.returncode, rest) == (0, "")

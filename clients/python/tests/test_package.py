"""What importing the package costs, and brings along."""

import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from support import PATIENCE, in_the_clear

import event_manager

PROGRAM = """
import sys
before = set(sys.modules)
import event_manager
event_manager.Service, event_manager.run, event_manager.Subscription  # these are imported later
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - set(sys.stdlib_module_names) - {"event_manager"}) if hasattr(sys, "stdlib_module_names") else [])
"""


def test_it_imports_nothing_but_the_standard_library():
    out = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout == "[]\n"


def test_all_that_is_exported_is_there():
    assert sorted(event_manager.__all__) == event_manager.__all__
    for name in event_manager.__all__:
        assert getattr(event_manager, name).__doc__, name
    errors = [each for each in vars(event_manager).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert all(issubclass(each, event_manager.EventManagerError) for each in errors)


def test_asyncio_is_imported_only_for_async_handlers():
    program = "import sys, event_manager; event_manager.Service; print('asyncio' in sys.modules)"
    out = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; {program}"], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout == "False\n"


@in_the_clear
def test_a_first_event_needs_little(hub):
    program = f"""
import sys, event_manager
with event_manager.connect({hub.address.replace("127.0.0.1", "localhost")!r}) as hub:
    hub.publish("order.created", {{"id": 1}})
    hub.flush({PATIENCE})
print(*sorted({{"asyncio", "dataclasses", "encodings.idna", "inspect", "random", "unicodedata", "zlib"}} & set(sys.modules)))
"""
    code = f"import sys; sys.path[:] = {sys.path!r}; {program}"
    out = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert out.stdout == "\n"


def zipped(root, skip=""):
    """The bytes of a wheel, but for pip's own 6 kB: names, hashes and the README."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path in [*root.rglob("*.py"), root / "py.typed"]:
            if not skip or skip not in path.parts:
                wheel.write(path, path.relative_to(root.parent))
    return len(buffer.getvalue())


def test_its_wheel_is_small():
    """All of it is code: 40 kB of that are its documentation, 62 the drop-ins for other libraries."""
    root = Path(event_manager.__file__).parent
    assert zipped(root) < 170_000
    assert zipped(root, skip="compat") < 108_000


def test_it_needs_nothing_and_has_its_extras():
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert "dependencies = []" in project
    extras = re.findall(r"^(\w+) = \[", project.partition("[project.optional-dependencies]")[2].partition("\n\n")[0], re.MULTILINE)
    assert {"server", "pydantic", "curve", "zstd", "otel", "apscheduler", "dotmac", "test"} <= set(extras)

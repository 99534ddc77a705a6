"""What the parts of the package know of each other."""

import re
from pathlib import Path

import event_manager

ROOT = Path(event_manager.__file__).parent
#: What drop-ins may use of the core, beside its public modules: subjects and events as bytes; single requests, and messages between
#: services, for which there is no hub.
SEAM = {"_ask", "_calls", "_event", "_messages"}


def test_drop_ins_use_the_public_api_and_little_else():
    for path in (ROOT / "compat").rglob("*.py"):
        depth = len(path.relative_to(ROOT).parts)
        up = "." * depth
        text = path.read_text()
        used = set(re.findall(rf"^from {re.escape(up)}(_\w+)", text, re.MULTILINE))
        for names in re.findall(rf"^from {re.escape(up)} import ([^(\n]+)", text, re.MULTILINE):
            used |= {each.strip() for each in names.split(",") if each.strip().startswith("_")}
        assert used <= SEAM, f"{path.name} imports {used - SEAM}"
        # Nothing of a hub, a service or an event that isn't public.
        private = re.findall(r"(?:hub|service|subscription|event|received)\._[a-z]\w*", text)
        assert not private, f"{path.name} uses {private}"


def test_the_core_does_not_know_the_drop_ins():
    for path in ROOT.glob("*.py"):
        imports = [line for line in path.read_text().splitlines() if re.match(r"\s*(from|import) ", line)]
        assert not [line for line in imports if "compat" in line], path.name


def test_no_module_is_too_long():
    for path in [*ROOT.rglob("*.py"), *Path(__file__).parent.glob("*.py")]:
        assert len(path.read_text().splitlines()) <= 600, path.name
    assert len((ROOT / "_zmtp.py").read_text().splitlines()) < 400

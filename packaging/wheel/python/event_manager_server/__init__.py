"""The event-manager daemon, as pip installs it."""

from __future__ import annotations

import os
import sys
import sysconfig
from typing import Iterator, Set

_NAME = "event-manager" + (sysconfig.get_config_var("EXE") or "")


def find_event_manager_bin() -> str:
    """The path of the daemon's binary. FileNotFoundError, with the places where it looked, if it isn't there."""
    looked: Set[str] = set()
    for folder in _folders():
        path = os.path.join(folder, _NAME)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
        looked.add(folder)
    raise FileNotFoundError(f"there is no {_NAME} in {', '.join(sorted(looked))}; install event-manager-server again")


def _folders() -> Iterator[str]:
    """Where pip may have put it."""
    yield sysconfig.get_path("scripts")
    # Under a Python that was started from another environment (`--system-site-packages`).
    yield sysconfig.get_path("scripts", vars={"base": sys.base_prefix})
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # pip install --prefix PREFIX: PREFIX/lib/pythonX.Y/site-packages
    yield os.path.join(here, os.pardir, os.pardir, os.pardir, "bin")
    # pip install --target FOLDER
    yield os.path.join(here, "bin")
    # pip install --user
    yield sysconfig.get_path("scripts", scheme=sysconfig.get_preferred_scheme("user") if sys.version_info >= (3, 10) else "posix_user")


__all__ = ["find_event_manager_bin"]

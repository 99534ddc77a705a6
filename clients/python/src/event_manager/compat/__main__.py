"""`python -m event_manager.compat --as NAME[,NAME…] [--replace] program.py [arguments]`, or `-m module` for the program."""

from __future__ import annotations

import os
import runpy
import sys
from typing import List

from ..errors import EventManagerError
from . import SHIMS, install

_USAGE = f"""usage: python -m event_manager.compat --as NAME[,NAME...] [--replace] program.py [argument...]
       python -m event_manager.compat --as NAME[,NAME...] [--replace] -m module [argument...]

Runs a program that imports these names with our modules in their place. Names: {', '.join(sorted(SHIMS))}.
--replace: also if a package with such a name is installed."""


def main(arguments: List[str]) -> int:
    """The command line; its exit code."""
    names: List[str] = []
    replace = False
    while arguments and arguments[0].startswith("--"):
        option = arguments.pop(0)
        if option.startswith("--as="):
            names += option[5:].split(",")
        elif option == "--as" and arguments:
            names += arguments.pop(0).split(",")
        elif option == "--replace":
            replace = True
        elif option == "--help":
            print(_USAGE)
            return 0
        else:
            print(f"event_manager.compat: {option} is no option\n{_USAGE}", file=sys.stderr)
            return 2
    as_module = arguments[:1] == ["-m"]
    if as_module:
        arguments.pop(0)
    if not names or not arguments:
        print(_USAGE, file=sys.stderr)
        return 2
    try:
        install(*names, replace=replace)
    except (EventManagerError, ImportError) as error:
        print(f"event_manager.compat: {error}", file=sys.stderr)
        return 1
    program = arguments[0]
    sys.argv = arguments
    if as_module:
        sys.path.insert(0, os.getcwd())
        runpy.run_module(program, run_name="__main__", alter_sys=True)
        return 0
    if not os.path.exists(program):
        print(f"event_manager.compat: there is no file {program}", file=sys.stderr)
        return 2
    sys.path.insert(0, os.path.dirname(os.path.abspath(program)))
    runpy.run_path(program, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

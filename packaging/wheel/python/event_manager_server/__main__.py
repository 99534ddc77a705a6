"""`python -m event_manager_server` is `event-manager`."""

import os
import sys

from event_manager_server import find_event_manager_bin


def main() -> None:
    try:
        binary = find_event_manager_bin()
    except FileNotFoundError as error:
        raise SystemExit(f"event_manager_server: {error}") from None
    os.execv(binary, [binary, *sys.argv[1:]])


if __name__ == "__main__":
    main()

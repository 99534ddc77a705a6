"""`python -m event_manager`."""

import sys

from .runner import main

sys.exit(main(sys.argv[1:]))

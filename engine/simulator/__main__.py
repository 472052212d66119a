"""`python -m engine.simulator`: start, print one JSON line with the ports when ready, serve until SIGTERM or SIGINT."""

import sys

from engine.simulator.main import main

sys.exit(main(sys.argv[1:]))

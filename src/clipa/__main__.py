"""``python -m clipa``: the command line."""

import sys

from clipa.cli import main

if __name__ == "__main__":  # processes that a verb starts import this module too
    sys.exit(main())

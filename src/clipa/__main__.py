"""``python -m clipa``: the command line."""

import sys

from clipa.cli import main

sys.exit(main())

"""What holds for all tests."""

import signal

# A shell starts what it puts into the background (`make test &`) with Ctrl-C ignored, and programs inherit that. Those
# that tests start must hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)

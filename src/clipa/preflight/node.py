"""What a compute node sees: run there as ``python -m clipa.preflight.node FOLDER HOST``; prints JSON.

``FOLDER`` has a file ``seen`` and is locked by whoever asks (:mod:`clipa.locks`).
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
import time
from pathlib import Path

from clipa.locks import lock_holder

SECONDS = 10.0


def main(folder: str, host: str) -> int:
    """Look, and print."""
    place = Path(folder)
    end = time.monotonic() + SECONDS
    while not (place / "seen").is_file() and time.monotonic() < end:
        time.sleep(0.5)
    print(
        json.dumps(
            {
                "node": socket.gethostname(),
                "seen": (place / "seen").is_file(),
                "locked": (place / "seen").is_file() and lock_holder(place) is not None,
                "internet": _reaches(host),
                "scontrol": shutil.which("scontrol") is not None,
            }
        )
    )
    return 0


def _reaches(host: str) -> bool:
    name, _, port = host.rpartition(":")
    try:
        socket.create_connection((name, int(port)), SECONDS).close()
        return True
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

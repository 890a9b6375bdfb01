"""Work on shards in several processes, none of which outlives the one that started them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any


def in_processes(function: Callable[..., Any], jobs: Sequence[tuple], processes: int) -> Iterator[Any]:
    """``function(*job)`` of every job, as they get ready (in order when one process does all)."""
    if processes <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield function(*job)
        return
    # spawn, not fork: the parent may hold threads or a lock that a fork would copy.
    with ProcessPoolExecutor(
        min(processes, len(jobs)), get_context("spawn"), initializer=_end_with_parent, initargs=(os.getpid(),)
    ) as pool:
        futures = [pool.submit(function, *job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _end_with_parent(parent: int) -> None:
    """Worker start-up: go when the parent is killed, since nobody would collect the work."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

"""Jobs on a Ray cluster that is already running: each is a task of one core, on whichever node has one free.

A task whose node or process dies is tried again elsewhere. All nodes see the same disk, and have the same environment
under the same path, with the version of Ray that the cluster has. Of img2dataset's own way to Ray nothing is used: it
forgets what failed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from clipa.downloads import DownloadError

_SOURCE = str(Path(__file__).parents[2])
_ANSWER_SECONDS = 10.0


@contextmanager
def joined() -> Iterator[int]:
    """Join the cluster that ``RAY_ADDRESS`` names (host:port of its head); yields how many cores it has.

    Raises DownloadError where Ray is not installed, or the cluster does not answer.
    """
    try:
        import ray
    except ImportError:
        raise DownloadError(
            "download.distributor is ray, which is not installed here: install the version of your cluster beside "
            "img2dataset (docs/data.md), or leave the key out of the scale's file"
        ) from None
    path = os.pathsep.join(filter(None, [_SOURCE, os.environ.get("PYTHONPATH")]))
    environment = {"env_vars": {"PYTHONPATH": path}}
    address = _address()
    try:
        ray.init(address=address, runtime_env=environment, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:  # as of another version of Ray
        said = " ".join(str(error).split())
        raise DownloadError(f"RAY_ADDRESS {address}: cannot be joined ({said[:300]})") from None
    try:
        yield max(1, int(ray.cluster_resources().get("CPU", 0)))
    finally:
        ray.shutdown()


def _address() -> str:
    """Of a cluster's head that answers: Ray itself tries for many minutes, and takes up notes of dead clusters."""
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _ANSWER_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        said = f"{address} does not answer ({error})" if address else "is not set"
        raise DownloadError(
            f"download.distributor is ray, and RAY_ADDRESS {said}; it is host:port of the head of a cluster that runs "
            "(ray start --head prints it) and to which this node belongs"
        ) from None
    return address


def in_tasks(
    function: Callable[..., Any], jobs: Sequence[tuple], at_once: int, jobs_a_process: int
) -> Iterator[Any]:
    """``function(*job)`` of every job on the cluster that was joined, in the order in which they end.

    ``at_once``: how many may wait or run there; after ``jobs_a_process`` a process is replaced, for libraries
    that leak. What a job raises is raised here. Where the caller stops early, jobs that run are ended. Raises
    DownloadError where the cluster fails.
    """
    import ray

    task = ray.remote(max_calls=jobs_a_process)(function)
    waiting = iter(jobs)
    running = [task.remote(*job) for job in islice(waiting, at_once)]
    try:
        while running:
            done, running = ray.wait(running)
            running += [task.remote(*job) for job in islice(waiting, len(done))]
            for one in done:
                yield _result(one)
    finally:
        for one in running:
            ray.cancel(one, force=True)
        if running:
            ray.wait(running, num_returns=len(running))


def _result(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise DownloadError(f"Ray: {said[:300]}; the same command resumes") from None

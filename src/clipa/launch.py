"""How the processes of a stage are started: what a job asks of the scheduler, and what ``clipa train`` runs in it.

One process trains where it is. On one node, ``clipa train`` is torchrun's agent, which starts a process for each GPU.
On several nodes, inside a SLURM job, it starts itself once on each node with ``srun``; the agents meet at the first
node (torchrun's c10d rendezvous). Without SLURM, the same command on every node with ``MASTER_ADDR`` does the same.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from clipa.config import Resources
from clipa.resolved import ResolvedStage
from clipa.slurm import ask

DEFAULT_PORT = 29400
"""Of the rendezvous where MASTER_PORT names none: torchrun's own."""
_PORTS = range(20000, 32000)
"""Of rendezvous of SLURM jobs, by job id: below those that systems give out by themselves (from 32768 on)."""
_SECONDS_TO_SAVE = 300
"""For the other processes of a node to end after SIGTERM, or after one has failed, before they are killed. The first
may be writing a checkpoint; SLURM's own KillWait is shorter."""
_SECONDS_APART = 600
"""For the other nodes' tasks to end after one has ended: the first process exports the model after the others have
ended."""
GPUS_PER_NODE = r"--gpus-per-node=(\d+)"
"""How ``slurm_extra`` names them."""
INTERRUPTED = 75
"""Exit code after SIGTERM with a checkpoint saved: start the same command again to resume (EX_TEMPFAIL)."""


def job_resources(asked: Resources) -> dict[str, int | str]:
    """What one training job asks of Snakemake and its SLURM plugin.

    Over several nodes, ``mpi`` lets the job's shell call ``srun`` for all nodes; without it the shell is itself a step
    on one of them. ``tasks`` counts one a node, and the plugin has no key for a node's GPUs but ``slurm_extra``.
    """
    found: dict[str, int | str] = {
        "mem_mb": asked.memory_mb,
        "runtime": asked.runtime_minutes,
        "nodes": asked.nodes,
    }
    if asked.nodes > 1:
        gpus = f" --gpus-per-node={asked.gpus}" if asked.gpus else ""
        return found | {"mpi": "srun", "tasks": asked.nodes, "slurm_extra": f"--ntasks-per-node=1{gpus}"}
    return found | ({"gpu": asked.gpus} if asked.gpus else {})


def launch(stage: ResolvedStage, arguments: Sequence[str]) -> int | None:
    """Train ``stage`` in processes that run ``clipa`` with ``arguments``, and return their exit code.

    None where this process is to train: it is the only one, or was started so. ValueError (one line) where a stage of
    several nodes is started in no SLURM job and without MASTER_ADDR.
    """
    if stage.processes == 1 or "WORLD_SIZE" in os.environ:
        return None
    signal.signal(
        signal.SIGUSR1, signal.SIG_IGN
    )  # SLURM's warning is for the trainers, which set their own handler
    # Snakemake sets this to the cores of the whole job; the processes of a node share them.
    os.environ["OMP_NUM_THREADS"] = str(max(1, stage.cpus // _local(stage)))
    if stage.nodes == 1 or "MASTER_ADDR" in os.environ:
        return _agent(torchrun(stage, os.environ), arguments)
    if "SLURM_JOB_ID" not in os.environ:
        raise ValueError(
            f"{stage.name} trains on {stage.nodes} nodes: start this command in a SLURM job of so many, or on each "
            "node with MASTER_ADDR set to the address of the first"
        )
    os.environ |= rendezvous_of(os.environ["SLURM_JOB_ID"])
    os.execvp("srun", [*srun(stage), sys.executable, "-m", "clipa", *arguments])


def torchrun(stage: ResolvedStage, environment: Mapping[str, str]) -> list[str]:
    """Arguments of this node's torchrun, without the program that it starts."""
    asked = [f"--nproc-per-node={_local(stage)}", f"--shutdown-timeout={_SECONDS_TO_SAVE}"]
    if stage.nodes == 1:
        return ["--standalone", *asked]
    endpoint = f"{environment['MASTER_ADDR']}:{environment.get('MASTER_PORT', DEFAULT_PORT)}"
    asked += [f"--nnodes={stage.nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}"]
    asked.append(f"--rdzv-id={stage.fingerprint}")
    if (
        "SLURM_NODEID" in environment
    ):  # else torchrun compares addresses, and does not know all of a machine's
        asked.append(f"--rdzv-conf=is_host={int(environment['SLURM_NODEID'] == '0')}")
    return asked


def srun(stage: ResolvedStage) -> list[str]:
    """``srun`` for one task a node, with its whole geometry: a job of Snakemake's plugin has none in its variables."""
    asked = [f"--nodes={stage.nodes}", f"--ntasks={stage.nodes}", "--ntasks-per-node=1"]
    asked += [f"--cpus-per-task={stage.cpus}", "--kill-on-bad-exit=0", f"--wait={_SECONDS_APART}"]
    if stage.content.device == "cuda":
        asked.append(f"--gpus-per-node={_local(stage)}")
    return ["srun", *asked]


def rendezvous_of(job: str) -> dict[str, str]:
    """Address of the first node of a SLURM job, and a port, as the variables that torchrun's users set."""
    nodes = ask("squeue", "--noheader", "--jobs", job, "--format=%N")
    first = ask("scontrol", "show", "hostnames", nodes).split()[0]
    facts = dict(word.partition("=")[::2] for word in ask("scontrol", "show", "node", first).split())
    return {"MASTER_ADDR": facts["NodeAddr"], "MASTER_PORT": str(_PORTS[int(job) % len(_PORTS)])}


def _local(stage: ResolvedStage) -> int:
    """Processes of a node."""
    return stage.processes // stage.nodes


def _agent(asked: Sequence[str], arguments: Sequence[str]) -> int:
    """Run torchrun here; its exit code would be 1 whatever the processes' is.

    The code that all failed processes have, else 1; after SIGTERM, which they get, too, 75. ValueError where the nodes
    do not meet.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    try:
        run.run(run.parse_args([*asked, "-m", "clipa", *arguments]))
    except ChildFailedError as error:
        failed: dict[int, Any] = error.failures
        codes = {failure.exitcode for failure in failed.values()}
        if codes != {INTERRUPTED}:
            ranks = ", ".join(f"{rank} with {failure.exitcode}" for rank, failure in sorted(failed.items()))
            print(f"clipa train: processes ended by rank: {ranks}", file=sys.stderr)
        code = codes.pop()
        return code if not codes and code > 0 else 1
    except RendezvousError as error:
        raise ValueError(f"the nodes did not meet ({' '.join(asked)}): {error.__cause__ or error}") from None
    except SignalException as error:
        print(f"clipa train: {error.sigval.name}: all processes of this node have ended", file=sys.stderr)
        return INTERRUPTED if error.sigval == signal.SIGTERM else 128 + error.sigval
    return 0

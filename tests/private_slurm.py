"""A real SLURM for tests: a controller and two nodes on this machine's loopback, in a folder of its own.

    @pytest.fixture(scope="module")
    def slurm(tmp_path_factory):
        with private_slurm(tmp_path_factory.mktemp("slurm")) as cluster:
            yield cluster

Commands find it through ``cluster.environment`` (``cluster.run("sbatch", …)``). It needs root (``mknod`` makes the
devices that stand for GPUs) and Debian's slurm-wlm and munge; where these are missing the context manager says so and
yields None, but with ``CI`` set it fails, unless ``WITHOUT_SLURM`` is set, too. Memory and GPUs are counted and not
enforced. Time limits are checked every 30 seconds.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
PACKAGES = "slurm-wlm munge"
NODES = ("n1", "n2")
GPUS = 8
_SECONDS = 60.0

# FirstJobId: other clusters of tests count from elsewhere (clipa.launch derives ports from job ids).
# KillWait: seconds between SIGTERM and SIGKILL. MinJobAge: squeue shows finished jobs. NoInAddrAny: loopback only.
_CONFIGURATION = """\
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
FirstJobId={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool/%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
PlugStackConfig=/dev/null
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,batch_sched_delay=0
GresTypes=gpu
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MinJobAge=3600
KillWait={kill_wait}
ReturnToService=2
PropagateResourceLimits=NONE
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=gpu Nodes=ALL Default=YES MaxTime=60 State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
"""
_NODE = (
    "NodeName={name} NodeAddr=127.0.0.1 NodeHostname={host} Port={port} CPUs=16 Sockets=1 CoresPerSocket=16 "
    "ThreadsPerCore=1 RealMemory=20000 Gres=gpu:{gpus}\n"
)


@dataclass(frozen=True)
class Cluster:
    """A running SLURM: two nodes with eight GPUs each; partitions ``gpu`` (default), and ``urgent`` to preempt it."""

    place: Path
    environment: dict[str, str]

    def run(self, *command: str, **others: object) -> str:
        """What a command prints; CalledProcessError where it fails, with its messages in ``stderr``."""
        asked = {"env": self.environment, "check": True, "capture_output": True, "text": True} | others
        return subprocess.run(command, **asked).stdout

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, FAILED, TIMEOUT, …"""
        return self.run("squeue", "--states=all", "--noheader", "--format=%T", "--jobs", job).strip()

    def wait(self, job: str, seconds: float = 300) -> str:
        """The state in which ``job`` ends; AssertionError when it has not ended in time."""
        end = time.monotonic() + seconds
        while (state := self.state(job)) in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
            assert time.monotonic() < end, f"job {job} is still {state}"
            time.sleep(0.3)
        return state

    def logs(self) -> str:
        """The last lines of every daemon."""
        return "\n".join(
            f"{path.name}: {path.read_text(errors='replace')[-3000:]}" for path in self.place.glob("*.log")
        )


@contextmanager
def private_slurm(place: Path, kill_wait: int = 5) -> Iterator[Cluster | None]:
    """A running cluster below ``place``, whose jobs and daemons end with the block; ``kill_wait`` in seconds.

    None where SLURM is not installed or this is not root (with ``CI`` set and not ``WITHOUT_SLURM``: AssertionError).
    """
    missing = [program for program in PROGRAMS if shutil.which(program, path=_search_path()) is None]
    if missing or os.geteuid() != 0:
        needed = (
            f"install {PACKAGES} (Debian)" if missing else "only root may make the devices of a private SLURM"
        )
        assert os.environ.get("WITHOUT_SLURM") or not os.environ.get("CI"), needed
        print(f"not tested under SLURM: {needed}")
        yield None
        return
    cluster = _configured(place, kill_wait)
    with ExitStack() as stack:
        socket_ = f"--socket={place}/munge.socket"
        files = (f"--{name}-file={place}/munge.{name}" for name in ("key", "pid", "log", "seed"))
        daemons = [["munged", "--foreground", "--force", socket_, *files], ["slurmctld", "-D", "-i"]]
        for command in daemons + [["slurmd", "-D", "-N", node] for node in NODES]:
            stack.enter_context(_daemon(command, cluster))
            if command[0] == "munged":
                _wait_until(lambda: (place / "munge.socket").exists(), cluster, "munged")
        _wait_until(lambda: _states(cluster) == ["idle"], cluster, "SLURM")
        stack.callback(_cancel_all, cluster)
        yield cluster


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin"])


def _configured(place: Path, kill_wait: int) -> Cluster:
    """Write what the daemons need: configuration, key, devices, and wrappers of the commands."""
    for folder in ("state", "spool/n1", "spool/n2", "bin"):
        (place / folder).mkdir(parents=True)
    key = place / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    for number in range(GPUS):  # twins of /dev/null: SLURM accepts only character devices as GPUs
        os.mknod(place / f"gpu{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (place / "gres.conf").write_text(
        "".join(f"NodeName={node} Name=gpu File={place}/gpu[0-{GPUS - 1}]\n" for node in NODES)
    )
    host = socket.gethostname().partition(".")[0]
    controller, *ports = _free_ports(1 + len(NODES))
    nodes = [
        _NODE.format(name=name, host=host, port=port, gpus=GPUS)
        for name, port in zip(NODES, ports, strict=True)
    ]
    head, partitions = _CONFIGURATION.format(
        host=host, controller=controller, place=place, kill_wait=kill_wait
    ).split("PartitionName", 1)
    configuration = place / "slurm.conf"
    configuration.write_text(f"{head}{''.join(nodes)}PartitionName{partitions}")
    # snakemake-executor-plugin-slurm-jobstep removes SLURM_CONF from a job's environment: commands bring it along.
    for program in PROGRAMS[3:]:
        wrapper = place / "bin" / program
        real = shutil.which(program, path=_search_path())
        wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {real} "$@"\n')
        wrapper.chmod(0o755)
    own = {"SLURM_CONF": str(configuration), "PATH": os.pathsep.join([str(place / "bin"), _search_path()])}
    outer = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    return Cluster(place, outer | own)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def _daemon(command: list[str], cluster: Cluster) -> Iterator[None]:
    with open(
        cluster.place / f"{command[0]}{command[-1] if command[0] == 'slurmd' else ''}.log", "ab"
    ) as log:
        process = subprocess.Popen(command, env=cluster.environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _states(cluster: Cluster) -> list[str]:
    found = subprocess.run(
        ["sinfo", "--noheader", "--format=%t"], env=cluster.environment, capture_output=True, text=True
    )
    return sorted(set(found.stdout.split()))


def _cancel_all(cluster: Cluster) -> None:
    """Jobs end before the daemons do, which would leave their processes behind."""
    cluster.run("scancel", "--user=root")
    _wait_until(lambda: not cluster.run("squeue", "--noheader"), cluster, "an end of all jobs")


def _wait_until(true, cluster: Cluster, what: str) -> None:
    end = time.monotonic() + _SECONDS
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"no {what} within {_SECONDS:.0f} s\n{cluster.logs()}")
        time.sleep(0.1)

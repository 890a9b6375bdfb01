"""What the cluster must have, by what the workflow's jobs ask of it and by what a tiny job on a node sees."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipa import driver
from clipa.launch import GPUS_PER_NODE
from clipa.locks import directory_lock
from clipa.preflight import MISSING, OK, UNKNOWN, Finding, looked
from clipa.slurm import SlurmError, ask, seconds

COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
HOST = "huggingface.co:443"
_QUEUE_SECONDS = 40
_DRY_RUN_SECONDS = 300
_FIELDS = "%P|%a|%l|%D|%c|%m|%G"


class Asked(NamedTuple):
    """What the jobs of one rule ask for; ``minutes`` of the time limit, the rest of each node."""

    rule: str
    jobs: int
    partition: str
    minutes: int
    nodes: int
    cpus: int
    memory_mb: int
    gpus: int
    account: str = ""


class Partition(NamedTuple):
    """``limit``: seconds, or None; the rest is of its largest node."""

    up: bool
    limit: float | None
    nodes: int
    cpus: int
    memory_mb: int
    gpus: int


def asked_of(arguments: Sequence[str]) -> list[Asked]:
    """What the jobs of a dry run with Snakemake's ``arguments`` ask for. RuntimeError, in one line, where it fails."""
    command = [sys.executable, "-m", "clipa.preflight.asked", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_DRY_RUN_SECONDS)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()]
        raise RuntimeError(f"snakemake {' '.join(arguments)} -n: {last[-1] if last else 'failed'}")
    return [_asked(*row) for row in json.loads(done.stdout.splitlines()[-1])]


def _asked(rule: str, jobs: int, threads: int, resources: dict[str, Any]) -> Asked:
    extra = re.search(GPUS_PER_NODE, str(resources.get("slurm_extra", "")))
    return Asked(
        rule,
        jobs,
        str(resources.get("slurm_partition", "")),
        int(resources.get("runtime", 0)),
        int(resources.get("nodes", 1)),
        int(resources.get("cpus_per_task", threads)),
        int(resources.get("mem_mb", 0)),
        int(extra[1]) if extra else int(resources.get("gpu", 0)),
        str(resources.get("slurm_account", "")),
    )


def commands() -> Iterator[Finding]:
    """SLURM's programs on this machine, where Snakemake is started."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    said = (
        f"no {', '.join(missing)} on PATH: start from a login node of the cluster" if missing else "on PATH"
    )
    yield Finding("SLURM's commands", MISSING if missing else OK, said)


def longest(asked: Sequence[Asked]) -> Iterator[Finding]:
    """The plan in one line."""
    yield Finding(
        "plan", OK, driver.longest([(one.rule, one.minutes / 60) for one in asked for _ in range(one.jobs)])
    )


def partitions(asked: Sequence[Asked], known: Mapping[str, Partition]) -> Iterator[Finding]:
    """Each partition that jobs go to: there, up, and with what each rule asks for."""
    by_partition: dict[str, list[Asked]] = defaultdict(list)
    for one in asked:
        by_partition[one.partition].append(one)
    for name, rules in sorted(by_partition.items()):
        what, who = f"partition {name}", ", ".join(sorted({one.rule for one in rules}))
        if name not in known:
            others = ", ".join(known) or "none"
            said = f"there is none (known: {others}); set __variables__ in slurm/config.yaml; {who} go there"
            yield Finding(what, MISSING, said)
            continue
        faults = [fault for one in rules for fault in shortcomings(one, known[name])]
        for fault in faults:
            yield Finding(what, MISSING, fault)
        if not faults:
            yield Finding(what, OK, f"has what {who} ask for")


def known_partitions() -> dict[str, Partition]:
    """The partitions of this cluster by name. Raises SlurmError where SLURM does not answer."""
    return read_partitions(ask("sinfo", "--noheader", f"--format={_FIELDS}"))


def read_partitions(told: str) -> dict[str, Partition]:
    """Partitions by name, from ``sinfo``: lines of one partition and kind of node each."""
    found: dict[str, Partition] = {}
    for line in told.splitlines():
        name, state, limit, nodes, cpus, memory, gres = line.split("|")
        name = name.rstrip("*")
        gpus = sum(int(count) for count in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", gres))
        one = Partition(
            state == "up", seconds(_whole(limit)), int(nodes), _number(cpus), _number(memory), gpus
        )
        before = found.get(name, Partition(one.up, one.limit, 0, 0, 0, 0))
        largest = map(max, before[3:], one[3:])
        found[name] = Partition(one.up, one.limit, before.nodes + one.nodes, *largest)
    return found


def _whole(limit: str) -> str:
    """SLURM leaves out hours that are none: 30:00 is half an hour."""
    return f"00:{limit}" if re.fullmatch(r"\d+:\d\d", limit) else limit


def _number(text: str) -> int:
    return int(text.rstrip("+"))


SCALE_KEYS = {
    "train": "resources in the scale's file",
    "download_images": "download.hours in the scale's file",
    "complete_images": "download.hours in the scale's file",
}


def shortcomings(one: Asked, there: Partition) -> Iterator[str]:
    """What a partition lacks for a rule's jobs, each with what to do."""
    where = SCALE_KEYS.get(one.rule, f"set-resources or set-threads of {one.rule} in slurm/config.yaml")
    if not there.up:
        yield f"is down, {one.rule} would wait; name another in slurm/config.yaml, __variables__"
    if there.limit is not None and one.minutes * 60 > there.limit:
        asked, limit = one.minutes / 60, there.limit / 3600
        yield f"{one.rule} asks for {asked:.1f} h, the limit is {limit:.1f} h, so it would wait for ever; lower {where}"
    for name, needed, has in (
        ("nodes", one.nodes, there.nodes),
        ("cores of a node", one.cpus, there.cpus),
        ("MB of memory of a node", one.memory_mb, there.memory_mb),
        ("GPUs of a node", one.gpus, there.gpus),
    ):
        if needed > has:
            yield f"{one.rule} asks for {needed} {name}, it has {has}; lower {where}, or name another partition"


def accounts(asked: Sequence[Asked]) -> Iterator[Finding]:
    """Whether SLURM takes a job of each partition: it is tested, not submitted."""
    for name, account in sorted({(one.partition, one.account) for one in asked}):
        command = ["sbatch", "--test-only", f"--partition={name}", "--time=1", "--mem=100", "--wrap=true"]
        command += [f"--account={account}"] if account else []
        what = f"account on {name}"
        try:
            ask(*command)
            yield Finding(what, OK, f"SLURM takes a job{f' of account {account}' if account else ''}")
        except SlurmError as error:
            said = str(error).partition(": ")[2]
            yield Finding(what, MISSING, f"{said}; slurm_account or slurm_partition in slurm/config.yaml")


def nodes(asked: Sequence[Asked], folder: Path, host: str = HOST) -> Iterator[Finding]:
    """What a tiny job of each partition sees: this disk, its locks, and the internet where jobs download."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted({one.partition for one in asked}):
        rules = {one.rule for one in asked if one.partition == name}
        account = next((one.account for one in asked if one.partition == name), "")
        with tempfile.TemporaryDirectory(prefix=".preflight-", dir=folder) as place:
            (Path(place) / "seen").write_text("seen", encoding="utf-8")
            with directory_lock(Path(place), "preflight"):
                yield from _node(name, account, rules, Path(place), host)


def _node(name: str, account: str, rules: set[str], place: Path, host: str) -> Iterator[Finding]:
    what = f"node of {name}"
    command = [
        "srun",
        f"--partition={name}",
        f"--immediate={_QUEUE_SECONDS}",
        "--time=2",
        "--mem=500",
        "--quiet",
    ]
    command += [f"--account={account}"] if account else []
    command += [sys.executable, "-m", "clipa.preflight.node", str(place.resolve()), host]
    source = str(Path(__file__).parents[2])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=_QUEUE_SECONDS + 60,
        env=os.environ | {"PYTHONPATH": source},
    )
    try:
        seen = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        yield Finding(what, UNKNOWN, f"a tiny job did not run within {_QUEUE_SECONDS} s ({said[:200]})")
        return
    at = f"{seen['node']}:"
    cures = {
        "seen": ("sees this folder", "does not see this folder: clone into a disk that all nodes share"),
        "locked": (
            "respects locks of other nodes",
            f"takes a lock that is held here: mount {place.parent} with flock (Lustre) or local_lock=none (NFS)",
        ),
    }
    if any("download" in rule or rule == "complete_images" for rule in rules):
        cures["internet"] = (
            f"reaches {host}",
            f"does not reach {host}: set internet in slurm/config.yaml to a partition that does",
        )
    if "train" in rules:
        cures["scontrol"] = (
            "has scontrol",
            "has no scontrol, with which a training continues after its time limit",
        )
    for key, (good, bad) in cures.items():
        yield Finding(what, OK if seen[key] else MISSING, f"{at} {good if seen[key] else bad}")


def seen(asked: Sequence[Asked], folder: Path | None, host: str = HOST) -> Iterator[Finding]:
    """Partitions, accounts, and what nodes see from ``folder`` (none: not looked at). What is not there is said once: a
    SLURM that does not answer, and a partition that SLURM does not know.
    """
    try:
        known = known_partitions()
    except SlurmError as error:
        yield Finding("partitions", UNKNOWN, str(error))
        return
    there = [one for one in asked if one.partition in known]
    yield from looked("partitions", partitions, asked, known)
    yield from looked("accounts", accounts, there)
    if folder is not None:
        yield from looked("nodes", nodes, there, folder, host)

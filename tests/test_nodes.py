"""A stage on several nodes trains what one process trains, and resumes with another number of processes and nodes.

Two "nodes" are two agents on this machine: started by hand, as without SLURM, and by ``srun`` under a private SLURM.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from clipa.config import Resources
from clipa.data.dealing import own_places
from clipa.launch import INTERRUPTED, job_resources, launch, srun, torchrun
from clipa.plan import load_plan
from clipa.resolved import write
from clipa.slurm import LOG
from clipa.stages import Stage, resolve
from private_slurm import Cluster, private_slurm
from small_training import STEPS, losses, resolved, tiny_scale, tiny_stages
from small_world import draw_small_world
from workflow_tree import workflow_tree

TESTS = Path(__file__).parent
RUN = "S16-random49-truncation32"
CLOSE = {
    "abs": 2e-4
}  # losses; of weights together 1e-3, relative: what another order of sums leaves after 12 steps
STOP = (
    "os.kill(os.getppid(), signal.SIGTERM); time.sleep(3)"  # the agent passes it on while this process waits
)


def stage_of(processes: int, nodes: int = 1, **others: object) -> Stage:
    resources = tiny_scale().resources.model_dump() | {"nodes": nodes, "cpus": 2}
    return tiny_stages(RUN, processes=processes, resources=resources, schedule={"microbatch": 2}, **others)[0]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nodes")
    draw_small_world(tiny_scale(), root, ())
    return root


def environment(place: Path, **others: str) -> dict[str, str]:
    """For ``clipa train``; the process of rank 1 does what ``MOMENT`` says in ``STEPS``, before its seventh update."""
    (place / "sitecustomize.py").write_text(
        "import os\n"
        'if os.environ.get("RANK") == "1" and os.environ.get("MOMENT"):\n'
        "    import signal, time\n"
        "    from clipa import train\n"
        "    rate = train.learning_rate\n"
        "    def disturbed(step, *others):\n"
        '        if str(step) in os.environ.get("STEPS", "6").split():\n'
        '            exec(os.environ["MOMENT"])\n'
        "        return rate(step, *others)\n"
        "    train.learning_rate = disturbed\n"
    )
    paths = [str(place), str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | others


def train(root: Path, stage: Stage, runs: str, **others: str) -> list[tuple[int, str]]:
    """Exit codes and messages of ``clipa train FILE`` on each of the stage's nodes."""
    file, nodes = write(resolved(stage, root, runs)), stage.scale.resources.nodes
    if nodes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            others |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    asked = {"env": environment(root, **others), "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    command = [sys.executable, "-m", "clipa", "train", str(file)]
    started = [subprocess.Popen(command, text=True, **asked) for _ in range(nodes)]
    try:
        said = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def made(root: Path, runs: str, stage: Stage) -> tuple[list[int], torch.Tensor]:
    """World sizes that trained a stage, and all its exported weights."""
    directory = root / runs / stage.directory
    weights = load_file(directory / "open_clip" / "open_clip_model.safetensors")
    sealed = json.loads((directory / "stage.json").read_text(encoding="utf-8"))
    return sealed["processes"], torch.cat([weights[name].flatten() for name in sorted(weights)])


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / one.norm()).item()


@pytest.fixture(scope="module")
def alone(root: Path) -> tuple[list[float], torch.Tensor]:
    """Losses and weights of one process."""
    stage = stage_of(1)
    [(code, said)] = train(root, stage, "alone")
    assert code == 0, said
    return losses(root, "alone", stage), made(root, "alone", stage)[1]


@pytest.fixture(scope="module")
def spread(root: Path) -> Stage:
    """A stage that two processes on each of two nodes have trained, each with three loaders: they share four lanes."""
    data = tiny_scale().data.model_dump() | {"workers": 3}
    stage = stage_of(4, 2, data=data)
    ended = train(root, stage, "spread")
    assert [code for code, _ in ended] == [0, 0], ended
    return stage


def test_two_nodes_train_what_one_process_does(root: Path, alone, spread: Stage) -> None:
    processes, weights = made(root, "spread", spread)
    found = losses(root, "spread", spread)
    assert processes == [4] and len(found) == STEPS
    assert found == pytest.approx(alone[0], **CLOSE) and difference(alone[1], weights) < 1e-3


@pytest.mark.parametrize("sharded", [False, True], ids=["replicated", "sharded"])
def test_a_stage_resumes_on_another_number_of_processes_and_nodes(root: Path, alone, sharded: bool) -> None:
    """Two processes of one node are stopped by SIGTERM to their agent; two nodes resume from their checkpoint.

    Sharded: over the processes of each node, with a copy on the other.
    """
    two, four = stage_of(2, sharded=sharded), stage_of(4, 2, sharded=sharded)
    assert two.fingerprint == four.fingerprint
    runs = f"resumed-{sharded}"
    [(code, said)] = train(root, two, runs, MOMENT=STOP)
    assert code == INTERRUPTED and "stopped after step 7 of 12" in said, said
    ended = train(root, four, runs)
    assert [code for code, _ in ended] == [0, 0], ended
    processes, weights = made(root, runs, four)
    assert processes == [2, 4]
    assert losses(root, runs, four) == pytest.approx(alone[0], **CLOSE)
    assert difference(alone[1], weights) < 1e-3


def test_a_process_that_is_killed_ends_all_with_one_line(root: Path) -> None:
    ended = train(root, stage_of(2, 2), "killed", MOMENT="os.kill(os.getpid(), signal.SIGKILL)")
    assert [code for code, _ in ended] == [1, 1], ended
    assert any("processes ended by rank: 1 with -9" in said for _, said in ended), ended
    assert not any("ChildFailedError" in said for _, said in ended)


def test_nodes_that_cannot_meet_say_so_in_one_line(root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1]), "SLURM_NODEID": "0"}
        command = [
            sys.executable,
            "-m",
            "clipa",
            "train",
            str(write(resolved(stage_of(2, 2), root, "apart"))),
        ]
        asked = {"env": environment(root, **place), "capture_output": True, "text": True, "timeout": 120}
        done = subprocess.run(command, **asked)
    [line] = [line for line in done.stderr.splitlines() if line.startswith("clipa train: ")]
    assert done.returncode == 1 and "the nodes did not meet" in line and "Traceback" not in done.stderr


def test_several_nodes_are_started_in_a_job_or_by_hand(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "MASTER_ADDR", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    stage = resolved(stage_of(4, 2), root)
    with pytest.raises(ValueError, match="trains on 2 nodes: start this command in a SLURM job") as refusal:
        launch(stage, ["train", "FILE"])
    assert "\n" not in str(refusal.value)
    assert launch(resolved(stage_of(1), root), ["train", "FILE"]) is None


def test_what_is_launched_names_its_whole_geometry(root: Path) -> None:
    stage = resolved(stage_of(4, 2), root)
    on_gpus = stage.model_copy(update={"content": stage.content.model_copy(update={"device": "cuda"})})
    assert "--gpus-per-node=2" in srun(on_gpus) and not any("gpus" in word for word in srun(stage))
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=2"} <= set(srun(stage))
    assert "--standalone" in torchrun(resolved(stage_of(2), root), {})
    met = torchrun(stage, {"MASTER_ADDR": "node1"})
    assert "--rdzv-endpoint=node1:29400" in met and "--nproc-per-node=2" in met
    first, second = (
        torchrun(stage, {"MASTER_ADDR": "node1", "MASTER_PORT": "1", "SLURM_NODEID": number})
        for number in ("0", "1")
    )
    assert "--rdzv-conf=is_host=1" in first and "--rdzv-conf=is_host=0" in second


def test_what_a_job_asks_of_the_scheduler() -> None:
    one = Resources(gpus=8, cpus=96, memory_mb=1000, runtime_minutes=60)
    assert job_resources(one) == {"mem_mb": 1000, "runtime": 60, "nodes": 1, "gpu": 8}
    four = job_resources(one.model_copy(update={"nodes": 4}))
    assert "gpu" not in four and (four["nodes"], four["tasks"], four["mpi"]) == (4, 4, "srun")
    assert four["slurm_extra"] == "--ntasks-per-node=1 --gpus-per-node=8"


def test_the_papers_scale_on_two_nodes_is_the_same_stages(tmp_path: Path) -> None:
    """Sixteen processes with eight loaders each, of 64 lanes; NegCLIP's batch of 256 of eight lanes, too."""
    shutil.copytree(TESTS.parent / "config", tmp_path / "config")
    file = tmp_path / "config" / "scales" / "paper.yaml"
    scale = yaml.safe_load(file.read_text(encoding="utf-8"))
    on_eight = load_plan({"scale": "paper", "seeds": [0]}, tmp_path)
    scale["resources"]["nodes"], scale["processes"] = 2, 16
    file.write_text(yaml.safe_dump(scale), encoding="utf-8")
    plan = load_plan({"scale": "paper", "seeds": [0]}, tmp_path)
    assert plan.stages.keys() == on_eight.stages.keys() and len(plan.stages) == 264
    for stage in plan.stages.values():
        launched = resolve(stage, plan.project)
        assert (launched.processes, launched.nodes) == (16, 2)
        assert (
            len(own_places(stage.data.lanes, stage.schedule.batch_size, 15, 16)) * 16
            == stage.schedule.batch_size
        )


# ------------------------------------------------------------------------------------------------ under SLURM


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster | None]:
    with private_slurm(tmp_path_factory.mktemp("slurm"), kill_wait=30) as cluster:
        yield cluster


def submitted(cluster: Cluster, root: Path, stage: Stage, runs: str, **others: str) -> tuple[str, str]:
    """The state in which a job ends that trains a stage on all its nodes, and what it said."""
    file, log = write(resolved(stage, root, runs)), root / f"{runs}.log"
    nodes = stage.scale.resources.nodes
    command = f"exec {shlex.join([sys.executable, '-m', 'clipa', 'train', str(file)])}"
    asked = [f"--nodes={nodes}", "--ntasks-per-node=1", "--cpus-per-task=2", f"--output={log}"]
    own = {
        name: value
        for name, value in cluster.environment.items()
        if name in ("PATH", "SLURM_CONF") or name not in os.environ
    }
    job = cluster.run(
        "sbatch", "--parsable", *asked, "--wrap", command, env=environment(root, **own, **others)
    )
    state = cluster.wait(job.strip())
    return state, log.read_text(encoding="utf-8")


CANCEL = 'os.system("scancel --signal=TERM $SLURM_JOB_ID"); time.sleep(3)'


def test_slurm_starts_both_nodes_and_the_same_bits_come_out(root: Path, slurm, spread: Stage) -> None:
    """SIGTERM to all that runs in the job, as at its time limit: all save and end with 75, and so does the job. Started
    again, it ends as without SLURM and undisturbed.
    """
    if slurm is None:
        return
    state, said = submitted(slurm, root, spread, "slurm", MOMENT=CANCEL)
    assert state == "FAILED" and "stopped after step 7 of 12" in said, said
    assert "Exited with exit code 75" in said
    state, said = submitted(slurm, root, spread, "slurm")
    assert state == "COMPLETED", said
    assert losses(root, "slurm", spread) == losses(root, "spread", spread)
    assert torch.equal(made(root, "slurm", spread)[1], made(root, "spread", spread)[1])


def test_snakemake_submits_a_job_of_two_nodes(root: Path, slurm, spread: Stage) -> None:
    """The workflow, its profile and Snakemake's SLURM plugin, on the stage that was trained without them."""
    if slurm is None:
        return
    scale = spread.scale.model_dump(mode="json", exclude={"name", "config_directory"})
    scale["experiments"], scale["resources"]["gpus"] = ["table11"], 2
    tree = workflow_tree(root / "tree", "micro-v1", scale)
    places = f"runs_directory={root}/workflow", f"data_directory={root}/data"
    target = root / "workflow" / spread.directory / "stage.json"
    options = ["--profile", "slurm", "--slurm-init-seconds-before-status-checks", "2"]
    own = {name: value for name, value in slurm.environment.items() if name != "PYTHONPATH"}
    command = [
        sys.executable,
        "-m",
        "snakemake",
        str(target),
        *options,
        "--config",
        "scale=micro-v1",
        *places,
    ]
    done = subprocess.run(command, cwd=tree, env=own, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert torch.equal(made(root, "workflow", spread)[1], made(root, "spread", spread)[1])


CUT = "os.kill(os.getpid(), signal.SIGUSR1)"
"""To one process of four: time is up. (SLURM's shortest limit is a minute.)"""


def test_a_job_of_two_nodes_is_continued_on_another_number_of_processes(
    root: Path, slurm, alone, spread: Stage
) -> None:
    """Two processes on each of two nodes, cut off twice; then SLURM has one node only, for two processes.

    `benchmarks/chain.py` does this with SLURM's own time limits.
    """
    if slurm is None:
        return
    told, job = chained(slurm, root, "chain", 50, MOMENT=CUT, STEPS="3 7")
    assert [what for _, what in told] == [
        "4 processes start after step 0",
        "stopped after step 4 of 12; start again to resume",
        "4 processes start after step 4",
        "stopped after step 8 of 12; start again to resume",
        "2 processes start after step 8",
        "finished after step 12",
    ]
    processes, weights = made(root, "chain", spread)
    assert {number for number, _ in told} == {job} and processes == [4, 2]
    found = losses(root, "chain", spread)
    assert found[:8] == losses(root, "spread", spread)[:8]
    assert found == pytest.approx(alone[0], **CLOSE) and difference(alone[1], weights) < 1e-3


def chained(
    slurm: Cluster, root: Path, runs: str, minutes: int, **variables: str
) -> tuple[list[tuple[str, str]], str]:
    """Train in one job until it has put itself back into the queue twice, the last time on fewer processes.

    Returns the stage's log of jobs, as (number, what), and the job's number. AssertionError, with what the job said,
    where it does not finish.
    """
    four, two, log = stage_of(4, 2), stage_of(2), root / f"{runs}.log"
    assert two.fingerprint == four.fingerprint
    file = write(resolved(four, root, runs))
    command = f"exec {shlex.join([sys.executable, '-m', 'clipa', 'train', '--requeue', str(file)])}"
    asked = ["--requeue", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2", f"--time={minutes}"]
    asked += ["--open-mode=append", f"--output={log}"]
    own = {name: value for name, value in slurm.environment.items() if os.environ.get(name) != value}
    job = slurm.run(
        "sbatch", "--parsable", *asked, "--wrap", command, env=environment(root, **own, **variables)
    ).strip()
    for number in (1, 2):
        assert waited(lambda number=number: restarts(slurm, job) == number, 180 + 60 * minutes), (
            log.read_text()
        )
        if number == 2:
            slurm.run("scontrol", "update", f"JobId={job}", "NumNodes=1", "NumTasks=1")
            write(resolved(two, root, runs))
        slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")  # not in two minutes
    assert slurm.wait(job) == "COMPLETED", log.read_text()
    told = (root / runs / four.directory / LOG).read_text(encoding="utf-8")
    return re.findall(r" job (\d+) on \S+: (.*)", told), job


def restarts(slurm: Cluster, job: str) -> int:
    """How often SLURM was asked to start a job again; -1 while it is not waiting for that."""
    shown = slurm.run("scontrol", "show", "job", "--oneliner", job)
    return int(re.search(r"Restarts=(\d+)", shown)[1]) if "JobState=PENDING" in shown else -1


def waited(true: Callable[[], bool], seconds: float = 180) -> bool:
    end = time.monotonic() + seconds
    while not (value := true()) and time.monotonic() < end:
        time.sleep(0.3)
    return value

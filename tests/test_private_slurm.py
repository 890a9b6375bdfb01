"""The SLURM that tests bring along: two nodes with GPUs, which only see what was asked for, and nothing left behind."""

from pathlib import Path

from private_slurm import private_slurm


def test_a_job_spans_two_nodes_and_gets_its_gpus(tmp_path: Path) -> None:
    with private_slurm(tmp_path) as cluster:
        if cluster is None:
            return
        told = 'echo "$SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"'
        asked = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=2")
        said = cluster.run("srun", *asked, "bash", "-c", told)
        assert sorted(said.splitlines()) == ["n1 0,1", "n2 0,1"]

        job = cluster.run("sbatch", "--parsable", "--output=/dev/null", "--wrap", "exit 3").strip()
        assert cluster.wait(job) == "FAILED"
        endless = cluster.run("sbatch", "--parsable", "--output=/dev/null", "--wrap", "sleep 1000").strip()
        assert cluster.state(endless) in ("PENDING", "RUNNING")
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(tmp_path) in (process / "environ").read_bytes().decode(errors="replace"):
                left.append((process / "cmdline").read_bytes())
        except OSError:  # ended meanwhile
            continue
    assert not left

"""The SLURM that tests bring along: two nodes with GPUs, which only see what was asked for, and nothing left behind."""

from pathlib import Path

import pytest

import private_slurm as module
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


def test_without_slurm_tests_say_so_and_fail_only_where_it_was_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "PROGRAMS", ("no-such-program",))
    monkeypatch.setenv("CI", "true")
    monkeypatch.delenv("WITHOUT_SLURM", raising=False)
    with pytest.raises(AssertionError, match="install slurm-wlm munge"), private_slurm(tmp_path):
        pass
    monkeypatch.setenv("WITHOUT_SLURM", "true")  # as .ci/run does where apt-get cannot install it
    with private_slurm(tmp_path) as cluster:
        assert cluster is None
    assert capsys.readouterr().out == "not tested under SLURM: install slurm-wlm munge (Debian)\n"

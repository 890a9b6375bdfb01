"""Checkpoints are complete or absent, and damage is found."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clipa import checkpoint

METADATA = {"fingerprint": "aaaa", "losses": [1.5]}


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"model.weight": torch.full((64, 64), value), "optimizer.weight.step": torch.tensor(value)}


def test_round_trip_is_exact_and_two_are_kept(tmp_path: Path) -> None:
    for step in (3, 6, 9):
        checkpoint.save(tmp_path, step, tensors(step / 7), METADATA)
    assert len(list(tmp_path.iterdir())) == 2
    step, loaded, metadata = checkpoint.load_latest(tmp_path, "aaaa")
    assert step == 9 and metadata == METADATA
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors(9 / 7).items())


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_a_damaged_file_is_named_and_the_one_before_used(tmp_path: Path, capsys, damage: str) -> None:
    checkpoint.save(tmp_path, 3, tensors(3.0), METADATA)
    newest = checkpoint.save(tmp_path, 6, tensors(6.0), METADATA)
    content = bytearray(newest.read_bytes())
    if damage == "truncate":
        content = content[: len(content) // 2]
    else:
        content[-1000] ^= 1
    newest.write_bytes(content)
    step, loaded, _ = checkpoint.load_latest(tmp_path, "aaaa")
    assert step == 3 and loaded["model.weight"][0, 0] == 3.0
    assert newest.name in capsys.readouterr().err


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 3, tensors(3.0), METADATA)
    with pytest.raises(checkpoint.CheckpointMismatch, match=r"aaaa, this stage is bbbb"):
        checkpoint.load_latest(tmp_path, "bbbb")


def test_nothing_there(tmp_path: Path) -> None:
    assert checkpoint.load_latest(tmp_path, "aaaa") is None


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from clipa import checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    checkpoint.save(Path(sys.argv[1]), 6, {"model.weight": torch.zeros(64, 64)}, {"fingerprint": "aaaa"})
except OSError as error:
    print("OSError", error)
"""


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """The kernel refuses to write past 8 kB, as a full disk does in the middle of a file."""
    checkpoint.save(tmp_path, 3, tensors(3.0), METADATA)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.startswith("OSError"), done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_renamed_checkpoint_is_not_taken_for_another_step(tmp_path: Path, capsys) -> None:
    checkpoint.save(tmp_path, 3, tensors(3.0), METADATA | {"step": 3})
    newest = checkpoint.save(tmp_path, 6, tensors(6.0), METADATA | {"step": 6})
    newest.rename(tmp_path / newest.name.replace("000000006", "000000009"))
    assert checkpoint.load_latest(tmp_path, "aaaa")[0] == 3
    assert "holds step 6, not its name's" in capsys.readouterr().err


def test_what_a_kill_left_of_safetensors_own_file_is_deleted(tmp_path: Path) -> None:
    """It writes to `.tmp` and six random letters beside its place, and renames."""
    for name in (".tmphpKFFO", ".tmp-notes.txt"):
        (tmp_path / name).write_text("part")
    assert checkpoint.load_latest(tmp_path, "any") is None
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-notes.txt"]

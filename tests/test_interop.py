"""What we write, others read: open_clip loads our models without us, and its own trainer trains on our shards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipa.config import Project
from clipa.models import build
from clipa.resolved import data_slug
from clipa.stages import stages_of
from clipa.study import parse_run
from small_world import draw_small_world, finish_untrained, small_scale

ENVIRONMENT = {
    **{
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "SLURM_NTASKS", "WORLD_SIZE")
    },
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "disabled",
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, Path]:
    """(Folder of 256 drawn samples in four shards, exported micro-v1 model at resize 64)."""
    root = tmp_path_factory.mktemp("world")
    scale = small_scale(training_images=256, images_per_shard=64)
    project = draw_small_world(scale, root, ())
    stage = stages_of(parse_run("S16-resize64-truncation32"), scale, seed=0)[0]
    return root / "data" / data_slug(scale.data) / "train", finish_untrained(stage, project)


LOAD = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "clipa":
            raise ImportError("clipa must not be needed")
sys.meta_path.insert(0, Refuse())
import open_clip, torch
from safetensors.torch import load_file
folder = sys.argv[1]
model = open_clip.create_model(f"local-dir:{folder}")
stored = load_file(f"{folder}/open_clip_model.safetensors")
state = model.state_dict()
assert set(state) == set(stored) and all(torch.equal(state[name], stored[name]) for name in stored)
tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["photo of the umbrella"])
images = torch.zeros(1, 3, model.visual.image_size[0], model.visual.image_size[1])
image, text, scale = model(images, tokens)
assert image.shape == text.shape and len(image) == 1 and tokens[0, 0] == 2 and tokens.shape == (1, 32)
try:
    import clipa
except ImportError:
    print("loaded without clipa at", model.visual.image_size)
"""
FEATURES = """
import open_clip, sys, torch
from safetensors.torch import load_file, save_file
model = open_clip.create_model(f"local-dir:{sys.argv[1]}").eval()
with torch.no_grad():
    image, text, _ = model(**load_file(sys.argv[2]))
save_file({"image": image, "text": text}, sys.argv[3])
"""


def test_an_exported_model_loads_in_open_clip_without_our_code(world):
    _, export = world
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(export)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "loaded without clipa at (12, 12)"


@pytest.mark.parametrize("recipe", ["tanh", "moco-v3"])
def test_open_clip_computes_the_same_features_of_variants(world, tmp_path, recipe):
    """open_clip's own switch chooses the GELU; positions that it has no formula for come with the weights."""
    train, _ = world
    project = Project(data_directory=str(train.parents[1]), runs_directory=str(tmp_path / "runs"))
    scale = small_scale(training_images=256, images_per_shard=64)
    stage = stages_of(parse_run(f"S16-resize64-truncation32-{recipe}"), scale, seed=0)[0]
    export = finish_untrained(stage, project)
    drawn = torch.Generator().manual_seed(0)
    asked = {
        "image": torch.randn(4, 3, stage.image_size, stage.image_size, generator=drawn),
        "text": torch.randint(0, 700, (4, 32), generator=drawn),
    }
    save_file(asked, tmp_path / "asked.safetensors")
    places = [
        str(place) for place in (export, tmp_path / "asked.safetensors", tmp_path / "found.safetensors")
    ]
    subprocess.run([sys.executable, "-c", FEATURES, *places], env=ENVIRONMENT, check=True, timeout=120)
    found = load_file(tmp_path / "found.safetensors")
    model = build(stage.model_config, stage.seed, positions=stage.positions).eval()
    with torch.no_grad():
        expected = model.encode_image(asked["image"], normalize=True)
        assert torch.allclose(found["image"], expected, atol=1e-6)
        assert torch.allclose(found["text"], model.encode_text(asked["text"], normalize=True), atol=1e-6)
        plain = build(stages_of(parse_run("S16-resize64-truncation32"), scale, 0)[0].model_config, 0).eval()
        assert not torch.allclose(plain.encode_image(asked["image"], normalize=True), expected, atol=1e-6)


BENCHMARK = Path(__file__).resolve().parent.parent / ".venv-benchmark" / "bin" / "python"
"""The environment of open_clip's own trainer, which breaks with the webdataset of the training environment."""


def test_open_clips_own_trainer_trains_an_epoch_on_our_shards(world, tmp_path):
    if not BENCHMARK.exists():
        assert not os.environ.get("CI"), "make benchmark first"
        print("not run: open_clip's own trainer is not installed (make benchmark)")
        return
    train, export = world
    command = [
        *(str(BENCHMARK), "-m", "open_clip_train.main"),
        *("--model", f"local-dir:{export}"),
        *("--train-data", f"{train}/{{00000..00003}}.tar", "--train-num-samples", "256"),
        *("--dataset-type", "webdataset", "--workers", "0", "--device", "cpu", "--precision", "fp32"),
        *("--batch-size", "64", "--epochs", "1", "--warmup", "2", "--lr", "1e-3", "--log-every-n-steps", "1"),
        *("--beta1", "0.9", "--beta2", "0.95", "--wd", "0.2", "--logs", str(tmp_path), "--name", "epoch"),
    ]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    log = (tmp_path / "epoch" / "out.log").read_text()
    assert "256/256 (100%)" in log
    assert (tmp_path / "epoch" / "checkpoints" / "epoch_1.pt").is_file()


def test_the_text_beside_each_picture_is_its_first_caption(world):
    """open_clip's trainer reads .txt; the other captions are in .json."""
    import tarfile

    train, _ = world
    with tarfile.open(train / "00000.tar") as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive}
    keys = {name.split(".")[0] for name in content}
    assert len(keys) == 64 and len(content) == 3 * 64
    for key in keys:
        assert content[f"{key}.txt"].decode() == json.loads(content[f"{key}.json"])["captions"][0]
        assert content[f"{key}.jpg"].startswith(b"\xff\xd8")

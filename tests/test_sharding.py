"""A sharded stage trains what one process trains, and resumes with any world size."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from clipa import checkpoint, distributed, models
from clipa.config import Augmentation, ConfigError, load_scale
from clipa.files import sha256_of
from clipa.losses import backward
from clipa.resolved import data_slug
from small_training import STEPS, TORCHRUN, losses, tiny_scale, tiny_stages
from small_world import CONFIG, draw_small_world
from test_train import outcome, run

TESTS = Path(__file__).parent
RUN = "S16-random49-truncation32"
SCHEDULE = {"microbatch": 4, "activation_checkpointing": "selective"}
DAMAGED = 5


def scenario(runs: str, processes: int, **others: object) -> dict:
    stage = {"run": RUN, "sharded": True, "processes": processes, "schedule": SCHEDULE}
    return {"runs": runs, "stage": stage, **others}


STAGES = tiny_stages(**scenario("", 1)["stage"])


def die(step: int, number: int = 9, moment: str = "update", **others: object) -> dict:
    return {"die": moment, "step": step, "signal": number, **others}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world in which a few images cannot be decoded, for each process to count its own."""
    root = tmp_path_factory.mktemp("sharded")
    draw_small_world(tiny_scale(), root, ())
    train = root / "data" / data_slug(tiny_scale().data) / "train"
    for path in sorted(train.glob("*.tar"))[:DAMAGED]:
        with tarfile.open(path) as shard:
            image = next(member for member in shard if not member.name.endswith((".txt", ".json")))
        with open(path, "rb+") as file:
            file.seek(image.offset_data)
            file.write(bytes(image.size))
    manifest = (
        train / "manifest.json"
    )  # images that were undecodable when the data was indexed: the digests fit
    content = json.loads(manifest.read_text(encoding="utf-8"))
    for shard in content["shards"]:
        shard["sha256"] = sha256_of(train / shard["name"])
    manifest.write_text(json.dumps(content), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def codes(world: Path) -> dict[str, Any]:
    """Exit codes by folder of all stages of this file: one process, two, and one that resumes after two."""
    wild = scenario("wild", 2)
    rate = {"base_lr": {"S/16": 1e30}, "warmup_steps": 0}
    wild["stage"] = wild["stage"] | {"schedule": SCHEDULE | rate}
    launches = [
        ((), [scenario("one", 1, both=True), scenario("one-two", 1, **die(7))]),
        (
            TORCHRUN,
            [
                scenario("two", 2, both=True),
                scenario("killed", 2, **die(2, moment="write", rank=0)),
                scenario("killed", 2, **die(8, rank=1)),
                scenario("killed", 2, **die(1, moment="write", rank=1)),
                scenario("killed", 2),
                scenario("term", 2, **die(4, 15, rank=1)),
                scenario("term", 2),
                *(
                    scenario(f"pass-{number}", 2, **others)
                    for number in (17, 18, 19)
                    for others in (die(number, 15, moment="pass", rank=1), {})
                ),
                scenario("two-one", 2, **die(7, rank=0)),
                scenario("one-two", 2),
                wild,
            ],
        ),
        ((), [scenario("two-one", 1)]),
    ]
    found: dict[str, Any] = {}
    for launcher, scenarios in launches:
        made, said = run(world, *scenarios, launcher=launcher)
        print(said)
        found["said"] = found.get("said", "") + said
        for each, code in zip(scenarios, made, strict=True):
            found.setdefault(each["runs"], []).append(code)
    return found


def exported(world: Path, runs: str, stage=STAGES[0]) -> dict[str, torch.Tensor]:
    return load_file(world / runs / stage.directory / "open_clip" / "open_clip_model.safetensors")


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Of all weights together, relative. (The biases of keys have no gradient but rounding, and AdamW enlarges it.)"""
    assert one.keys() == other.keys()
    one, other = (torch.cat([weights.flatten() for weights in all_.values()]) for all_ in (one, other))
    return ((one - other).norm() / one.norm()).item()


def test_the_number_of_processes_is_no_part_of_a_sharded_stages_identity() -> None:
    two = tiny_stages(**scenario("", 2)["stage"])
    assert [stage.fingerprint for stage in two] == [stage.fingerprint for stage in STAGES]
    equals = [tiny_stages(RUN, processes=n)[0].fingerprint for n in (1, 2)]
    assert len({*equals, STAGES[0].fingerprint}) == 3


@pytest.mark.parametrize("stage", STAGES, ids=["pretrain", "finetune"])
def test_two_processes_train_what_one_does(world: Path, codes, stage) -> None:
    """Masked, with gradient caching and activation checkpointing, then fine-tuned from the full state dict."""
    assert codes["one"] == codes["two"] == [0]
    one, two = losses(world, "one", stage), losses(world, "two", stage)
    assert len(one) == STEPS and one == pytest.approx(two, abs=2e-4)
    assert difference(exported(world, "one", stage), exported(world, "two", stage)) < 1e-3


@pytest.mark.parametrize(("runs", "deaths"), [("killed", [-9, 1, 1]), ("term", [75])])
def test_killed_and_started_again_two_processes_end_with_the_same_bits(world, codes, runs, deaths) -> None:
    """The first killed in a save, the second before an update and in a save (the first then fails); the second asked
    to stop.
    """
    assert codes[runs] == [*deaths, 0]
    assert outcome(world, runs, STAGES[0]) == outcome(world, "two", STAGES[0])


@pytest.mark.parametrize("passes", [17, 18, 19])
def test_one_process_is_asked_to_stop_within_a_step(world: Path, codes, passes: int) -> None:
    """Of four passes a step: two without gradients, two with them. Both processes leave after the same pass."""
    assert codes[f"pass-{passes}"] == [75, 0] and codes["said"].count("stopped after step 4 of 12") == 2 * 3
    assert outcome(world, f"pass-{passes}", STAGES[0]) == outcome(world, "two", STAGES[0])


@pytest.mark.parametrize(("runs", "processes"), [("two-one", [2, 1]), ("one-two", [1, 2])])
def test_another_number_of_processes_resumes(world: Path, codes, runs: str, processes: list[int]) -> None:
    assert codes[runs] == [-9, 0]
    made = json.loads((world / runs / STAGES[0].directory / "stage.json").read_text())
    assert made["processes"] == processes
    first = {1: "one", 2: "two"}[processes[0]]
    found, one = (losses(world, name, STAGES[0]) for name in (runs, "one"))
    assert found[:6] == losses(world, first, STAGES[0])[:6] and found == pytest.approx(one, abs=2e-4)
    assert difference(exported(world, "one"), exported(world, runs)) < 1e-3


def whole(stored: checkpoint.StoredTensors | checkpoint.StoredShards) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint."""
    if isinstance(stored, checkpoint.StoredTensors):
        return dict(stored)
    tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in stored.shapes().items()}
    stored.read_into(tensors)
    return tensors


def test_each_process_writes_its_part_of_a_checkpoint(world: Path, codes) -> None:
    """Nothing twice: together the parts are as large as one process's file."""
    [one] = (world / "one" / STAGES[0].directory).glob(f"checkpoint-{STEPS:09d}-*")
    [two] = (world / "two" / STAGES[0].directory).glob(f"checkpoint-{STEPS:09d}-*")
    sizes = [sum(t.nbytes for t in load_file(part).values()) for part in sorted(two.glob("*.safetensors"))]
    together = sum(t.nbytes for t in load_file(one).values())
    assert len(sizes) == 2 and sum(sizes) == together and max(sizes) < 0.55 * together
    assert len(list(two.iterdir())) == 3  # and the index


@pytest.mark.parametrize("damage", ["flip", "missing", "index", "none", "stranger"])
def test_a_damaged_part_is_noticed_and_the_checkpoint_before_used(
    world: Path, codes, tmp_path: Path, capsys, damage: str
) -> None:
    directory = shutil.copytree(world / "two" / STAGES[0].directory, tmp_path / "stage")
    [newest] = directory.glob(f"checkpoint-{STEPS:09d}-*")
    [part, other] = sorted(newest.glob("*.safetensors"))
    content = bytearray(part.read_bytes())
    content[-1000] ^= 1
    index = newest / "checkpoint.json"
    harm = {
        "flip": lambda: part.write_bytes(content),
        "missing": other.unlink,
        "index": lambda: index.write_text(
            index.read_text(encoding="utf-8").replace('"step": 12', '"step": 13')
        ),
        "none": index.unlink,
        "stranger": lambda: (newest / "shard-3.safetensors").write_bytes(content),
    }
    harm[damage]()
    step, stored, metadata = checkpoint.load_latest(directory, STAGES[0].fingerprint)
    assert step == metadata["step"] == 9 and newest.name in capsys.readouterr().err
    assert all(torch.isfinite(tensor).all() for tensor in whole(stored).values())


def test_what_a_killed_save_left_is_cleared_away(world: Path, codes) -> None:
    for runs in ("two", "killed", "term"):
        names = [path.name for path in (world / runs / STAGES[0].directory).glob("*checkpoint*")]
        assert len(names) == 2 and all(name.startswith("checkpoint-") for name in names)


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from clipa import checkpoint, distributed
with distributed.process_group(2, "cpu") as rank:
    mesh = init_device_mesh("cpu", (2,))
    tensors = {"model.weight": distribute_tensor(torch.ones(64, 64), mesh, [Shard(0)])}
    checkpoint.save_shards(Path(sys.argv[1]), 3, tensors, {"fingerprint": "aaaa"})
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        checkpoint.save_shards(Path(sys.argv[1]), 6, tensors, {"fingerprint": "aaaa"})
    except OSError as error:
        print("OSError", *str(error).splitlines(), flush=True)
"""


def test_a_full_disk_of_one_process_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """Both processes say why, in one line."""
    (tmp_path / "program.py").write_text(FULL_DISK, encoding="utf-8")
    (tmp_path / "stage").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *TORCHRUN, str(tmp_path / "program.py"), str(tmp_path / "stage")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all(
        line.startswith("OSError ") and "step 6 not written" in line for line in lines
    )
    [left] = (tmp_path / "stage").iterdir()
    step, stored, _ = checkpoint.load_latest(tmp_path / "stage", "aaaa")
    assert step == 3 and left.is_dir() and torch.equal(whole(stored)["model.weight"], torch.ones(64, 64))


def test_checkpoints_and_exports_hold_the_full_state_dict(world: Path, codes) -> None:
    """The same names and shapes as one process writes; open_clip loads the export and gives the same features."""
    import open_clip

    found = []
    for runs in ("one", "two"):
        directory = world / runs / STAGES[0].directory
        step, stored, _ = checkpoint.load_latest(directory, STAGES[0].fingerprint)
        assert step == STEPS
        model = open_clip.create_model(f"local-dir:{directory / 'open_clip'}").eval()
        drawn = torch.Generator().manual_seed(0)
        size = model.visual.image_size
        with torch.no_grad():
            images = model.encode_image(torch.randn(4, 3, *size, generator=drawn), normalize=True)
            texts = model.encode_text(torch.randint(0, 700, (4, 32), generator=drawn), normalize=True)
        found.append(({name: (t.shape, t.dtype) for name, t in whole(stored).items()}, images, texts))
    (one, *features), (two, *others) = found
    assert one == two
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(features, others, strict=True))


def test_divergence_stops_all_processes_before_the_update(world: Path, codes) -> None:
    assert codes["wild"] == [1]
    [folder] = (world / "wild").glob("*/*/*/*")
    assert not (folder / "stage.json").exists()
    for path in folder.glob("checkpoint-*"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(path).values())


def test_undecodable_images_of_all_processes_are_counted(world: Path, codes) -> None:
    counts = [
        json.loads((world / runs / STAGES[0].directory / "stage.json").read_text())["replaced_samples"]
        for runs in ("one", "two", "two-one", "one-two")
    ]
    assert list(counts[0]) == ["an image that cannot be decoded"] and sum(counts[0].values()) > 1
    assert all(count == counts[0] for count in counts)


@pytest.fixture(scope="module")
def sharded() -> dict[str, dict]:
    paths = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *TORCHRUN, str(TESTS / "sharded_gradients.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_gradients_are_one_processs(sharded) -> None:
    """In one pass and in several, even and not, whatever is recomputed; in bfloat16 as near as that comes to fp32."""
    assert len(sharded) == 12
    for case, found in sharded.items():
        bound = 0.15 if "bf16" in case else 5e-6
        assert found["gradient"] < bound and found["loss"] < bound / 5, case


def test_what_is_not_finite_in_another_process_is_seen(sharded) -> None:
    assert all(found["finite"] == [True, False] for found in sharded.values())


def test_parameters_and_moments_are_split_and_stay_in_full_precision(sharded) -> None:
    for found in sharded.values():
        assert 0.45 < found["held"] < 0.55 and 0.45 < found["moments"] < 0.55
        assert found["dtypes"] == ["torch.float32"]


@pytest.mark.parametrize(
    ("name", "parameters", "blocks"), [("H14", 968e6, 32 + 24), ("G14", 2517e6, 48 + 32)]
)
def test_the_large_models_are_sharded_over_eight_processes(name: str, parameters: float, blocks: int) -> None:
    """Built without memory, among processes that are not there: an eighth each, gathered block by block."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    config = json.loads((Path(models.__file__).parent / "model_configs" / f"{name}.json").read_text())
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=3, world_size=8)
    try:
        with torch.device("meta"):
            towers = models.Towers(models.build(config, 0), Augmentation())
        distributed.apply_activation_checkpointing(towers.model, "selective")
        distributed.shard(towers, "cpu", "bf16")
        held = sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in towers.parameters())
    finally:
        torch.distributed.destroy_process_group()
    assert sum(p.numel() for p in towers.parameters()) == pytest.approx(parameters, rel=1e-3)
    assert held == pytest.approx(parameters / 8, rel=1e-3)
    groups = [module for module in towers.modules() if isinstance(module, FSDPModule)]
    own = [sum(p.numel() for p in group.parameters()) for group in groups if group is not towers]
    assert len(own) == blocks and max(own) < 0.03 * parameters
    assert parameters - sum(own) < 0.05 * parameters  # embeddings, projections: gathered once a pass


# ------------------------------------------------------------------------------------- activation checkpointing


def cost(which: object, precision: str) -> tuple[float, int, dict[str, torch.Tensor]]:
    """Bytes kept by a forward pass, FLOPs of the backward pass, and gradients with cached features."""
    stage = tiny_stages("L16-none-truncation32")[0]
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16, 3, 48, 48), dtype=torch.uint8, generator=drawn)
    tokens = torch.randint(0, 700, (16, 32), generator=drawn)
    towers = models.Towers(models.build(stage.model_config, 0), stage.augmentation)
    if which:
        distributed.apply_activation_checkpointing(towers.model, which)

    def autocast():
        return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled, autocast():
        outputs = towers(images, tokens)
    kept = sum(event.self_cpu_memory_usage for event in profiled.events())
    with FlopCounterMode(display=False) as counter:
        sum(output.float().sum() for output in outputs).backward()
    towers.zero_grad()
    backward(towers, (images, tokens), 4, autocast)
    gradients = {name: p.grad for name, p in towers.named_parameters() if p.grad is not None}
    return kept, counter.get_total_flops(), gradients


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activation_checkpointing_saves_memory_and_no_bit_changes(precision: str) -> None:
    """Matrix products are kept: a third of the memory for nothing; whole blocks cost one more forward pass."""
    kept, flops, gradients = cost(False, precision)
    selective, blocks = cost("selective", precision), cost(True, precision)
    assert selective[0] < 0.7 * kept and selective[1] <= 1.01 * flops
    assert blocks[0] < 0.2 * kept and blocks[1] > 1.25 * flops
    for other in (selective[2], blocks[2]):
        assert other.keys() == gradients.keys()
        assert all(torch.equal(other[name], gradient) for name, gradient in gradients.items())


def test_activation_checkpointing_is_configured(tmp_path: Path) -> None:
    """False and True stay what they were in fingerprints."""
    for value in (False, True, "selective"):
        assert (
            tiny_scale(schedule={"activation_checkpointing": value}).pretrain.activation_checkpointing
            is value
        )
    (tmp_path / "scales").mkdir()
    text = (CONFIG / "scales" / "micro-v1.yaml").read_text(encoding="utf-8")
    wrong = text.replace("pretrain:\n", "pretrain:\n  activation_checkpointing: some\n", 1)
    (tmp_path / "scales" / "micro-v1.yaml").write_text(wrong, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"micro-v1\.yaml: pretrain\.activation_checkpointing"):
        load_scale("micro-v1", tmp_path)

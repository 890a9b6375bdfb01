"""Evaluation beside CLIP_benchmark's own command line: the same numbers, and how much less CPU time they take.

    python benchmarks/evaluation.py --folder FOLDER [--checkpoints 2] [--images 500] [--pixels 48] [--run]

Draws test sets of the embedded world, makes checkpoints with random weights by open_clip, and measures seven sets by
`clip_benchmark eval` and by `clipa evaluate --model`, one process for each evaluator and checkpoint. Our first is
cold: it decodes all images. For the next ones images are on disk. `--run` measures the two stages of a run (hardly
trained, a seed for each checkpoint) in place of a checkpoint, on an eighth set that CLIP_benchmark cannot read, too:
it has no caption selection (ARO), so our process has more to do. CPU seconds are those of a process and its children:
on a busy machine they say more than the clock. Prints a table and writes `evaluation.json` into FOLDER.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import open_clip
import torch
import yaml
from open_clip.push_to_hf_hub import save_config_for_hf
from safetensors.torch import save_file
from tabulate import tabulate

from clipa.config import load_scale
from clipa.data.drawing import draw_test, draw_train
from clipa.data.vocabulary import train_vocabulary
from clipa.records import read_records
from clipa.resolved import data_slug

ROOT = Path(__file__).resolve().parents[1]
SETS = {
    "imagenet1k": "plain",
    "imagenetv2": "fresh",
    "imagenet-r": "renditions",
    "imagenet_sketch": "outlines",
    "imagenet-a": "clutter",
    "objectnet": "odd",
    "mscoco_captions": "captions",
}
SELECTION = {"aro/vg_relation": "order/relation"}
RUN = "L16-resize64-truncation32"
# Vision width, layers, head width and patch size by the pixels of the model: a small tower, and S/16's.
TOWERS = {48: (64, 2, 32, 6), 224: (384, 12, 64, 16)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--checkpoints", type=int, default=2)
    parser.add_argument("--images", type=int, default=500, help="of a test set")
    parser.add_argument("--pixels", type=int, choices=TOWERS, default=48)
    parser.add_argument("--run", action="store_true", help="two stages of a run, eight sets")
    asked = parser.parse_args()
    project = asked.folder.resolve()
    tests = prepare(project, asked.images, asked.run)
    rows, numbers = [], {}
    starts = {"clip_benchmark": "clip_benchmark.cli", "clipa": "clipa.evaluate.checkpoints"}
    start = {
        name: cpu_of(execute, [sys.executable, "-c", f"import {module}"], project)
        for name, module in starts.items()
    }

    def keep(name: str, run, *arguments) -> None:
        numbers[name] = run(*arguments)

    for number in range(asked.checkpoints):
        if asked.run:
            folders = stages(project, number)
            words = ["--run", RUN, "--seed", str(number)]
        else:
            folders = [checkpoint(project / f"model-{asked.pixels}-{number}", asked.pixels, number)]
            words = ["--model", f"local-dir:{folders[0]}", "--suite"]
        used = {
            "clip_benchmark": cpu_of(keep, "clip_benchmark", theirs, project, tests, folders),
            "clipa": cpu_of(keep, "clipa", ours, project, words),
        }
        rows.append(
            {
                "checkpoint": f"{number} ({'next' if number else 'cold'})",
                **{f"{name}, CPU s": seconds for name, seconds in used.items()},
                "ratio": used["clip_benchmark"] / used["clipa"],
                "without start-up": (used["clip_benchmark"] - start["clip_benchmark"])
                / (used["clipa"] - start["clipa"]),
                "image towers alone, CPU s": sum(map(tower_seconds, folders)) * len(SETS) * asked.images,
                "largest difference, items": worst(numbers["clip_benchmark"], numbers["clipa"]),
            }
        )
        print(rows[-1], flush=True)
    print(tabulate(rows, "keys", "plain", floatfmt=".1f"))
    print(f"start-up alone, CPU s: {start}")
    (project / "evaluation.json").write_text(json.dumps({"rows": rows, "start": start}, indent=1))


def tower_seconds(folder: Path) -> float:
    """CPU seconds that the image tower needs for one image, one thread, in batches of 64 (of 8 at 224 pixels)."""
    torch.set_num_threads(1)
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    pixels = model.visual.image_size[0]
    images = torch.zeros(64 if pixels < 100 else 8, 3, pixels, pixels)
    with torch.inference_mode():
        model.encode_image(images)
        began = time.process_time()
        for _ in range(3):
            model.encode_image(images)
    return (time.process_time() - began) / (3 * len(images))


def prepare(project: Path, images: int, run: bool) -> Path:
    """The project's configuration and drawn test sets; returns their folder. Caches of earlier calls are removed."""
    project.mkdir(parents=True, exist_ok=True)
    for old in ("config", "runs"):
        shutil.rmtree(project / old, ignore_errors=True)
    shutil.copytree(ROOT / "config", project / "config")
    path = project / "config" / "scales" / "micro-v1.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["data"]["world"] = {"test_images_plain": images, "test_images": images}
    values["evaluation"] = {"benchmarks": {"imagenet1k": "plain"}, "suite": SETS, "batch_size": 64}
    if run:
        values["evaluation"]["benchmarks"] = SETS | SELECTION
        values["data"]["world"] |= {"training_images": 512, "images_per_shard": 64}
        for stage in ("pretrain", "finetune"):
            values[stage] |= {"samples": 64, "warmup_steps": 1}
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    scale = load_scale("micro-v1", project / "config")
    home = project / "data" / data_slug(scale.data)
    shutil.rmtree(home / "decoded", ignore_errors=True)
    draw_test(scale.data.world, home, tuple(dict.fromkeys(SETS.values())))
    if run:
        draw_test(scale.data.world, home, ("order",))
        draw_train(scale.data.world, home)
        train_vocabulary(home, scale.vocabulary_size)
    return home / "test"


def checkpoint(folder: Path, pixels: int, seed: int) -> Path:
    """Random weights of open_clip's own towers, in the hub's layout."""
    width, layers, head, patch = TOWERS[pixels]
    config = {
        "embed_dim": width,
        "vision_cfg": {
            "image_size": pixels,
            "layers": layers,
            "width": width,
            "head_width": head,
            "patch_size": patch,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": width,
            "heads": width // head,
            "layers": layers,
        },
    }
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config)
    seen = {
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
    }
    open_clip.model.set_model_preprocess_cfg(model, seen | {"resize_mode": "shortest"})
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    save_config_for_hf(model, folder / "open_clip_config.json", config)
    return folder


def stages(project: Path, seed: int) -> list[Path]:
    """The two exported stages of a run, trained for two steps; what its evaluation left is removed."""
    decoded = list(project.glob("data/*/decoded"))
    execute([*EVALUATE, "--run", RUN, "--seed", str(seed), "--train"], project)
    for made in project.glob(f"runs/micro-v1/{RUN}/evaluation"):
        shutil.rmtree(made)
    for made in set(project.glob("data/*/decoded")) - set(decoded):
        shutil.rmtree(made)
    found = project.glob(f"runs/micro-v1/{RUN}/*/seed{seed}-*/open_clip")
    return sorted(found, key=lambda path: path.parts[-3] == "finetune")


Numbers = dict[str, tuple[float, int]]
"""Percent and number of items, by data set, metric and number of the stage."""


def cpu_of(run, *arguments) -> float:
    """CPU seconds of the processes that ``run`` starts when it is called with ``arguments``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def theirs(project: Path, tests: Path, folders: list[Path]) -> Numbers:
    """One process for all models and sets, which finds a set's folder, and its task, by its name. fp32, as ours."""
    sets, out = project / "sets", project / "theirs"
    for made in (sets, out):
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
    for benchmark, name in SETS.items():
        (sets / benchmark).symlink_to(tests / name)
    for number, folder in enumerate(folders):
        (sets / f"model{number}").symlink_to(folder)
    names = [f"local-dir:sets/model{number}" for number in range(len(folders))]
    command = [
        sys.executable,
        "-m",
        "clip_benchmark.cli",
        "eval",
        "--dataset",
        *(f"wds/{name}" for name in SETS),
    ]
    command += ["--pretrained_model", *(f"{name}," for name in names), "--no_amp", "--num_workers", "0"]
    command += ["--dataset_root", f"{sets}/{{dataset}}", "--recall_k", "1", "--batch_size", "64"]
    for number in range(len(folders)):
        (out / f"local-dir:sets/model{number}").mkdir(parents=True)
    execute([*command, "--output", f"{out}/{{model}}/{{dataset}}.json"], project)
    found: Numbers = {}
    for path in out.glob("**/*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        for metric, value in content["metrics"].items():
            if metric == "acc1" or metric.endswith("@1"):
                name = f"{content['dataset'].removeprefix('wds/')} {metric} {path.parent.name.removeprefix('model')}"
                found[name] = (100 * value, 0)
    return found


EVALUATE = [sys.executable, "-m", "clipa", "evaluate", "--scale", "micro-v1"]
EVALUATE += ["--data-directory", "data", "--runs-directory", "runs"]


def ours(project: Path, words: list[str]) -> Numbers:
    """One process for all models and sets; ``words``: which."""
    path = project / execute([*EVALUATE, *words], project).strip()
    records = read_records(path)
    kinds = list(dict.fromkeys(record["stage"] for record in records))
    return {
        f"{record['benchmark']} {record['metric']} {kinds.index(record['stage'])}": (
            record["value"],
            record["dataset"]["n"],
        )
        for record in records
    }


def execute(command: list[str], project: Path) -> str:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
    }
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return done.stdout


def worst(one: Numbers, other: Numbers) -> float:
    """The largest difference of a number that both have, in items of its data set."""
    shared = one.keys() & other.keys()
    if {key.split()[0] for key in shared} != SETS.keys():
        sys.exit(f"both have {sorted(shared)} alone: {sorted(one)} and {sorted(other)}")
    return max(abs(one[key][0] - other[key][0]) / 100 * max(one[key][1], other[key][1]) for key in shared)


if __name__ == "__main__":
    main()

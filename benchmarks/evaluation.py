"""Evaluation beside CLIP_benchmark's own command line: the same numbers, and how much less CPU time they take.

    python -m benchmarks.evaluation --folder FOLDER [--next 3] [--images 400] [--pixels 48] [--run]

Draws test sets of the embedded world, makes checkpoints with random weights by open_clip, and measures seven sets by
`clip_benchmark eval` and by `clipa evaluate --model`: the first checkpoint in one process, which decodes all images,
the next ones together in another. Beside what a process takes stand the costs of its parts, measured by themselves:
starting, decoding, and the towers of images and texts. `--towers` measures the towers alone, for sizes of which a whole
suite takes hours. `--run` measures the two stages of a run (hardly trained; runs differ in the length of texts) in the
place of a checkpoint, on an eighth set that CLIP_benchmark cannot read, too: it has no caption selection (ARO), so our
process has more to do. CPU seconds are those of a process and its children: on a busy machine they say
more than the clock. Prints tables and writes `evaluation.json` into FOLDER.
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
from clipa.evaluate.decoding import parts_of
from clipa.evaluate.references import resolve
from clipa.evaluate.testsets import open_test_set, read_shard
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
RUNS = tuple(f"L16-resize64-truncation{tokens}" for tokens in (32, 16, 8, 4))
# Vision width, layers, head width and patch size by the pixels of the model: a small tower, and S/16's at two sizes.
TOWERS = {48: (64, 2, 32, 6), 112: (384, 12, 64, 16), 224: (384, 12, 64, 16)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument(
        "--next", type=int, choices=range(1, len(RUNS)), default=3, help="checkpoints after the first"
    )
    parser.add_argument("--images", type=int, default=400, help="of a test set")
    parser.add_argument("--pixels", type=int, choices=TOWERS, default=48)
    parser.add_argument("--run", action="store_true", help="two stages of a run, eight sets")
    parser.add_argument(
        "--towers", action="store_true", help="what one image and one text take, nothing else"
    )
    asked = parser.parse_args()
    project = asked.folder.resolve()
    tests = prepare(project, asked.images, asked.run)
    if asked.towers:
        parts = parts_of_the_work(checkpoint(project / f"model-{asked.pixels}-0", asked.pixels, 0), tests)
        print(tabulate([{name: 1000 * one for name, one in parts.items()}], "keys", "plain", floatfmt=".2f"))
        return
    starts = {"clip_benchmark": "clip_benchmark.cli", "clipa": "clipa.evaluate.checkpoints"}
    start = {}
    for name, module in starts.items():
        for _ in range(2):  # the first one reads the files from the disk
            start[name] = cpu_of(execute, [sys.executable, "-c", f"import {module}"], project)
    processes = [[0], list(range(1, 1 + asked.next))]
    rows = [compare(project, tests, asked, start, numbers) for numbers in processes]
    print(tabulate(rows, "keys", "plain", floatfmt=".1f"))
    print(f"start-up alone, CPU s: {start}")
    (project / "evaluation.json").write_text(json.dumps({"rows": rows, "start": start}, indent=1))


def compare(
    project: Path, tests: Path, asked: argparse.Namespace, start: dict[str, float], numbers: list[int]
) -> dict[str, str | float]:
    """One process of either evaluator: CPU seconds, of ours also by part, and the largest difference of a number."""
    if asked.run:
        runs = [RUNS[number] for number in numbers]
        folders, words = stages(project, runs), ["--run", *runs]
    else:
        folders = [checkpoint(project / f"model-{asked.pixels}-{n}", asked.pixels, n) for n in numbers]
        words = ["--suite", "--model", *(f"local-dir:{folder}" for folder in folders)]
    found: dict[str, Numbers] = {}

    def keep(name: str, run, *arguments) -> None:
        found[name] = run(*arguments)

    used = {
        "clip_benchmark": cpu_of(keep, "clip_benchmark", theirs, project, tests, folders),
        "clipa": cpu_of(keep, "clipa", ours, project, words),
    }
    each = {name: (used[name] - start[name]) / len(numbers) for name in used}
    parts = parts_of_the_work(folders[-1], tests)
    images, classified = asked.images * len(SETS), len(SETS) - 1
    prompts = len(prompts_and_captions(tests)[0])
    captions = len(prompts_and_captions(tests)[1])
    row = {
        ("runs" if asked.run else "checkpoints"): f"{numbers[0]} to {numbers[-1]}"
        + ("" if numbers[0] else ", cold"),
        **{f"{name}, CPU s": seconds for name, seconds in used.items()},
        "ratio": used["clip_benchmark"] / used["clipa"],
        "without start-up": each["clip_benchmark"] / each["clipa"],
        "theirs, a checkpoint": each["clip_benchmark"],
        "ours": each["clipa"],
        "decoding": parts["decoding"] * images,
        "images": parts["image"] * images,
        "texts, theirs": parts["text"] * (classified * prompts + captions),
        "texts, ours": parts["text, cut"] * (prompts + captions),
        "difference, items": worst(found["clip_benchmark"], found["clipa"]),
    }
    print(row, flush=True)
    return row


def parts_of_the_work(folder: Path, tests: Path) -> dict[str, float]:
    """CPU seconds for one image and one text, one thread, in batches of 64 (of 8 for large towers).

    ``text, cut``: as we encode it, cut to its batch where the tower allows it; ``decoding`` includes resizing.
    """
    torch.set_num_threads(1)
    found = resolve(f"local-dir:{folder}")
    large = found.size >= 100
    one = found.load("cpu", 8 if large else 64, None, None)
    texts = [text for kind in prompts_and_captions(tests) for text in kind][:: 16 if large else 1]
    images = torch.zeros(16 if large else 192, 3, one.pixels.size, one.pixels.size, dtype=torch.uint8)

    def padded() -> None:
        with torch.inference_mode():
            for at in range(0, len(texts), one.batch_size):
                one.model.encode_text(one.tokenizer(texts[at : at + one.batch_size]))

    one._encode(images[: one.batch_size])
    return {
        "decoding": cpu_here(list, parts_of(open_test_set(tests / "plain"), one.pixels, None))
        / open_test_set(tests / "plain").n,
        "image": cpu_here(one._encode, images) / len(images),
        "text": cpu_here(padded) / len(texts),
        "text, cut": cpu_here(one.texts_of, texts) / len(texts),
    }


def prompts_and_captions(tests: Path) -> tuple[list[str], list[str]]:
    """The prompts of a set of classification, which are the same in all, and the captions of the set of retrieval."""
    plain, captions = open_test_set(tests / "plain"), open_test_set(tests / "captions")
    templates = plain.lines("zeroshot_classification_templates")
    prompts = [template.format(c=name) for name in plain.lines("classnames") for template in templates]
    said = [
        caption
        for name, sha256 in captions.shards
        for _, several in read_shard(captions.directory, name, sha256, captions.ending)
        for caption in several
    ]
    return prompts, said


def cpu_here(run, *arguments) -> float:
    """CPU seconds of this process while ``run`` is called."""
    began = time.process_time()
    run(*arguments)
    return time.process_time() - began


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
    with torch.no_grad():  # with initial weights all images look alike, and every answer is the same class
        for parameter in model.parameters():
            parameter.mul_(3)
    seen = {
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
    }
    open_clip.model.set_model_preprocess_cfg(model, seen | {"resize_mode": "shortest"})
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    save_config_for_hf(model, folder / "open_clip_config.json", config)
    return folder


def stages(project: Path, runs: list[str]) -> list[Path]:
    """The two exported stages of each run, trained for two steps; what its evaluation left is removed."""
    decoded = list(project.glob("data/*/decoded"))
    execute([*EVALUATE, "--run", *runs, "--train"], project)
    for run in runs:
        shutil.rmtree(project / "runs" / "micro-v1" / run / "evaluation")
    for made in set(project.glob("data/*/decoded")) - set(decoded):
        shutil.rmtree(made)
    of_run = [project / "runs" / "micro-v1" / run for run in runs]
    return [
        path
        for folder in of_run
        for path in sorted(folder.glob("*/seed0-*/open_clip"), key=lambda path: path.parts[-3] == "finetune")
    ]


Numbers = dict[str, tuple[float, int]]
"""Percent and number of items, by data set, metric and number of the stage."""


def cpu_of(run, *arguments) -> float:
    """CPU seconds of the processes that ``run`` starts when it is called with ``arguments``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


CLIP_BENCHMARK = """
from clip_benchmark import cli
from clip_benchmark.metrics import zeroshot_classification
zeroshot_classification.float = lambda value: value.item()
cli.main()
"""
"""Its command line. Version 1.6.2 asks float() for arrays of one element, which NumPy refuses from 2.4 on."""


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
    command = [sys.executable, "-c", CLIP_BENCHMARK, "eval", "--dataset", *(f"wds/{name}" for name in SETS)]
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
    paths = [project / line for line in execute([*EVALUATE, *words], project).split()]
    by_model = []
    for records in map(read_records, paths):
        for kind in dict.fromkeys(record["stage"] for record in records):  # a checkpoint is of no stage
            by_model.append([record for record in records if record["stage"] == kind])
    return {
        f"{record['benchmark']} {record['metric']} {number}": (record["value"], record["dataset"]["n"])
        for number, records in enumerate(by_model)
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

"""Any checkpoint: from a hub, a folder or a run; killed and gone on with; CLIP_benchmark's numbers; refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from clip_benchmark.datasets.builder import build_dataset
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file, save_file

from clipa.cli import main
from clipa.evaluate import decoded_images, suites
from clipa.evaluate.candidates import Normal
from clipa.evaluate.checkpoints import evaluate_checkpoint
from clipa.evaluate.references import resolve
from clipa.evaluate.testsets import EvaluationError, open_test_set
from clipa.export import export
from clipa.records import correct_items, read_records
from clipa.render.checkpoints import paired_report, protocols_table, released_report
from clipa.render.tables import make
from clipa.resolved import data_slug
from clipa.stages import stages_of
from clipa.stats import fixed
from clipa.study import parse_run
from loopback_hub import PREPROCESS, REVISION, SUITE, TOWERS, foreign_checkpoint, project_at, served
from small_world import finish_untrained

ROOT = Path(__file__).parents[1]
SETS = len(SUITE)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(Folder of a project with drawn test sets, the project, its scale, a foreign checkpoint)."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("project")
    project, scale = project_at(root)
    return root, project, scale, foreign_checkpoint(root / "tiny")


@pytest.fixture(scope="module")
def measured(world) -> Path:
    """The foreign checkpoint's records by its own protocol, measured in one go."""
    _, project, scale, folder = world
    elsewhere = project.model_copy(update={"runs_directory": f"{project.runs_directory}-undisturbed"})
    (path,) = evaluate_checkpoint(f"local-dir:{folder}", scale, elsewhere, ["checkpoint"], SUITE)
    return path


def outcomes(path: Path) -> dict[tuple[str, str], tuple[str, float]]:
    return {(r["benchmark"], r["metric"]): (r["outcomes"]["data"], r["value"]) for r in read_records(path)}


# ------------------------------------------------------------------------------------------------------ from a hub


def command(*words: str) -> list[str]:
    asked = ["--scale", "micro-v1", "--data-directory", "data", "--runs-directory", "runs"]
    return [sys.executable, "-m", "clipa", "evaluate", *asked, *words]


def test_a_suite_from_a_hub_is_killed_twice_and_goes_on(world, measured, capsys):
    """Through two processes at last; sets that were finished before a kill are not measured again."""
    root, _, _, folder = world
    rows = {"OpenAI-B32": {"hub": "somebody/tiny", "licence": "MIT", "gigabytes": 0.1}}
    (root / "config" / "released.yaml").write_text(yaml.safe_dump(rows))
    sets = root / "runs" / "checkpoints"
    with served({"somebody/tiny": folder}) as address:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT / "src"),
            "HF_ENDPOINT": address,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(root / "hub"),
        }
        asked = command("--model", "OpenAI-B32", "--suite")
        finished: dict[Path, int] = {}
        for _ in range(2):
            running = subprocess.Popen(asked, cwd=root, env=environment, stderr=subprocess.DEVNULL)
            while running.poll() is None and len(list(sets.glob("*/sets/*/set.json"))) <= len(finished):
                time.sleep(0.002)
            running.send_signal(signal.SIGKILL)
            running.wait()
            finished = {path: path.stat().st_mtime_ns for path in sets.glob("*/sets/*/set.json")}
        assert finished and not list(sets.glob("*/checkpoint.json"))
        done = subprocess.run(
            [*asked, "--processes", "2"], cwd=root, env=environment, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert done.stderr.count("acc1") + done.stderr.count("text_retrieval") == SETS - len(finished)
    path = root / done.stdout.strip()
    assert outcomes(path) == outcomes(measured)
    record = read_records(path)[0]
    assert record["id"] == "released.OpenAI-B32.checkpoint.imagenet1k.acc1"
    assert record["checkpoint"]["revision"] == REVISION
    assert record["checkpoint"]["reference"] == "hf-hub:somebody/tiny"
    assert (record["actual"]["image_size"], record["actual"]["patches"], record["seed"]) == (48, 16, None)
    # The measured column of Table 1, and the list of released checkpoints.
    published = read_records(ROOT / "results/published/table1.json")
    made = make(1, [path], [ROOT / "results/published/table1.json"], root / "table1.tex")
    assert f"{record['value']:.1f}" in Path(made).read_text() and len(published) == 99
    assert "on pictograms/v1/plain" in released_report([path])
    # `clipa verify` recomputes every value from its outcomes, here and in the files of the sets.
    assert main(["verify", str(sets)]) == 0
    path.write_text(path.read_text().replace('"value": ', '"value": 1', 1))
    assert main(["verify", str(sets)]) == 1
    assert "digest is" in capsys.readouterr().out


@pytest.mark.parametrize("flipped", [True, False])
def test_weights_that_are_not_the_hubs_are_refused(world, monkeypatch, tmp_path, flipped):
    from huggingface_hub import constants

    *_, folder = world
    if not flipped:  # a repository with pickled weights alone
        folder = shutil.copytree(folder, tmp_path / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
        torch.save({"weight": torch.zeros(1)}, folder / "open_clip_pytorch_model.bin")
    expected = "sha256 is .* the hub says .* removed: try again" if flipped else "pickled weights alone"
    with served({"somebody/tiny": folder}, flipped) as address:
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        with pytest.raises(EvaluationError, match=expected) as raised:
            resolve("hf-hub:somebody/tiny")
    assert "\n" not in str(raised.value) and not list(tmp_path.glob("cache/**/*.safetensors"))


# -------------------------------------------------------------------------------------------------------- the same


def test_numbers_are_clip_benchmarks_with_the_checkpoints_own_preprocessing(world, measured, monkeypatch):
    # clip-benchmark 1.6.2 asks float() for arrays of one element, which NumPy 2.4 refuses.
    monkeypatch.setattr(zeroshot_classification, "float", lambda value: value.item(), raising=False)
    _, project, scale, folder = world
    name = f"local-dir:{folder}"
    model, transform = open_clip.create_model_from_pretrained(name)
    tokenizer = open_clip.get_tokenizer(name)
    found = {(r["benchmark"], r["metric"]): r for r in read_records(measured)}
    tests = Path(project.data_directory) / data_slug(scale.data) / "test"

    def loader(dataset: str, task: str):
        made = build_dataset(f"wds/{dataset}", root=str(tests / dataset), transform=transform, task=task)
        return made, torch.utils.data.DataLoader(made.batched(64), batch_size=None, num_workers=0)

    made, batches = loader("plain", "zeroshot_classification")
    theirs = zeroshot_classification.evaluate(
        model.eval(), batches, tokenizer, made.classes, made.templates, "cpu", amp=False
    )
    record = found["imagenet1k", "acc1"]
    assert abs(theirs["acc1"] - record["value"] / 100) * record["dataset"]["n"] <= 1 + 1e-6
    _, batches = loader("captions", "zeroshot_retrieval")
    theirs = zeroshot_retrieval.evaluate(model, batches, tokenizer, "cpu", amp=False, recall_k_list=[1, 5])
    for direction in ("image", "text"):
        record = found["mscoco_captions", f"{direction}_retrieval_recall@1"]
        assert (
            abs(theirs[f"{direction}_retrieval_recall@1"] - record["value"] / 100) * record["dataset"]["n"]
            <= 1.001
        )


WITHOUT_US = """
import importlib.util, json, os, sys
sys.path[:] = [place for place in sys.path if not os.path.isdir(f"{place}/clipa")]
assert importlib.util.find_spec("clipa") is None
import open_clip, torch
from clip_benchmark.datasets.builder import build_dataset
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
zeroshot_classification.float = lambda value: value.item()  # NumPy 2.4 refuses arrays of one element
name, tests = sys.argv[1], sys.argv[2]
model, transform = open_clip.create_model_from_pretrained(name)
tokenizer, found = open_clip.get_tokenizer(name), {}
for folder, task in (("plain", "zeroshot_classification"), ("captions", "zeroshot_retrieval")):
    made = build_dataset(f"wds/{folder}", root=f"{tests}/{folder}", transform=transform, task=task)
    batches = torch.utils.data.DataLoader(made.batched(64), batch_size=None, num_workers=0)
    if task == "zeroshot_classification":
        found |= zeroshot_classification.evaluate(
            model.eval(), batches, tokenizer, made.classes, made.templates, "cpu", amp=False
        )
    else:
        found |= zeroshot_retrieval.evaluate(model, batches, tokenizer, "cpu", amp=False, recall_k_list=[1])
print("FOUND", json.dumps({name: float(found[name]) for name in found if name == "acc1" or "@1" in name}))
"""


def numbers_without_us(folder: Path, tests: Path) -> dict[str, float]:
    """Accuracy and recalls, in percent, of a process that has open_clip and CLIP_benchmark, and not this package.

    ``-I`` takes neither PYTHONPATH nor the current folder; where an environment points to the sources, the script drops
    that from its path, and stops if the package is still found.
    """
    command = [sys.executable, "-I", "-c", WITHOUT_US, f"local-dir:{folder}", str(tests)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.rpartition("FOUND ")[2])
    return {metric: 100 * value for metric, value in found.items()}


def test_an_exported_run_loads_without_us_and_has_the_same_numbers(world, tmp_path, monkeypatch):
    root, project, scale, _ = world
    monkeypatch.chdir(root)
    stages = stages_of(parse_run("S16-resize64-truncation32"), scale, seed=0)
    for stage in stages:
        finish_untrained(stage, project)
    asked = ["--scale", "micro-v1", "--data-directory", project.data_directory]
    asked += ["--runs-directory", project.runs_directory]
    suite = Path(project.runs_directory) / "micro-v1" / stages[-1].run.slug / "evaluation"
    assert main(["evaluate", *asked, "--run", stages[-1].run.slug, "--suite"]) == 0
    assert main(["export", stages[-1].run.slug, *asked, "--out", str(tmp_path / "ours")]) == 0
    assert main(["export", stages[-1].run.slug, *asked, "--out", str(tmp_path / "ours")]) == 1
    (records,) = suite.glob("*/suite.json")
    (again,) = evaluate_checkpoint(f"local-dir:{tmp_path / 'ours'}", scale, project, ["study"], SUITE)
    assert outcomes(again) == outcomes(records)
    (same,) = evaluate_checkpoint("-", scale, project, ["study"], SUITE, stage=stages[-1])
    assert outcomes(same) == outcomes(records)
    assert "B - A" in paired_report(again, records)
    card = (tmp_path / "ours" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "open_clip"
    for record in read_records(records):
        (row,) = [line for line in card.splitlines() if f"`{record['id'].removesuffix('.seed0')}`" in line]
        assert f"0: {fixed(record['value'], 2)}" in row
    assert "/" + "tmp" not in card and str(tmp_path) not in card
    theirs = numbers_without_us(
        tmp_path / "ours", Path(project.data_directory) / data_slug(scale.data) / "test"
    )
    ours = {r["metric"]: r for r in read_records(records) if not r["benchmark"].startswith("aro")}
    assert theirs.keys() == ours.keys() and len(ours) == 3
    for metric, record in ours.items():  # at most one item, for another order of sums
        assert abs(theirs[metric] - record["value"]) * record["dataset"]["n"] / 100 <= 1.001, metric


# --------------------------------------------------------------------------------------------- kept, and side by side


def test_a_second_checkpoint_decodes_and_tokenizes_nothing(world, measured, monkeypatch, tmp_path):
    _, project, scale, _ = world
    other = foreign_checkpoint(tmp_path / "other", seed=1)
    decoded = decoded_images(scale, project)
    before = {path: path.stat().st_mtime_ns for path in decoded.rglob("*.safetensors")}
    assert before
    with monkeypatch.context() as patch:
        patch.setattr("clipa.evaluate.decoding.read_shard", lambda *_: pytest.fail("decoded again"))
        patch.setattr(SimpleTokenizer, "encode", lambda *_: pytest.fail("tokenized again"))
        (path,) = evaluate_checkpoint(f"local-dir:{other}", scale, project, ["checkpoint"], SUITE)
    victim = next(path for path in before if "plain" in path.parent.name)
    victim.write_bytes(victim.read_bytes()[:-1] + b"\0")
    third = foreign_checkpoint(tmp_path / "third", seed=1)
    elsewhere = project.model_copy(update={"runs_directory": str(tmp_path / "runs")})
    (again,) = evaluate_checkpoint(f"local-dir:{third}", scale, elsewhere, ["checkpoint"], SUITE)
    assert outcomes(again) == outcomes(path)


def test_several_checkpoints_share_a_process(world, measured, tmp_path, monkeypatch, capsys):
    """Each has the records that it has alone. One that is not there ends it before the first is measured."""
    root, *_, folder = world
    monkeypatch.chdir(root)
    other = foreign_checkpoint(tmp_path / "second", seed=2)
    models = [f"local-dir:{folder}", f"local-dir:{other}"]
    asked = ["evaluate", "--scale", "micro-v1", "--data-directory", "data", "--runs-directory"]
    asked += [str(tmp_path / "runs"), "--benchmarks", "imagenet1k", "mscoco_captions", "--model"]
    assert main([*asked, *models, "local-dir:nowhere"]) == 1 and not (tmp_path / "runs").exists()
    assert main([*asked, *models, "--output", str(tmp_path / "one.json")]) == 1
    assert "for the records of one --model, not of 2" in capsys.readouterr().err
    assert main([*asked, *models]) == 0
    first, second = (Path(line) for line in capsys.readouterr().out.splitlines())
    assert outcomes(first).items() <= outcomes(measured).items() and len(outcomes(first)) == 3
    assert read_records(second)[0]["checkpoint"]["reference"] == "local-dir:second"
    assert outcomes(second) != outcomes(first)


def test_protocols_are_told_apart_in_records_and_side_by_side(world):
    _, project, scale, folder = world
    names = ["checkpoint", "squash", "paper", "clip-benchmark"]
    paths = evaluate_checkpoint(f"local-dir:{folder}", scale, project, names, SUITE)
    records = [
        record for path in paths for record in read_records(path) if record["benchmark"] == "imagenet1k"
    ]
    assert [record["protocol_name"] for record in records] == names
    assert len({record["protocol"] for record in records}) == len(names)
    table = protocols_table(paths)
    assert table.splitlines()[0].split()[2:] == names
    assert f"{records[0]['value']:.2f}" in table


def test_the_studys_protocol_has_the_digest_of_recorded_results(world):
    _, project, scale, _ = world
    folder = ROOT / "results/recorded/micro-v1/L16-none-truncation32/suite"
    recorded = {r["benchmark"]: r["protocol"] for path in folder.glob("*.json") for r in read_records(path)}
    tests = Path(project.data_directory) / data_slug(scale.data) / "test"
    stage = stages_of(parse_run("L16-none-truncation32"), scale, seed=0)[0]
    normal = Normal(scale.augmentation.mean, scale.augmentation.std)
    for benchmark, dataset in (("imagenet1k", "plain"), ("mscoco_captions", "captions")):
        asked = suites.Asked(benchmark, open_test_set(tests / dataset), "")
        assert asked.protocol_digest("study", stage.protocol, stage.pixels, normal) == recorded[benchmark]


def of_items(measured: Path, out: Path, metric: str, right: list[int]) -> Path:
    """The first record with this metric, with these outcomes in the place of its own: 1 right, 0 wrong."""
    from clipa.records import encode_outcomes, percent_and_error, write_records

    record = dict(next(one for one in read_records(measured) if one["metric"] == metric))
    correct = torch.tensor(right, dtype=torch.bool).numpy()
    value, error = percent_and_error(correct)
    outcomes = correct if metric == "acc1" else (~correct).astype("<i4")  # of retrieval a rank, 0 being right
    record |= {"value": value, "standard_error": error, "outcomes": encode_outcomes(outcomes)}
    record["dataset"] = record["dataset"] | {"n": len(right)}
    assert correct_items(record).sum() == sum(right)
    write_records(out, [record])
    return out


def test_mcnemars_test_on_items_worked_by_hand(measured, tmp_path):
    """8 items that only the one gets right, 1 that only the other: p = 2 (1 + 9) / 2^9."""
    one = of_items(measured, tmp_path / "a.json", "acc1", [1] * 8 + [0] + [1] * 11)
    other = of_items(measured, tmp_path / "b.json", "acc1", [0] * 8 + [1] + [1] * 11)
    line = paired_report(one, other).splitlines()[-1].split()
    assert line[:5] == ["imagenet1k", "acc1", "20", "95.00", "60.00"]
    assert line[5] == "-35.00" and line[-4:] == ["8", "1", "0.039", "-"]


def test_retrieval_has_the_interval_of_a_paired_bootstrap(measured, tmp_path):
    """Of n items of which only A has 200 right and only B 100: drawn again, B - A is (multinomial) ± 1.96 s / √n."""
    n, metric = 1000, "text_retrieval_recall@1"
    one = of_items(measured, tmp_path / "a.json", metric, [1] * 200 + [0] * 100 + [1] * (n - 300))
    other = of_items(measured, tmp_path / "b.json", metric, [0] * 200 + [1] * 100 + [1] * (n - 300))
    report = paired_report(one, other)
    *_, p, low, to, high = report.splitlines()[-2].split()
    assert (p, to) == ("-", "to") and report.splitlines()[-1].endswith("9,999 resamples, seed 2305")
    half = 1.96 * 100 * ((0.3 - 0.1**2) / n) ** 0.5
    assert float(low) == pytest.approx(-10 - half, abs=0.2) and float(high) == pytest.approx(
        -10 + half, abs=0.2
    )
    assert paired_report(one, other) == report
    assert "0.00 to 0.00" in paired_report(one, one)


# ------------------------------------------------------------------------------------------------------- refusals


def spoiled(folder: Path, out: Path, **changes) -> str:
    """A copy of a checkpoint with another configuration."""
    shutil.copytree(folder, out)
    content = json.loads((out / "open_clip_config.json").read_text())
    for key, value in changes.items():
        part, _, name = key.rpartition("__")
        (content[part] if "." not in part else content[part.split(".")[0]][part.split(".")[1]])[name] = value
    (out / "open_clip_config.json").write_text(json.dumps(content))
    return f"local-dir:{out}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_cfg.vision_cfg__width": 10**6}, "vision_cfg.width: input should be less"),
        ({"model_cfg.vision_cfg__layers": 150, "model_cfg.vision_cfg__width": 8192}, "its configuration has"),
        ({"model_cfg.vision_cfg__image_size": [48, 64]}, "only squares are evaluated"),
        ({"model_cfg.text_cfg__hf_model_name": "roberta-base"}, "a text tower that open_clip does not build"),
        ({"model_cfg.vision_cfg__patch_size": 8}, "cannot be loaded"),
        ({"preprocess_cfg__resize_mode": "stretch"}, "preprocess_cfg is not open_clip's"),
        ({"preprocess_cfg__mean": [0.5]}, "preprocess_cfg is not open_clip's"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(world, tmp_path, changes, said):
    *_, folder = world
    reference = spoiled(folder, tmp_path / "odd", **changes)
    with pytest.raises(EvaluationError, match=said) as raised:
        resolve(reference).load("cpu", 8, tmp_path, tmp_path)
    assert "\n" not in str(raised.value) and str(tmp_path) not in str(raised.value)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("nothing", "names no checkpoint"),
        ("local-dir:nowhere", "has no open_clip_config.json"),
        ("ViT-B-16/no-such-tag", "has no such tag"),
        ("ViT-Z/openai", "has no such model"),
        ("FLIP-H14", "there is no checkpoint that can be had"),
        ("hf-hub:somebody/not-in-the-cache", "cannot be fetched .* unset HF_HUB_OFFLINE"),
    ],
)
def test_a_reference_to_nothing_is_one_line(reference, said, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(EvaluationError, match=said) as raised:
        resolve(reference)
    assert "\n" not in str(raised.value)


def test_weights_of_other_shapes_and_export_of_nothing(world, tmp_path):
    _, project, scale, folder = world
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = load_file(copy / "open_clip_model.safetensors")
    weights["logit_scale"] = torch.zeros(3)
    save_file(weights, copy / "open_clip_model.safetensors")
    with pytest.raises(EvaluationError, match="cannot be loaded"):
        resolve(f"local-dir:{copy}").load("cpu", 8, tmp_path, tmp_path)
    stages = stages_of(parse_run("B16-resize64-truncation32"), scale, seed=0)
    with pytest.raises(ValueError, match="train it first"):
        export(stages, project, tmp_path / "out")
    assert not (tmp_path / "out").exists() and TOWERS and PREPROCESS

"""Evaluation: CLIP_benchmark's own numbers, outcomes that decode to them, and clear refusals."""

import gc
import json
import shutil
import subprocess
import sys
import tarfile
import weakref
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from clip_benchmark.datasets.builder import build_dataset
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from open_clip.tokenizer import HFTokenizer
from PIL import Image

from clipa.config import Project
from clipa.evaluate import decoded_images, evaluate_run, evaluate_runs
from clipa.evaluate.candidates import load_candidate
from clipa.evaluate.decoding import resizing
from clipa.evaluate.tasks import caption_selection, measure
from clipa.evaluate.testsets import EvaluationError, open_test_set, read_shard
from clipa.evaluate.tokens import tokenizer_of
from clipa.protocols import Pixels
from clipa.records import correct_items, decode_outcomes, read_records
from clipa.resolved import UnfinishedStage, data_slug
from clipa.stages import Stage, stages_of
from clipa.study import parse_run
from small_world import draw_small_world, finish_untrained, small_scale

SETS = ("plain", "captions", "order")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Project, list[Stage]]:
    """A drawn world, and a run whose two stages are exported untrained."""
    torch.set_num_threads(1)
    scale = small_scale()
    suite = {"imagenet1k": "plain", "mscoco_captions": "captions", "aro": "order"}
    scale = scale.model_copy(update={"evaluation": scale.evaluation.model_copy(update={"suite": suite})})
    project = draw_small_world(scale, tmp_path_factory.mktemp("world"), SETS)
    stages = stages_of(parse_run("S16-resize64-truncation32"), scale, seed=1)
    for stage in stages:
        finish_untrained(stage, project)
    return project, stages


@pytest.fixture(scope="module")
def suite(world) -> dict[str, dict]:
    """Records of the last stage on the suite, by metric."""
    project, stages = world
    return {record["metric"]: record for record in read_records(evaluate_run(stages, project, suite=True))}


def sets_folder(world) -> Path:
    project, stages = world
    return Path(project.data_directory) / data_slug(stages[0].data) / "test"


def candidate_of(world, stage: Stage):
    project, _ = world
    directory = Path(project.runs_directory) / stage.directory / "open_clip"
    return load_candidate(directory, stage.pixels, 32, stage.scale.augmentation, "cpu", 256)


def loader_of(world, candidate, name: str, task: str):
    folder = sets_folder(world) / name
    dataset = build_dataset(f"wds/{name}", root=str(folder), transform=candidate.preprocess, task=task)
    return dataset, torch.utils.data.DataLoader(dataset.batched(256), batch_size=None, num_workers=0)


def one_number(value):
    """What float() gave for an array of one element before NumPy 2.4; clip-benchmark 1.6.2 still asks it so."""
    return value.item() if hasattr(value, "item") else float(value)


def test_classification_is_clip_benchmarks_number_at_every_stage(world, monkeypatch):
    monkeypatch.setattr(zeroshot_classification, "float", one_number, raising=False)
    project, stages = world
    path = evaluate_run(stages, project)
    records = {record["stage"]: record for record in read_records(path)}
    assert path.parent.name == f"seed1-{stages[-1].fingerprint}" and path.name == "records.json"
    assert set(records) == {"pretrain", "finetune"}
    for stage in stages:
        candidate = candidate_of(world, stage)
        dataset, loader = loader_of(world, candidate, "plain", "zeroshot_classification")
        theirs = zeroshot_classification.evaluate(
            candidate.model, loader, candidate.tokenizer, dataset.classes, dataset.templates, "cpu", amp=False
        )
        record = records[stage.kind]
        assert record["value"] == 100 * theirs["acc1"]
        assert 100 * correct_items(record).mean() == pytest.approx(record["value"], abs=1e-9)
        assert record["actual"]["image_size"] == {"pretrain": 12, "finetune": 48}[stage.kind]
        assert record["actual"]["patches"] == {"pretrain": 4, "finetune": 64}[stage.kind]
        assert (record["image_size"], record["patches"], record["image_tokens"]) == (64, 16, 17)
    record = records["finetune"]
    assert record["id"] == "micro-v1.S16-resize64-truncation32.finetune.imagenet1k.acc1.seed1"
    assert record["dataset"]["name"] == "pictograms/v1/plain" and record["dataset"]["n"] == 60
    share = record["value"] / 100
    assert record["standard_error"] == pytest.approx(100 * (share * (1 - share) / 60) ** 0.5)
    assert records["pretrain"]["protocol"] == record["protocol"]


def test_retrieval_is_clip_benchmarks_number_and_ranks_give_recall_at_any_k(world, suite):
    candidate = candidate_of(world, world[1][-1])
    _, loader = loader_of(world, candidate, "captions", "zeroshot_retrieval")
    theirs = zeroshot_retrieval.evaluate(
        candidate.model, loader, candidate.tokenizer, "cpu", amp=False, recall_k_list=[1, 5]
    )
    for direction in ("image", "text"):
        record = suite[f"{direction}_retrieval_recall@1"]
        ranks = decode_outcomes(record["outcomes"])
        assert record["value"] == pytest.approx(100 * theirs[f"{direction}_retrieval_recall@1"], abs=1e-5)
        assert 100 * (ranks < 1).mean() == pytest.approx(record["value"])
        assert (ranks < 5).mean() == pytest.approx(theirs[f"{direction}_retrieval_recall@5"], abs=1e-6)
    assert suite["text_retrieval_recall@1"]["outcomes"]["n"] == 48
    assert suite["image_retrieval_recall@1"]["outcomes"]["n"] > 48


def test_suite_is_written_beside_the_records_for_the_last_stage(world, suite):
    assert {record["stage"] for record in suite.values()} == {"finetune"}
    assert {"acc1", "relation_acc1", "attribute_acc1", "order_acc1"} < set(suite)
    kinds = ("relation_acc1", "attribute_acc1", "order_acc1")
    assert sum(suite[kind]["dataset"]["n"] for kind in kinds) == 48


def test_a_set_of_both_files_is_measured_once(world, suite, monkeypatch):
    """ImageNet-1k's stand-in is in records.json of both stages and in suite.json of the last."""
    project, stages = world
    measured = []

    def counted(candidate, test_set, *asked):
        measured.append((candidate.pixels.size, test_set.name))
        return measure(candidate, test_set, *asked)

    monkeypatch.setattr("clipa.evaluate.measure", counted)
    path = evaluate_run(stages, project)
    assert set(measured) <= {(12, "plain")}  # of the pre-trained stage, if no test has asked before
    assert suite["acc1"] in read_records(path)


def test_several_runs_share_a_process_and_its_decoded_images(world, tmp_path, monkeypatch):
    """Each has the records that it has alone; one that is not finished stops it before the first is measured."""
    _, stages = world
    project = world[0].model_copy(update={"runs_directory": str(tmp_path / "runs")})
    other = stages_of(parse_run("S16-resize64-truncation16"), stages[0].scale, seed=1)
    for stage in stages:
        finish_untrained_into(stage, world[0], project)
    with pytest.raises(UnfinishedStage, match=r"truncation16.*stage\.json: missing"):
        evaluate_runs([stages, other], project)
    assert not list((tmp_path / "runs").rglob("set.json"))
    for stage in other:
        finish_untrained(stage, project)
    read, alive = [], []

    def counted(*asked):
        read.append(asked[1])
        return read_shard(*asked)

    def loaded(*asked):
        gc.collect()
        assert sum(one() is not None for one in alive) == 0, "two models are in memory"
        candidate = load_candidate(*asked)
        alive.append(weakref.ref(candidate.model))
        return candidate

    shutil.rmtree(decoded_images(stages[0].scale, project), ignore_errors=True)
    monkeypatch.setattr("clipa.evaluate.decoding.read_shard", counted)
    monkeypatch.setattr("clipa.evaluate.load_candidate", loaded)
    paths = evaluate_runs([stages, other], project)
    shards = len(open_test_set(sets_folder(world) / "plain").shards)
    assert len(alive) == 4 and len(read) == 2 * shards  # at 12 and 48 pixels, not twice for either run
    assert [path.parts[-4] for path in paths] == [run[-1].run.slug for run in (stages, other)]
    for run, path in zip((stages, other), paths, strict=True):
        alone = project.model_copy(update={"runs_directory": str(tmp_path / run[-1].run.slug)})
        for stage in run:
            finish_untrained_into(stage, project, alone)
        monkeypatch.undo()
        assert answers(path) == answers(evaluate_run(run, alone))


def test_only_the_same_tokenizer_shares_tokens(world, tmp_path):
    project, stages = world
    folders = [Path(project.runs_directory) / stage.directory / "open_clip" for stage in stages]
    text = json.loads((folders[0] / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    one, same = (tokenizer_of(text, folder) for folder in folders)
    assert one is same and torch.equal(one("a red circle"), HFTokenizer(str(folders[0]), 32)("a red circle"))
    assert tokenizer_of(text | {"context_length": 8}, folders[0])(["a red circle", "a"]).shape == (2, 8)
    other = shutil.copytree(folders[0], tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["red"], vocabulary["blue"] = vocabulary["blue"], vocabulary["red"]
    (other / "tokenizer.json").write_text(json.dumps(content))
    assert torch.equal(tokenizer_of(text, other)("a red circle"), one("a blue circle"))
    assert one("a red circle").dtype == torch.int64 and tokenizer_of({}, None)(["red"]).shape == (1, 77)


def answers(path: Path) -> list[tuple[str, float, str]]:
    return [(one["id"], one["value"], one["outcomes"]["data"]) for one in read_records(path)]


def test_selection_scores_the_right_caption_against_the_wrong_ones(world):
    """A model that knows the right caption is right everywhere; one that cannot tell captions apart, nowhere."""
    candidate = candidate_of(world, world[1][-1])
    test_set = open_test_set(sets_folder(world) / "order")

    class Oracle:
        def __init__(self, right: float, wrong: float) -> None:
            self.right, self.wrong = right, wrong

        def encode_image(self, images, normalize):
            return torch.tensor([[1.0, 0.0]]).repeat(len(images), 1)

        def encode_text(self, is_right, normalize):
            cosine = torch.where(is_right, self.right, self.wrong)
            return torch.stack([cosine, (1 - cosine**2).sqrt()], dim=1)

    right = set()
    for shard in (test_set.directory / "test").glob("*.tar"):
        with tarfile.open(shard) as archive:
            for member in archive:
                if member.name.endswith(".json"):
                    right.add(json.load(archive.extractfile(member))["captions"][0])

    def recognise(captions: list[str]) -> torch.Tensor:
        return torch.tensor([caption in right for caption in captions])

    for oracle, expected in ((Oracle(1.0, 0.5), 100.0), (Oracle(1.0, 1.0), 0.0), (Oracle(0.5, 1.0), 0.0)):
        told = replace(candidate, model=oracle, tokenizer=recognise, texts={})
        assert [measurement.content["value"] for measurement in caption_selection(told, test_set)] == [
            expected
        ] * 3
        if oracle.right == oracle.wrong:  # ARO's own code takes the first of equal captions in its order sets
            measured = caption_selection(told, test_set, order_ties_win=True)
            assert [measurement.content["value"] for measurement in measured] == [0.0, 0.0, 100.0]


def test_the_studys_protocol_keeps_a_square_picture_whole(world):
    pixels = numpy.zeros((64, 64, 3), numpy.uint8)
    pixels[:, :32] = 255
    candidate = candidate_of(world, world[1][-1])
    image = candidate.preprocess(Image.fromarray(pixels))
    assert image.shape == (3, 48, 48)
    white = (1 - torch.tensor(candidate.normal.mean)) / torch.tensor(candidate.normal.std)
    torch.testing.assert_close(image[:, 0, 0], white)
    assert (image[:, :, 0] > 0).all() and (image[:, :, -1] < 0).all()
    stored = torch.from_numpy(numpy.array(resizing(candidate.pixels)(Image.fromarray(pixels))))
    assert torch.equal(candidate.normal(stored.permute(2, 0, 1)[None])[0], image)


def test_test_sets_are_told_apart_by_content(world, tmp_path):
    plain = sets_folder(world) / "plain"
    other = tmp_path / "plain"
    shutil.copytree(plain, other)
    assert open_test_set(other).fingerprint == open_test_set(plain).fingerprint
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    assert open_test_set(other).fingerprint != open_test_set(plain).fingerprint


def test_a_convnext_is_evaluated_by_a_process_that_has_trained_nothing(world):
    """Its small form is timm's by a name that `clipa.models` gives; the record has pixels and no patches."""
    project, stages = world
    scale = stages[0].scale
    for stage in stages_of(parse_run("ConvNeXt-T-resize64-truncation32"), scale, seed=1):
        finish_untrained(stage, project)
    code = (
        "import sys; from clipa.config import Project, Scale; from clipa.evaluate import evaluate_run;"
        "from clipa.study import parse_run; from clipa.stages import stages_of;"
        "scale = Scale.model_validate_json(sys.argv[1]);"
        "project = Project.model_validate_json(sys.argv[2]);"
        "print(evaluate_run(stages_of(parse_run('ConvNeXt-T-resize64-truncation32'), scale, seed=1), project));"
        # Classified without scikit-learn, which CLIP_benchmark's reports still find.
        "from clip_benchmark.metrics.zeroshot_classification import balanced_accuracy_score as mean_recall;"
        "assert 'sklearn' not in sys.modules and mean_recall([0, 0, 1], [0, 1, 1]) == 0.75;"
        "assert 'sklearn.metrics' in sys.modules"
    )
    command = [sys.executable, "-c", code, scale.model_dump_json(), project.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for record in read_records(Path(done.stdout.strip())):
        assert (record["patches"], record["image_tokens"], record["image_size"]) == (None, None, 64)
        assert record["actual"]["patches"] is None and record["actual"]["width"] == 48


def test_refusals_say_what_is_missing(world, tmp_path):
    project, stages = world
    elsewhere = project.model_copy(update={"runs_directory": str(tmp_path / "runs")})
    with pytest.raises(UnfinishedStage, match=r"stage\.json: missing; the stage is not finished"):
        evaluate_run(stages, elsewhere)
    assert not list((tmp_path / "runs").rglob("records.json"))
    with pytest.raises(EvaluationError, match="not a finished test set"):
        open_test_set(tmp_path)
    directory = Path(project.runs_directory) / stages[0].directory / "open_clip"
    with pytest.raises(
        EvaluationError, match="exported for 12 pixels and 32 text tokens, expected 48 and 32"
    ):
        load_candidate(
            directory, Pixels(48, "shorter", 48, "bilinear"), 32, stages[0].scale.augmentation, "cpu", 8
        )


def test_a_test_set_with_missing_items_gives_no_records(world, tmp_path):
    project, stages = world
    data = Path(project.data_directory) / data_slug(stages[0].data)
    copy = tmp_path / "data" / data.name
    shutil.copytree(data / "test", copy / "test")
    manifest = copy / "test" / "plain" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"n": 60', '"n": 61'))
    elsewhere = Project(data_directory=str(tmp_path / "data"), runs_directory=str(tmp_path / "runs"))
    for stage in stages:
        finish_untrained_into(stage, project, elsewhere)
    with pytest.raises(EvaluationError, match="60 items read, 61 expected"):
        evaluate_run(stages, elsewhere)
    assert not list((tmp_path / "runs").rglob("records.json"))


def finish_untrained_into(stage: Stage, project: Project, elsewhere: Project) -> None:
    shutil.copytree(
        Path(project.runs_directory) / stage.directory, Path(elsewhere.runs_directory) / stage.directory
    )

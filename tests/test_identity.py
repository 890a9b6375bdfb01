"""A stage is what it was made from: on other data, vocabulary, parts of speech, parent or code it does not go on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from clipa import checkpoint, inputs, provenance
from clipa.accept import AcceptError, accept
from clipa.cli import main as command_line
from clipa.cli import verify
from clipa.config import Scale, load_scale
from clipa.data import shards
from clipa.data.annotation import annotate
from clipa.data.shards import ShardError, read_manifest
from clipa.data.vocabulary import train_vocabulary
from clipa.evaluate import evaluate_run
from clipa.files import with_digest
from clipa.inputs import OtherInputs
from clipa.records import record_id, write_records
from clipa.resolved import DRAWN, UnfinishedStage, data_slug, digest, finished, world_fingerprint, write
from clipa.sources import Data
from clipa.stages import stages_of
from clipa.study import parse_run
from clipa.train import main, train_stage
from small_training import STEPS, resolved, tiny_scale, tiny_stages
from small_world import draw_small_world
from test_accept import known, records_of
from test_layout import imported_rooms, room, sources
from test_train import outcome, run

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world with parts of speech, an undisturbed pre-training and its fine-tuning."""
    root = tmp_path_factory.mktemp("identity")
    draw_small_world(tiny_scale(), root, ("plain",))
    annotate(data_of(root), 1, "world")
    codes, said = run(root, {"runs": "runs", "both": True})
    assert codes == [0], said
    return root


@pytest.fixture
def world(drawn: Path, tmp_path: Path) -> Path:
    shutil.copytree(drawn, tmp_path / "copy")
    return tmp_path / "copy"


def data_of(root: Path) -> Path:
    return root / "data" / data_slug(tiny_scale().data)


def stage_of(root: Path, number: int = 0, run: str = "S16-resize64-truncation32"):
    return resolved(tiny_stages(run)[number], root)


def other_data(root: Path) -> None:
    """Two shards change places: the same bytes in all, another manifest."""
    path = data_of(root) / "train" / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    first, second = content["shards"][:2]
    first["sha256"], second["sha256"] = second["sha256"], first["sha256"]
    places = [path.parent / one["name"] for one in (first, second)]
    bytes_ = [place.read_bytes() for place in places]
    for place, swapped in zip(places, reversed(bytes_), strict=True):
        place.write_bytes(swapped)
    path.write_text(json.dumps(content), encoding="utf-8")


def other_vocabulary(root: Path) -> None:
    (data_of(root) / "vocabulary" / "vocabulary.json").unlink()
    train_vocabulary(data_of(root), 600)


def other_tags(root: Path) -> None:
    """Every noun is a verb; the manifest of the sidecars names the new bytes."""
    train = data_of(root) / "train"
    manifest = json.loads((train / "annotation.json").read_text(encoding="utf-8"))
    for entry in manifest["sidecars"]:
        path = train / entry["name"]
        path.write_text(path.read_text(encoding="utf-8").replace('"NOUN"', '"VERB"'), encoding="utf-8")
        entry["sha256"] = shards.file_sha256(path)
    (train / "annotation.json").write_text(json.dumps(with_digest(manifest)), encoding="utf-8")


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------------------------------------- resume and re-entry


@pytest.mark.parametrize(
    ("change", "what"),
    [(other_data, "training data"), (other_vocabulary, "vocabulary")],
)
def test_a_stage_does_not_go_on_with_other_inputs(world, change, what):
    """Neither finished (its stage.json lost, as Snakemake deletes it) nor in the middle."""
    stage = stage_of(world)
    (stage.directory / "stage.json").unlink()
    change(world)
    for _ in range(2):
        with pytest.raises(
            OtherInputs, match=rf"was trained on {what} \w{{12}}, .*json is \w{{12}};"
        ) as error:
            train_stage(stage)
        assert "restore it, or move its checkpoints away" in one_line(error)
        for path in stage.directory.glob(f"checkpoint-{STEPS:09d}-*"):
            path.unlink()  # the checkpoint before it
    assert not (stage.directory / "stage.json").exists()


def test_syntax_masking_does_not_go_on_with_other_tags(world):
    stage = stage_of(world, run="S16-resize112-syntax8")
    train_stage(stage)
    other_tags(world)
    with pytest.raises(
        OtherInputs, match=r"was trained on parts of speech \w{12}, .*annotation\.json is \w{12}"
    ):
        train_stage(stage)


def test_a_sidecar_of_other_bytes_is_not_trained_on(world):
    path = next((data_of(world) / "train").glob("*.pos.jsonl"))
    path.write_text(path.read_text(encoding="utf-8").replace('"NOUN"', '"VERB"'), encoding="utf-8")
    with pytest.raises(ShardError, match=r"\.pos\.jsonl: sha256 is \w{16}, its manifest names \w{16}"):
        train_stage(stage_of(world, run="S16-resize112-syntax8"))


def test_a_stage_does_not_go_on_from_another_parent(world):
    """The parent is trained again, from other weights; its fingerprint is the same, as another machine may have it."""
    parent, child = stage_of(world), stage_of(world, 1)
    (child.directory / "stage.json").unlink()
    made = json.loads((parent.directory / "stage.json").read_text(encoding="utf-8"))
    made["export"]["open_clip_model.safetensors"] = "0" * 64
    (parent.directory / "stage.json").write_text(json.dumps(with_digest(made)), encoding="utf-8")
    with pytest.raises(
        OtherInputs, match=r"was trained on parent \w{12}, .*stage\.json is 0{12} by its weights"
    ):
        train_stage(child)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (other_data, r"training data is \w{12}, its parent's was \w{12}"),
        (other_vocabulary, r"vocabulary is \w{12}, its parent's was \w{12}"),
    ],
)
def test_a_child_is_not_trained_on_other_data_than_its_parent(world, change, says):
    child = stage_of(world, 1)
    shutil.rmtree(child.directory)
    change(world)
    with pytest.raises(OtherInputs, match=says) as error:
        train_stage(child)
    assert "restore it, or train the parent again" in one_line(error)


def test_what_was_trained_on_other_data_is_not_evaluated(world):
    project = draw_small_world(tiny_scale(), world, ("plain",))
    assert evaluate_run(tiny_stages(), project).is_file()
    other_data(world)
    with pytest.raises(OtherInputs, match=r"was trained on training data \w{12}, .*manifest\.json is \w{12}"):
        evaluate_run(tiny_stages(), project)


def test_a_record_names_all_that_its_model_was_made_from(world):
    project = draw_small_world(tiny_scale(), world, ("plain",))
    records = json.loads(evaluate_run(tiny_stages(), project).read_text(encoding="utf-8"))["records"]
    manifest = read_manifest(data_of(world) / "train")
    parent = finished(stage_of(world).directory, tiny_stages()[0].fingerprint)
    for record in records:
        found = record["provenance"]
        assert found["inputs"]["data"] == digest(manifest) and found["integrity"] == "once"
        assert found["data_fingerprint"] == digest(manifest)[:12]
        assert found["commits"] == [{"from_step": 0, **inputs.code_here()}]
    assert records[-1]["provenance"]["inputs"]["parent"] == parent["export"]["open_clip_model.safetensors"]


# ------------------------------------------------------------------------------------------------- the commit point


def test_killed_at_any_rename_nothing_is_lost_or_doubled(drawn: Path, tmp_path: Path):
    """kill -9 before each rename of a stage: checkpoints, loss logs, stage.json. A second start ends with the same."""
    root = tmp_path / "killed"
    shutil.copytree(drawn / "data", root / "data")
    deaths = [{"runs": f"rename{k}", "die": "rename", "step": k, "signal": 9} for k in range(1, 11)]
    again = [{"runs": death["runs"]} for death in deaths]
    codes, said = run(root, *(one for pair in zip(deaths, again, strict=True) for one in pair))
    assert codes == [-9, 0] * 10, said
    expected = outcome(drawn, "runs")
    for death in deaths:
        assert outcome(root, death["runs"]) == expected, death
    [final] = (root / "rename1" / tiny_stages()[0].directory).glob(f"checkpoint-{STEPS:09d}-*")
    with safe_open(final, framework="pt") as file:
        metadata = json.loads(file.metadata()["clipa"])
    assert metadata["step"] == STEPS and len(metadata["losses"]) == STEPS
    assert {"inputs", "commits", "integrity"} <= metadata.keys()


def test_a_loss_log_without_its_tail_is_written_again_from_the_checkpoint(world):
    stage = stage_of(world)
    log = stage.directory / "loss.jsonl"
    whole = log.read_text(encoding="utf-8")
    log.write_text("".join(whole.splitlines(keepends=True)[:-3]), encoding="utf-8")
    (stage.directory / "stage.json").unlink()
    train_stage(stage)
    assert log.read_text(encoding="utf-8") == whole


# ------------------------------------------------------------------------------------- stages of an earlier version


@pytest.mark.parametrize("missing", ["inputs", "commits", "integrity", "export"])
def test_a_stage_of_an_earlier_version_is_refused_in_one_line(world, missing):
    path = stage_of(world).directory / "stage.json"
    made = json.loads(path.read_text(encoding="utf-8"))
    del made[missing]
    path.write_text(json.dumps(made), encoding="utf-8")
    with pytest.raises(UnfinishedStage, match=f"names no {missing}: an earlier version wrote it") as error:
        train_stage(stage_of(world, 1))
    assert "move " in one_line(error) and "train the stage again" in str(error.value)


def test_a_checkpoint_of_an_earlier_version_is_refused_in_one_line(world):
    stage = stage_of(world)
    step, tensors, metadata = checkpoint.load_latest(stage.directory, stage.fingerprint)
    old = {name: value for name, value in metadata.items() if name not in ("inputs", "commits", "integrity")}
    state = {name: tensors[name] for name in tensors}
    for path in stage.directory.glob("checkpoint-*"):
        path.unlink()
    checkpoint.save(stage.directory, step, state, old)
    with pytest.raises(
        OtherInputs, match=r"checkpoint of step 12 names no commits: an earlier version"
    ) as error:
        train_stage(stage)
    assert "move its checkpoints away" in one_line(error)


# -------------------------------------------------------------------------------------------------------------- code


def clipa(
    *arguments: object, source: Path = ROOT / "src", cwd: Path | None = None
) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "clipa", *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_other_code_goes_on_only_on_purpose_and_is_recorded(world, tmp_path):
    codes, said = run(world, {"runs": "halved", "die": "update", "step": 7, "signal": 9})
    assert codes == [-9], said
    stage = resolved(tiny_stages()[0], world, "halved")
    file = stage.directory / "stage.resolved.json"
    other = tmp_path / "src"
    shutil.copytree(ROOT / "src" / "clipa", other / "clipa", ignore=shutil.ignore_patterns("__pycache__"))
    with open(other / "clipa" / "train.py", "a", encoding="utf-8") as code:
        code.write("\n# another commit\n")
    refused = clipa("train", file, source=other)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1, refused.stderr
    assert f"was trained to step 6 by code {provenance.code()} (" in refused.stderr
    assert "of no known commit" in refused.stderr and f"`clipa train --adopt-commit {file}`" in refused.stderr
    adopted = clipa("train", "--adopt-commit", file, source=other)
    assert adopted.returncode == 0, adopted.stderr
    made = finished(stage.directory, stage.fingerprint)
    assert [one["from_step"] for one in made["commits"]] == [0, 6]
    assert made["commits"][0] == {"from_step": 0, **inputs.code_here()}
    assert made["commits"][1]["code"] != made["commits"][0]["code"] and made["commits"][1]["commit"] is None
    text, code = verify.report([stage.directory])
    assert (
        code == 0 and f"trained by {provenance.code()} from step 0 (" in text and "from step 6 (of no" in text
    )


def test_a_finished_stage_of_other_code_is_evaluated_and_not_trained(world, monkeypatch):
    """A job that is a whole run (`one_process`) comes back to stages that an earlier commit has finished."""
    from clipa import fits, train
    from clipa.cli.evaluation import _train_missing

    stages, trained = [stage_of(world), stage_of(world, 1)], []
    monkeypatch.setattr(inputs, "code_here", lambda: {"commit": None, "dirty": None, "code": "another"})
    monkeypatch.setattr(fits, "resolve_fitting", lambda number, _: stages[number])
    monkeypatch.setattr(train, "main", lambda path: trained.append(path) or 0)
    assert _train_missing([0, 1], None) == 0 and trained == []
    (stages[1].directory / "stage.json").unlink()
    assert _train_missing([0, 1], None) == 0 and trained == [stages[1].directory / "stage.resolved.json"]


def test_an_edit_that_no_training_runs_is_no_other_code(tmp_path, monkeypatch):
    package = tmp_path / "src" / "clipa"
    shutil.copytree(ROOT / "src" / "clipa", package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "_SOURCE", package)
    before = provenance.code()
    for name in ("law.py", "render/tables/__init__.py", "cli/verify.py", "notes.txt"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        with open(package / name, "a", encoding="utf-8") as file:
            file.write("\n# edited\n")
    assert provenance.code() == before
    for name in ("losses.py", "data/stream.py", "a_new_module.py", "model_configs/micro-v1-S16.json"):
        with open(package / name, "a", encoding="utf-8") as file:
            file.write("\n")
        assert provenance.code() != before
        before = provenance.code()


def test_all_modules_that_a_training_imports_are_its_code():
    """Also those that functions import; what stages decide beforehand is in their content."""
    todo, seen = ["train"], set()
    while todo:
        seen.add(name := todo.pop())
        for path in sources():
            if room(path) == name:
                todo += imported_rooms(path) - seen
    assert {"losses", "inputs", "data"} <= seen
    assert not seen & provenance.READING


def test_another_commit_of_the_same_code_goes_on_and_is_recorded(world, monkeypatch):
    stage = stage_of(world)
    (stage.directory / "stage.json").unlink()
    monkeypatch.setattr(inputs, "commit", lambda: ("1" * 40, False))
    train_stage(stage)
    made = finished(stage.directory, stage.fingerprint)
    assert [one["from_step"] for one in made["commits"]] == [0, STEPS]
    assert made["commits"][1]["commit"] == "1" * 40


# ---------------------------------------------------------------------------------------------- data from elsewhere


@pytest.fixture
def web(drawn: Path, tmp_path: Path) -> Path:
    """A project folder whose scale trains on downloaded data: the tiny world's shards, as img2dataset leaves them."""
    root = tmp_path / "web"
    shutil.copytree(ROOT / "config", root / "config")
    name(root, None)
    data = root / "results" / "data" / data_slug(web_data(None))
    shutil.copytree(data_of(drawn), data)
    for path in (data / "train").glob("*.json*"):
        path.unlink()
    return root


def web_data(manifest: str | None) -> Data:
    links = {"repository": "someone/links"}
    return Data(
        kind="webdataset", name="web", shards=8, lanes=4, shuffle_window=16, manifest=manifest, download=links
    )


def web_scale(manifest: str | None, directory: Path = Path("config")) -> Scale:
    values = tiny_scale().model_dump(mode="json", exclude={"negclip", "negatives"})
    own = {
        "name": "web",
        "config_directory": directory,
        "data": web_data(manifest).model_dump(),
        "negclip": None,
        "tagger": "en_core_web_sm",
    }
    return Scale.model_validate(values | own | {"negatives": None})


def name(root: Path, manifest: str | None) -> None:
    """Write the scale's file, which names this digest."""
    values = web_scale(manifest).model_dump(mode="json", exclude={"name", "config_directory"})
    (root / "config" / "scales" / "web.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def web_records(scale: Scale) -> list[dict]:
    """Records of a run at this scale, as its evaluation would write them."""
    made, _ = records_of(tiny_scale())
    stages = stages_of(parse_run("S16-resize64-truncation32"), scale, 0)
    for record, stage in zip(made, stages, strict=True):
        record |= {"scale": scale.name, "stage_fingerprint": stage.fingerprint}
        record["dataset"]["name"] = "plain"
        record["id"] = record_id(record)
    return made


def trained(root: Path) -> subprocess.CompletedProcess:
    """`clipa resolve` and `clipa train` of the pre-training."""
    files = clipa("resolve", "S16-resize64-truncation32", "--scale", "web", cwd=root)
    assert files.returncode == 0, files.stderr
    return clipa("train", files.stdout.splitlines()[0], cwd=root)


def test_the_digest_of_downloaded_data_is_in_the_fingerprint_and_not_in_the_folder():
    stages = [
        stages_of(parse_run("S16-resize64-truncation32"), web_scale(pin), 0)[1] for pin in (None, "a" * 64)
    ]
    without, pinned = stages
    assert without.fingerprint != pinned.fingerprint != "" and data_slug(without.data) == data_slug(
        pinned.data
    )
    assert "manifest" not in without.content["data"] and pinned.content["data"]["manifest"] == "a" * 64


def test_a_drawn_world_needs_no_digest_in_its_configuration():
    with pytest.raises(ValueError, match="a drawn world has its parameters"):
        tiny_scale(data={**tiny_scale().data.model_dump(), "manifest": "a" * 64})


def test_downloaded_data_is_named_and_then_nothing_else_is_trained_on(web: Path):
    indexed = clipa("index", "train", "--scale", "web", cwd=web)
    assert indexed.returncode == 0, indexed.stderr
    line = indexed.stdout.splitlines()[1]
    assert line.startswith("in config/scales/web.yaml, data:  manifest: ")
    found = line.rpartition(" ")[2]
    # Not named: it trains, and says at once that nothing of it can be accepted.
    loose = trained(web)
    assert loose.returncode == 0, loose.stderr
    assert f"before a long training, add to web's entry: manifest: {found}" in loose.stderr
    name(web, found)
    pinned = trained(web)
    assert pinned.returncode == 0 and "before a long training" not in pinned.stderr, pinned.stderr
    # Named, and not there: no step is made.
    name(web, "b" * 64)
    refused = trained(web)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1, refused.stderr
    assert (
        f"manifest.json: digest is {found[:12]}, this stage's configuration names bbbbbbbbbbbb"
        in refused.stderr
    )
    assert not list(web.glob("results/runs/web/**/checkpoint-000000003*"))


def test_a_manifest_digest_that_is_none_is_refused_before_anything_is_planned(web: Path):
    name(web, None)
    path = web / "config" / "scales" / "web.yaml"
    path.write_text(
        path.read_text(encoding="utf-8").replace("manifest: null", "manifest: abc"), encoding="utf-8"
    )
    refused = clipa("resolve", "S16-resize64-truncation32", "--scale", "web", cwd=web)
    assert refused.returncode == 1 and "data.manifest: " in refused.stderr and refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("pin", "says"),
    [
        (
            None,
            r"scales/web\.yaml: data does not say which data was downloaded; add `manifest: 5fb7\w+` and train",
        ),
        ("b" * 64, r"trained on data 5fb77c2ea1a7, .*scales/web\.yaml names b{12} as data\.manifest"),
        ("5fb77c2ea1a7" + "0" * 52, None),
    ],
)
def test_records_of_downloaded_data_are_accepted_only_where_it_is_named(tmp_path, pin, says):
    scale = web_scale(pin)
    write_records(tmp_path / "records.json", web_records(scale))
    if says is None:
        assert accept([tmp_path / "records.json"], scale, tmp_path / "recorded", knows_commit=known)
        return
    with pytest.raises(AcceptError, match=says) as error:
        accept([tmp_path / "records.json"], scale, tmp_path / "recorded", knows_commit=known)
    one_line(error)


def test_every_code_that_trained_a_part_must_be_known(tmp_path):
    scale = web_scale("5fb77c2ea1a7" + "0" * 52)
    made = web_records(scale)
    for record in made:
        record["provenance"]["commits"] = [
            {"from_step": step, "commit": "0" * 40, "dirty": step == 0, "code": "0" * 12} for step in (0, 6)
        ]
    write_records(tmp_path / "records.json", made)
    with pytest.raises(AcceptError, match="made with uncommitted changes"):
        accept([tmp_path / "records.json"], scale, tmp_path / "recorded", knows_commit=known)


# ------------------------------------------------------------------------------------------------- the drawn world


def test_a_machine_that_draws_other_bytes_says_so_and_its_records_are_refused(tmp_path, monkeypatch, capsys):
    """What another libjpeg does: the same world, another digest."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    path = tmp_path / "config" / "scales" / "ci.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["data"]["world"] |= {"training_images": 64, "images_per_shard": 8}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    scale = load_scale("ci")
    assert command_line(["draw", "train", "--scale", "ci"]) == 0
    assert "drew other bytes" not in capsys.readouterr().err
    monkeypatch.setitem(DRAWN, world_fingerprint(scale.data.world), "c" * 64)
    assert command_line(["draw", "train", "--scale", "ci"]) == 0
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        "recorded results have cccccccccccc: another libjpeg, FreeType or processor drew other bytes" in said
    )
    monkeypatch.setitem(DRAWN, world_fingerprint(tiny_scale().data.world), "c" * 64)
    write_records("records.json", records_of(tiny_scale())[0])
    with pytest.raises(
        AcceptError, match=r"trained on data 5fb77c2ea1a7, recorded results on c{12}: another libjpeg"
    ):
        accept(["records.json"], tiny_scale(), "recorded", knows_commit=known)


def test_the_recorded_results_were_trained_on_the_world_that_micro_v1_names():
    text, code = verify.report([ROOT / "results" / "recorded"])
    assert code == 0, text


# -------------------------------------------------------------------------------------------------- integrity modes


@pytest.mark.parametrize(
    ("first", "then", "says"), [("manifest", "once", "manifest"), ("once", "always", "once")]
)
def test_the_weakest_mode_is_recorded_and_is_in_no_fingerprint(world, first, then, says):
    for mode, scenario in ((first, {"die": "update", "step": 7, "signal": 9}), (then, {})):
        data = {**tiny_scale().data.model_dump(mode="json"), "integrity": mode}
        codes, said = run(world, {"runs": first, "stage": {"data": data}, **scenario})
        assert codes == [-9 if scenario else 0], said
    assert outcome(world, first) == outcome(world, "runs")
    made = finished(resolved(tiny_stages()[0], world, first).directory, tiny_stages()[0].fingerprint)
    assert made["integrity"] == says


# ------------------------------------------------------------------------------------------------------------ verify


def test_verify_names_each_file_of_a_tampered_copy(world, monkeypatch):
    project = draw_small_world(tiny_scale(), world, ("plain",))
    records = evaluate_run(tiny_stages(), project)
    monkeypatch.setattr(verify, "load_scale", lambda _: tiny_scale())
    monkeypatch.setattr(
        verify, "doubts", lambda *_: iter(())
    )  # a dirty tree's; tests/test_integrity.py has them
    for number in (0, 1):
        write(stage_of(world, number))
    text, code = verify.report([world])
    assert code == 0, text
    content = json.loads(records.read_text(encoding="utf-8"))
    content["records"][0]["provenance"]["integrity"] = "always"
    content["records"][1]["dataset"]["fingerprint"] = "0" * 12
    records.write_text(json.dumps(with_digest(content)), encoding="utf-8")
    sidecar = next((data_of(world) / "train").glob("*.pos.jsonl"))
    sidecar.write_text("", encoding="utf-8")
    shard = next((data_of(world) / "test" / "plain" / "test").glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-1])
    other_vocabulary(world)
    text, code = verify.report([world])
    assert code == 1
    for says in (
        f"{records}: record {content['records'][0]['id']}: its integrity is always",
        f"{records}: record {content['records'][1]['id']}: was measured on plain {'0' * 12}",
        f"{sidecar}: sha256 is",
        f"{shard}: sha256 is",
        f"{stage_of(world).directory / 'stage.json'}: was trained on vocabulary",
        f"{stage_of(world, 1).directory / 'stage.json'}: was trained on vocabulary",
    ):
        assert says in text, (says, text)


def test_the_command_line_goes_through(world):
    assert main(write(stage_of(world))) == 0

"""Every key of every file in config/, set to wrong values: refused in one line with file and key, or sensible.

What is accepted must be in SENSIBLE, with the reason, and has been planned with all its stages' fingerprints.
"""

import copy
import functools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipa.config import ConfigError
from clipa.downloads import load_downloads
from clipa.plan import load_plan

CONFIG = Path(__file__).parents[1] / "config"

# Key, without list indices (a pattern) → what is sensible in its place → why.
SENSIBLE = {
    r"(.*\.)?about": {"unknown": "free text", "shell": "free text, which no command gets"},
    r"(runs|data)_directory": {"unknown": "any directory that holds nothing tracked"},
    r"seeds": {"reversed": "a set"},
    r"left_out_sizes": {"reversed": "a set", "empty": "experiments may ask for no such run"},
    r"experiments|models|runs|fills|(runs|repositories)\..*|cells\..*": {
        "reversed": "a set: runs are done in the paper's order",
        "twice": "a run that is named twice exists once",
    },
    r"fills": {"unknown": "a target of its own name: measure_no-such"},
    r"cells\..*": {"list": "a list of one run"},
    r"cells|evaluation\.(benchmarks|suite)|files|repositories|test_sets": {
        "extra": "one more, under its own name"
    },
    r"test_sets\..*\.(terms|by_hand)": {"unknown": "free text", "shell": "free text, which no command gets"},
    r"test_sets\..*\.items": {"null": "not known yet"},
    r"(data|sources\..*)\.name": {"unknown": "a data set of that name"},
    r"data\.files|data\.tests\..*": {
        "unknown": "a place, which is looked at before anything is trained",
        "shell": "likewise; no command gets it",
    },
    r"data\.tests": {"extra": "one more, under its own name"},
    r"negatives\.source": {"null": "the scale's own data"},
    r"threads|experiments|negatives\.rows": {"null": "as torch has it; those of the scale; all"},
    r".*\.(warmup_steps|color_jitter|grayscale_probability)": {"zero": "none"},
    r"models\..*\.augmentation": {"null": "the scale's"},
    r"negatives\.augmentation": {"null": "that of the fine-tuning before"},
    r".*\.microbatch|models\..*\.(patch_size|sharded)": {"null": "the scale's, or none"},
    r"resources\.card": {"null": "nothing is chosen: passes are as configured"},
    r"[A-Za-z0-9.-]+\.(batch_size|samples|mask|pooling|color_jitter|grayscale_probability|warmup_steps|data|"
    r"text_recipe|image_size|gelu|positions|protocol)": {
        "null": "as if the key were not there: as in the stage before, or the study"
    },
    r"(.*\.)?muon": {"null": "AdamW for all"},
    r"(.*\.)?muon\.weight_decay": {"zero": "none"},
    r".*\.workers": {"zero": "the training process reads for itself"},
    r"paper\.squash_from": {"null": "no exception"},
    r"repositories\..*\.files": {
        "null": "all files",
        "unknown": "a pattern",
        "shell": "a pattern, which no command gets",
    },
    r"files\..*\.bytes": {"null": "as many as the server announces"},
    r"files\..*\.digest|repositories\..*\.revision": {"null": "not known; the download is refused"},
}
NAN, INF = float("nan"), float("inf")


def nodes(value: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Every key of a document with its path; of list items, and of maps with the same keys, the first."""
    yield path, value
    if isinstance(value, list) and value:
        yield from nodes(value[0], (*path, 0))
    shapes = set()
    for key, child in value.items() if isinstance(value, dict) else ():
        shape = tuple(child) if isinstance(child, dict) and child else key
        if shape not in shapes:
            yield from nodes(child, (*path, key))
        shapes.add(shape)


def mutations(value: Any) -> dict[str, Any]:
    """Wrong values in the place of ``value``, by name."""
    if isinstance(value, bool):
        return {"number": 7, "word": "maybe", "null": None}
    if isinstance(value, (int, float)):
        numbers = {"negative": -abs(value) or -1, "zero": 0, "nan": NAN, "inf": INF, "huge": 10**30}
        return {**numbers, "word": "many", "list": [value], "null": None, "yes": True}
    if isinstance(value, str):
        words = {"unknown": "no-such", "empty": "", "shell": f"{value}; touch P"}
        return {**words, "number": 7, "null": None, "list": [value]}
    if isinstance(value, list):
        return {
            "empty": [],
            "reversed": value[::-1],
            "map": {"a": 1},
            "twice": [*value, value[0]],
            "null": None,
        }
    if isinstance(value, dict):
        extra = {**value, "no_such_key": next(iter(value.values()), 1)}
        return {"list": [1], "word": "x", "extra": extra, "null": None}
    return {"word": "no-such", "negative": -1}


def changed(tree: Any, path: tuple, value: Any) -> Any:
    if not path:
        return value
    tree = copy.deepcopy(tree)
    functools.reduce(lambda inner, key: inner[key], path[:-1], tree)[path[-1]] = value
    return tree


BELOW = "below"
"""A scale of these tests: the paper's, with the law's model below S/16."""


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Files of config/, each with what makes a plan read it."""
    scales = [
        (
            f"scales/{path.name}",
            {"scale": path.stem, "experiments": ["ci" if path.stem == "ci" else "table12"]},
        )
        for path in sorted(CONFIG.glob("scales/*.yaml"))
    ]
    experiments = [
        (
            f"experiments/{path.name}",
            {"scale": BELOW if "Ti/16" in path.read_text() else "paper", "experiments": [path.stem]},
        )
        for path in sorted(CONFIG.glob("experiments/*.yaml"))
    ]
    recipes = ("recipes.yaml", {"scale": "paper", "experiments": ["table1", "table10", "readings"]})
    protocols = ("protocols.yaml", {"scale": "paper", "experiments": ["table10"]})
    return [
        ("config.yaml", {}),
        ("downloads.yaml", {"scale": "ci"}),
        recipes,
        protocols,
        *scales,
        *experiments,
    ]


def outcome(root: Path, overrides: dict[str, Any]) -> str | None:
    """The one line of the refusal; None for a configuration that is planned. Anything else is raised."""
    try:
        load_plan(overrides, root)
        load_downloads(root / "config")
    except ConfigError as error:
        return str(error)
    return None


def faults_of(root: Path, name: str, overrides: dict[str, Any]) -> tuple[int, list[str]]:
    """The number of mutants of a file, and what is wrong with how they are taken."""
    file = root / "config" / name
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    count, faults = 0, []
    for path, value in nodes(tree):
        for kind, wrong in mutations(value).items():
            if (type(wrong), wrong) == (type(value), value):
                continue
            file.write_text(
                yaml.dump(changed(tree, path, wrong), Dumper=yaml.CSafeDumper, sort_keys=False),
                encoding="utf-8",
            )
            count += 1
            keys = [str(key) for key in path if not isinstance(key, int)]
            label = f"{name}: {'.'.join(keys)} {kind} = {str(wrong)[:60]}"
            try:
                said = outcome(root, overrides)
            except Exception as error:
                faults.append(f"{label}: {type(error).__name__}: {error}")
                continue
            if said is None and not sensible(".".join(keys), kind):
                faults.append(f"{label}: accepted")
            elif said is not None and not named(said, file, keys):
                faults.append(f"{label}: said {said}")
    return count, faults


def named(said: str, file: Path, keys: list[str]) -> bool:
    """Whether a refusal is one line with the file and the key (or the key that was added to it)."""
    found = any(
        re.search(rf"(?<![\w-]){re.escape(key)}(?![\w-])", said.replace(str(file), ""))
        for key in ["no_such_key", *keys[-1:]]
    )
    return "\n" not in said and str(file) in said and (found or not keys)


def sensible(key: str, kind: str) -> bool:
    return any(kind in kinds and re.fullmatch(pattern, key) for pattern, kinds in SENSIBLE.items())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(CONFIG, tmp_path / "config")
    rates = {"pretrain": 8e-6, "finetune": 8e-7}
    scale = {"extends": "paper", "models": {"Ti/16": {"config": "S16", "base_lr": rates}}}
    (tmp_path / "config" / "scales" / f"{BELOW}.yaml").write_text(yaml.safe_dump(scale), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("name", "overrides"), cases(), ids=[name for name, _ in cases()])
def test_a_wrong_value_is_refused(root: Path, name: str, overrides: dict[str, Any]) -> None:
    count, faults = faults_of(root, name, overrides)
    assert count > 20 and not faults, "\n".join([f"{len(faults)} of {count} mutants of {name}:", *faults])


def test_a_wrong_value_of_a_key_that_no_file_has_is_refused(root: Path) -> None:
    """The file says `muon`, and is planned; then each of its keys is set to wrong values."""
    file = root / "config" / "scales" / "ci.yaml"
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    tree = {"extends": tree["extends"], "experiments": ["ci"], "pretrain": tree["pretrain"]}
    tree["pretrain"]["muon"] = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert outcome(root, {"scale": "ci"}) is None
    count, faults = faults_of(root, "scales/ci.yaml", {"scale": "ci"})
    assert count > 20 and not faults, "\n".join(faults)


def test_a_wrong_value_of_a_download_is_refused(root: Path) -> None:
    """The paper's file has the defaults; here all keys are written down."""
    file = root / "config" / "scales" / f"{BELOW}.yaml"
    asked = {"repository": "laion/relaion400m", "url_column": "URL", "caption_column": "TEXT"}
    numbers = {"minimum_yield": 0.6, "hours": 6, "images_per_second": 100, "images_per_shard": 1000}
    asked["distributor"] = "ray"
    tree = {"extends": "paper", "experiments": ["table12"], "data": {"download": asked | numbers}}
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert outcome(root, {"scale": BELOW}) is None
    count, faults = faults_of(root, f"scales/{BELOW}.yaml", {"scale": BELOW})
    assert count > 50 and not faults, "\n".join(faults)


def test_a_wrong_value_of_own_data_is_refused(root: Path) -> None:
    """Keys of data of kind local, as `clipa init` writes them."""
    tree = {
        "extends": "paper",
        "data": {
            "kind": "local",
            "name": "photos",
            "files": "/data/*.tar",
            "shards": 64,
            "tests": {"birds": "/birds"},
        },
        "evaluation": {"benchmarks": {"birds": "birds"}},
        "experiments": ["ci"],
    }
    file = root / "config" / "scales" / "photos.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert outcome(root, {"scale": "photos"}) is None
    count, faults = faults_of(root, "scales/photos.yaml", {"scale": "photos"})
    assert count > 20 and not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda text: text + b"# gro\xdf\n", id="latin-1"),
        pytest.param(lambda text: text + text, id="keys twice"),
        pytest.param(lambda text: b"", id="empty"),
        pytest.param(lambda text: b"- 1\n", id="a list"),
        pytest.param(lambda text: text + b"\0", id="NUL"),
        pytest.param(lambda text: text + b"\tx: [\n", id="no YAML"),
        pytest.param(lambda text: text + b"? [a, b]\n: 1\n", id="a list as a key"),
        pytest.param(lambda text: text + b"x: " + b"[" * 5000, id="deep"),
        pytest.param(lambda text: text + b"x: " + b"9" * 5000 + b"\n", id="an endless number"),
        pytest.param(lambda text: text + b"x: 2023-99-99\n", id="no date"),
        pytest.param(lambda text: text + b"x: !!python/object/apply:os.system [touch P]\n", id="an object"),
    ],
)
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        case
        for case in cases()
        if case[0].count("/") == 0 or case[0] in ("scales/micro-v1.yaml", "experiments/demo.yaml")
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    root: Path, name: str, overrides: dict[str, Any], spoil: Any
) -> None:
    file = root / "config" / name
    file.write_bytes(spoil(file.read_bytes()))
    said = outcome(root, {"scale": "micro-v1", "experiments": ["demo"]} if "demo" in name else overrides)
    assert said is not None and str(file) in said and "\n" not in said and not Path("P").exists()


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({("data", "lanes"): 6}, r"pretrain\.batch_size: 32 is not a multiple of the 6 lanes"),
        ({("processes",): 3}, r"pretrain\.batch_size: 32 is not a multiple of the 3 processes"),
        (
            {("processes",): 2, ("resources", "nodes"): 3},
            r"resources\.nodes: 2 processes are not a multiple of 3",
        ),
        (
            {("processes",): 16, ("device",): "cuda", ("resources", "gpus"): 8},
            r"resources\.gpus: 16 processes need a GPU each; 1 nodes with 8 have 8",
        ),
        ({("data", "lanes"): 64}, r"data\.lanes: 64 lanes need as many shards; there are 40"),
        ({("device",): "cuda"}, r"resources\.gpus: a scale on the device cuda asks for none"),
        ({("kept_patches", 98): 65}, r"kept_patches\.98: 65 of 64 patches"),
        ({("image_sizes", 224): 50}, r"image_sizes: 50 is not a multiple"),
        (
            {("patch_size",): 12},
            r"models\.S/16\.config: micro-v1-S16\.json has patches of 6, patch_size is 12",
        ),
        ({("models", "S/16", "config"): "S17"}, r"models\.S/16\.config: there is no .*S17\.json"),
        ({("vocabulary_size",): None}, r"vocabulary_size: the embedded world's"),
        ({("tagger",): "no-such"}, r"tagger: "),
        (
            {("evaluation", "suite", "imagenetv2"): "order"},
            r"evaluation\.suite\.imagenetv2: 'order' is no test set",
        ),
        ({("negatives", "source"): "COCO-2014"}, r"negatives\.source: there is no data source 'COCO-2014'"),
        (
            {("negatives", "augmentation"): {"std": [0.5, 0.5, 0.5]}},
            r"negatives\.augmentation: mean and std are not the scale's",
        ),
        (
            {("models", "L/16", "augmentation"): {"mean": [0.5, 0.5, 0.5]}},
            r"models\.L/16\.augmentation: mean and std are not the scale's",
        ),
        (
            {("sharded",): True, ("pretrain", "muon"): {"lr": 0.02}},
            r"pretrain\.muon: a sharded matrix has no",
        ),
        (
            {("models", "S/16", "sharded"): True, ("finetune", "muon"): {"lr": 0.02}},
            r"finetune\.muon: a sharded matrix has no",
        ),
        ({("pretrain", "microbatch"): 64}, r"pretrain: microbatch 64 exceeds batch_size 32"),
        (
            {("data", "resident"): True, ("augmentation", "color_jitter"): 0.3},
            r"colours are not changed by a resident loader; .*data\.resident: false",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(root: Path, edits: dict[tuple, Any], said: str) -> None:
    file = root / "config" / "scales" / "micro-v1.yaml"
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    for path, value in edits.items():
        functools.reduce(lambda inner, key: inner[key], path[:-1], tree)[path[-1]] = value
    file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    refusal = outcome(root, {"scale": "micro-v1"})
    assert refusal is not None and re.search(said, refusal), refusal
    assert str(file) in refusal and "\n" not in refusal


@pytest.mark.parametrize(
    ("source", "edit", "said"),
    [
        (None, {"shards": None}, r"data: `shards` belongs to"),
        (None, {"download": None}, r"data\.download: missing"),
        (
            None,
            {"download": {"repository": "no/such"}},
            r"data\.download\.repository: 'no/such' is not in config",
        ),
        (None, {"download": {"repository": "laion/relaion400m", "url_column": "U; touch P"}}, "url_column"),
        (None, {"resident": True}, "`resident` is for data of kind pictograms"),
        ("LAION-2B", {"name": "laion-400m"}, r"name: 'laion-400m' occurs twice"),
        (
            "COCO-2014",
            {"lanes": 24},
            r"negclip\.batch_size: 256 is not a multiple of the 24 lanes of coco-2014",
        ),
    ],
)
def test_downloaded_data_has_what_its_use_needs(
    root: Path, source: str | None, edit: dict, said: str
) -> None:
    file = root / "config" / "scales" / "paper.yaml"
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    (tree["sources"][source] if source else tree["data"]).update(edit)
    file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    refusal = outcome(root, {"scale": "paper", "experiments": ["table14"]})
    assert refusal is not None and re.search(said, refusal), refusal
    assert str(file) in refusal and "\n" not in refusal

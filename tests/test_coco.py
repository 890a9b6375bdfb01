"""COCO's captions as a list of images, through the workflow's own rules, from a server on this machine."""

import hashlib
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from clipa.cli import parser
from clipa.data.download import COCO_CAPTIONS, write_image_list
from clipa.downloads import DownloadError
from clipa.plan import load_plan

ROOT = Path(__file__).resolve().parent.parent
PLAN = load_plan({"scale": "paper"}, ROOT)
COCO = PLAN.data_of(PLAN.scale.sources["COCO-2014"])
HOST, BUCKET = "http://images.cocodataset.org", "https://s3.amazonaws.com/images.cocodataset.org"
IMAGES = [
    {"id": image, "file_name": f"{image:012d}.jpg", "coco_url": f"{HOST}/train2014/{image:012d}.jpg"}
    for image in (57870, 9, 25)
]
ANNOTATIONS = [
    {"id": 7, "image_id": 57870, "caption": "A restaurant has modern wooden tables.\n"},
    {"id": 2, "image_id": 9, "caption": "Bright  kitchen, Märklin train"},
    {"id": 4, "image_id": 57870, "caption": "A long dining table."},
    {"id": 9, "image_id": 25, "caption": "  "},
]
LISTED = [
    {
        "url": f"{BUCKET}/train2014/000000000009.jpg",
        "caption": "Bright kitchen, Märklin train",
        "captions": ["Bright kitchen, Märklin train"],
        "image_id": 9,
    },
    {
        "url": f"{BUCKET}/train2014/000000057870.jpg",
        "caption": "A long dining table.",
        "captions": ["A long dining table.", "A restaurant has modern wooden tables."],
        "image_id": 57870,
    },
]


def write_zip(path: Path, name: str = COCO_CAPTIONS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations/instances_train2014.json", "{}")
        archive.writestr(name, json.dumps({"info": {}, "images": IMAGES, "annotations": ANNOTATIONS}))
    return path


def test_images_with_all_their_captions_in_the_order_of_numbers(tmp_path: Path) -> None:
    out = write_image_list(write_zip(tmp_path / "captions.zip"), tmp_path / "images.jsonl")
    assert [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] == LISTED


def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    out = tmp_path / "images.jsonl"
    with pytest.raises(DownloadError, match=r"captions\.zip: missing; download COCO's"):
        write_image_list(tmp_path / "captions.zip", out)
    with pytest.raises(DownloadError, match=f"holds no {COCO_CAPTIONS}"):
        write_image_list(write_zip(tmp_path / "captions.zip", "annotations/captions_train2017.json"), out)
    whole = write_zip(tmp_path / "captions.zip").read_bytes()
    (tmp_path / "captions.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DownloadError, match=r"captions\.zip: not whole .*delete it"):
        write_image_list(tmp_path / "captions.zip", out)
    for content in ({}, {"images": [{}], "annotations": [{"id": 1}]}, [1], {"annotations": [1], "images": 1}):
        with zipfile.ZipFile(tmp_path / "captions.zip", "w") as archive:
            archive.writestr(COCO_CAPTIONS, json.dumps(content))
        with pytest.raises(DownloadError, match=r"captions\.zip: .* is not COCO's .*get the zip again"):
            write_image_list(tmp_path / "captions.zip", out)
    with (
        zipfile.ZipFile(tmp_path / "captions.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(COCO_CAPTIONS, "w", force_zip64=True) as bomb,
    ):
        for _ in range(1025):
            bomb.write(bytes(1 << 20))
    with pytest.raises(DownloadError, match=r"captions\.zip: not whole .*unpacks to 1074790400 bytes"):
        write_image_list(tmp_path / "captions.zip", out)
    assert not out.exists()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server on this machine that has the zip where COCO's has it."""
    folder = tmp_path / "served"
    write_zip(folder / "annotations" / "annotations_trainval2014.zip")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()
        thread.join()


@pytest.fixture
def tree(tmp_path: Path, server: tuple[str, Path]) -> Path:
    """The paper's workflow, with the other server and its zip in its configuration."""
    tree = tmp_path / "tree"
    for name in ("workflow", "profiles", "config", "envs", "src", "results/published"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", tree)
    served = (server[1] / "annotations" / "annotations_trainval2014.zip").read_bytes()
    path = tree / "config" / "downloads.yaml"
    known = yaml.safe_load(path.read_text(encoding="utf-8"))
    known["files"]["annotations_trainval2014.zip"] = {
        "url": f"{server[0]}/annotations/annotations_trainval2014.zip",
        "bytes": len(served),
        "digest": f"sha256:{hashlib.sha256(served).hexdigest()}",
    }
    path.write_text(yaml.safe_dump(known), encoding="utf-8")
    return tree


def snakemake(tree: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "snakemake", "--config", "scale=paper", "--cores", "1", *arguments]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    logs = [path.read_text(encoding="utf-8") for path in tree.glob("results/runs/logs/**/*.log")]
    assert done.returncode == 0, "\n".join([said, *logs])
    return said


def test_the_rules_download_the_captions_and_list_the_images(tree: Path) -> None:
    snakemake(tree, "--until", "list_coco_images", "--", str(COCO / "images.jsonl"))
    made = tree / COCO / "images.jsonl"
    assert [json.loads(line) for line in made.read_text(encoding="utf-8").splitlines()] == LISTED


def test_negatives_of_coco_are_planned_from_its_captions(tree: Path) -> None:
    said = snakemake(tree, "-n", "-p", "--", str(COCO / "negclip/manifest.json"))
    for rule in ("download_coco_captions", "list_coco_images", "download_images", "complete_images"):
        assert re.search(rf"(?m)^\s*{rule} +\d+$", said), rule
    commands = [command.split(" >> ")[0].split() for command in re.findall(r"python -m clipa (.*)", said)]
    coco = [command for command in commands if command[0] == "coco" or "COCO-2014" in command]
    chosen = {command[0]: parser().parse_args(command) for command in coco}
    assert list(chosen) == ["coco", "data", "index", "annotate", "negatives"]
    assert {chosen[verb].source for verb in ("data", "annotate", "negatives")} == {"COCO-2014"}
    assert PLAN.scale.negatives.neighbours == "ViT-B-32/openai"

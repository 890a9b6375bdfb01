"""Just enough of the Hugging Face hub for models that open_clip wrote, and a project that evaluates them."""

import hashlib
import http.server
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import open_clip
import torch
import yaml
from open_clip.push_to_hf_hub import save_config_for_hf
from safetensors.torch import save_file

import loopback
from clipa.config import Project, Scale, load_scale
from small_world import CONFIG, draw_small_world

REVISION = "a" * 40
TOWERS = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 48, "layers": 1, "width": 64, "head_width": 32, "patch_size": 12},
    "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PREPROCESS = {
    "mean": list(open_clip.OPENAI_DATASET_MEAN),
    "std": list(open_clip.OPENAI_DATASET_STD),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
SUITE = {
    "imagenet1k": "plain",
    "mscoco_captions": "captions",
    "aro/vg_relation": "order/relation",
    "aro/coco_order": "order/order",
}


def foreign_checkpoint(folder: Path, seed: int = 0, **preprocess: str) -> Path:
    """A small CLIP with random weights and open_clip's own tokenizer, written by open_clip in the hub's layout."""
    torch.manual_seed(seed)
    model = open_clip.CLIP(**TOWERS)
    open_clip.model.set_model_preprocess_cfg(model, PREPROCESS | preprocess)
    folder.mkdir(parents=True)
    save_file(
        model.state_dict(), folder / "open_clip_model.safetensors"
    )  # save_for_hf wants a tokenizer of the hub
    save_config_for_hf(model, folder / "open_clip_config.json", TOWERS)
    return folder


def project_at(root: Path) -> tuple[Project, Scale]:
    """A project folder whose micro-v1 scale has a suite of four small sets, drawn."""
    shutil.copytree(CONFIG, root / "config")
    path = root / "config" / "scales" / "micro-v1.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["data"]["world"] = {
        "training_images": 512,
        "images_per_shard": 64,
        "test_images_plain": 60,
        "test_images": 48,
    }
    values["evaluation"] = {"benchmarks": {"imagenet1k": "plain"}, "suite": SUITE}
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    scale = load_scale("micro-v1", root / "config")
    drawn = draw_small_world(scale, root, ("plain", "captions", "order"))
    return drawn, scale


@contextmanager
def served(models: dict[str, Path], flipped: bool = False) -> Iterator[str]:
    """A hub with these models (owner/name → folder) at one commit; ``flipped``: with another byte in all weights."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        for name, folder in models.items():
            if path in (f"/api/models/{name}", f"/api/models/{name}/revision/{REVISION}"):
                return send(request, json.dumps(about(name, folder)).encode(), {})
            file = folder / path.removeprefix(f"/{name}/resolve/{REVISION}/")
            if path.startswith(f"/{name}/resolve/") and file.is_file():
                content = file.read_bytes()
                etag = hashlib.sha256(content).hexdigest()
                if flipped and file.suffix == ".safetensors":
                    content = content[:-1] + bytes([content[-1] ^ 1])
                return send(request, content, {"ETag": f'"{etag}"', "X-Repo-Commit": REVISION})
        request.send_error(404)

    with loopback.served(answer) as address:
        yield address


def send(request: http.server.BaseHTTPRequestHandler, body: bytes, headers: dict[str, str]) -> None:
    """Answer with ``body``, or with its length alone where the request is HEAD."""
    request.send_response(200)
    for key, value in (headers | {"Content-Length": str(len(body))}).items():
        request.send_header(key, value)
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(body)


def about(name: str, folder: Path) -> dict:
    """What the hub's API says of a model: its files, with the sha256 of large ones."""
    files = []
    for file in sorted(folder.iterdir()):
        one = {"rfilename": file.name, "size": file.stat().st_size}
        if file.suffix in (".safetensors", ".bin"):
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            one["lfs"] = {"sha256": digest, "size": one["size"], "pointerSize": 134}
        files.append(one)
    return {"id": name, "sha": REVISION, "siblings": files}

"""Like pictures: those of a naive search, to the last tie, by colours and by an open_clip model's features."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clipa.data.negclip import (
    NegclipError,
    encoder_of,
    nearest,
    pixel_features,
    pooled,
    whole_numbers,
    write_negatives,
)
from negclip_world import draw_annotated, samples


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 44, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_fields_are_means_of_colours():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    means = pixels.reshape(8, 8, 8, 4, 3).mean((1, 3))
    assert (
        np.abs(np.frombuffer(pooled(buffer.getvalue()), np.uint8).reshape(8, 8, 3) - means).max() <= 1
    )  # PIL rounds rows, then columns
    features = pixel_features(pooled(picture(seed)) for seed in range(50))
    assert features.shape == (50, 192)
    assert np.allclose(features.mean(0), 0) and np.allclose(features.std(0), 1)


@pytest.mark.parametrize(("count", "size"), [(4, 192), (700, 7), (600, 192)])
def test_neighbours_are_those_of_a_naive_search(count: int, size: int):
    features = np.random.default_rng(count).normal(size=(count, size))
    features[count // 2] = features[0]  # the same picture twice, and one that is like no other
    features[1] = 0
    whole = whole_numbers(features).astype(int)
    expected = [
        sorted((j for j in range(count) if j != i), key=lambda j: (-int(row @ whole[j]), j))[:3]
        for i, row in enumerate(whole)
    ]
    found = nearest(features, 3)
    assert found.tolist() == expected
    assert all(i not in row for i, row in enumerate(found.tolist()))
    assert found[0, 0] == count // 2 and found[1].tolist() == [0, 2, 3]


def test_whole_numbers_keep_cosines_and_are_exact_in_float32():
    features = np.random.default_rng(1).normal(size=(300, 512))
    whole = whole_numbers(features)
    assert np.array_equal(whole, np.rint(whole)) and np.linalg.norm(whole.astype(float), axis=1).max() <= 4096
    assert np.array_equal(whole @ whole.T, whole.astype(np.int64) @ whole.T.astype(np.int64))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert np.abs(whole @ whole.T / 4096**2 - unit @ unit.T).max() < 0.01


def test_too_few_pictures_have_no_neighbours():
    with pytest.raises(NegclipError, match="3 images: each needs 3 others"):
        nearest(np.eye(3), 3)


def test_neighbours_by_the_features_of_an_open_clip_model(tmp_path: Path):
    """A small model with weights of its own, in place of one whose weights are downloaded."""
    data = draw_annotated(tmp_path, pictures=64)
    tower = {"layers": 1, "width": 32}
    config = {
        "embed_dim": 16,
        "vision_cfg": {**tower, "image_size": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {**tower, "context_length": 8, "vocab_size": 100, "heads": 1},
    }
    (tmp_path / "small-clip.json").write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(tmp_path / "small-clip.json")
    torch.manual_seed(0)
    model, _, prepared = open_clip.create_model_and_transforms("small-clip")
    weights = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)

    found = neighbours(data, f"small-clip/{weights}")
    model.eval()
    pictures = [Image.open(io.BytesIO(members["jpg"])) for members in samples(data / "negclip").values()]
    with torch.inference_mode():
        features = [model.encode_image(prepared(picture.convert("RGB"))[None])[0] for picture in pictures]
    order = list(found)
    expected = [[order[i] for i in row] for row in nearest(torch.stack(features).numpy(), 3)]
    same = sum(a == b for a, b in zip(found.values(), expected, strict=True))
    assert same >= len(order) - 3  # one picture at a time is rounded otherwise than many
    assert found != neighbours(data, "pixels")


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.pth", "weights", "w.npz", "w.safetensors"])
@pytest.mark.parametrize("plain", [False, True], ids=["torch.save", "pickle"])
def test_weights_are_never_unpickled(tmp_path: Path, name: str, plain: bool) -> None:
    """Neither by their ending, nor a pickle that calls itself safetensors."""
    marker = tmp_path / "executed"
    weights = tmp_path / name
    if plain:
        weights.write_bytes(pickle.dumps(Trap(marker)))
    else:
        torch.save({"state_dict": Trap(marker)}, weights)
    data = draw_annotated(tmp_path / "data", pictures=8)
    with pytest.raises(
        NegclipError, match=r"no \.safetensors file, and nothing else|has no weights of"
    ) as refusal:
        write_negatives(data, 1, f"ViT-B-32/{weights}")
    assert "\n" not in str(refusal.value) and not marker.exists()
    content = weights.read_bytes()
    pickle.loads(content) if plain else torch.load(io.BytesIO(content), weights_only=False)  # the trap works
    assert marker.exists()


def test_a_model_with_a_tower_of_its_own_download_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors")
    for model in ("roberta-ViT-B-32", "no-such-model", "hf-hub:some"):
        with pytest.raises(NegclipError, match=r"has no model .* that is all its own"):
            encoder_of(f"{model}/{tmp_path}/w.safetensors", tmp_path / "w.safetensors")


def neighbours(data: Path, how: str) -> dict[str, list[str]]:
    write_negatives(data, 1, how)
    return {
        key: [one["key"] for one in json.loads(members["json"])["neighbours"]]
        for key, members in samples(data / "negclip").items()
    }

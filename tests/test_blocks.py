"""Packed blocks are open_clip's in all but the number of operations."""

import copy
import json
from pathlib import Path

import open_clip
import pytest
import torch
from torch import Tensor

from benchmarks.step import Operations
from clipa import models
from clipa.blocks import PackedBlock, cast, pack
from clipa.config import Augmentation
from clipa.distributed import apply_activation_checkpointing

CONFIGS = Path(models.__file__).parent / "model_configs"


def config_of(name: str, layers: int = 2) -> dict:
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    patch = config["vision_cfg"]["patch_size"]
    config["vision_cfg"] |= {"image_size": 4 * patch, "layers": layers}
    config["text_cfg"] |= {"context_length": 8, "layers": layers, "vocab_size": 500}
    return config


def batch(config: dict) -> tuple[Tensor, Tensor]:
    drawn, size = torch.Generator().manual_seed(1), config["vision_cfg"]["image_size"]
    images = torch.randint(0, 256, (6, 3, size, size), dtype=torch.uint8, generator=drawn)
    return images, torch.randint(0, 500, (6, 8), generator=drawn)


def gradients(model: torch.nn.Module, config: dict, precision: str = "fp32") -> tuple[Tensor, Tensor]:
    """Features, and all gradients of a sum that weighs each of them."""
    towers = models.Towers(model, Augmentation())
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        images, texts, scale = towers(*batch(config))
    features = torch.cat([images, texts]).float()
    weights = torch.linspace(-1, 1, features.numel()).reshape(features.shape)
    ((features * weights).sum() * scale).backward()
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return features.detach(), torch.cat(found)


@pytest.mark.parametrize("name", ["S16", "B16", "H14", "micro-v1-S16"])
def test_features_and_gradients_are_open_clips(name: str) -> None:
    config = config_of(name)
    theirs, ours = models.build(config, 3), models.build(config, 3, "packed")
    assert {k: v.shape for k, v in theirs.state_dict().items()} == {
        k: v.shape for k, v in ours.state_dict().items()
    }
    assert all(torch.equal(v, ours.state_dict()[k]) for k, v in theirs.state_dict().items())
    (their_features, their_gradients), (features, gradient) = (gradients(m, config) for m in (theirs, ours))
    assert torch.allclose(features, their_features, atol=1e-5)
    assert (gradient - their_gradients).norm() < 1e-5 * their_gradients.norm()


def test_a_packed_model_loads_in_open_clip(tmp_path: Path) -> None:
    config = config_of("micro-v1-S16")
    model = models.build(config, 3, "packed").eval()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / ".tmpAbC123").write_text("what a kill left of safetensors' own file")
    named = models.export_open_clip(config, model.state_dict(), tmp_path / "export", tmp_path, Augmentation())
    assert named.keys() == {path.name for path in (tmp_path / "export").iterdir()}
    assert not any(name.startswith(".") for name in named)
    loaded = open_clip.create_model(f"local-dir:{tmp_path / 'export'}").eval()
    assert not any(isinstance(module, PackedBlock) for module in loaded.modules())
    images, tokens = batch(config)
    with torch.no_grad():
        for ours, theirs in (
            (model.encode_image(images / 255), loaded.encode_image(images / 255)),
            (model.encode_text(tokens), loaded.encode_text(tokens)),
        ):
            assert torch.allclose(ours, theirs, atol=1e-5)


def test_bfloat16_is_as_near_to_float32_as_open_clips() -> None:
    config = config_of("S16", 4)
    exact, exact_gradient = gradients(models.build(config, 3), config)
    errors = []
    for blocks in ("open_clip", "packed"):
        features, gradient = gradients(models.build(config, 3, blocks), config, "bf16")
        errors.append(((features - exact).norm(), (gradient - exact_gradient).norm()))
    (their_features, their_gradient), (features, gradient) = errors
    assert features < 1.5 * their_features and gradient < 1.5 * their_gradient


def test_a_block_takes_half_of_the_operations() -> None:
    counts = {}
    for blocks in ("open_clip", "packed"):
        found = []
        for layers in (2, 3):
            config = config_of("S16", layers)
            model = models.build(config, 3, blocks)
            with Operations() as operations:
                gradients(model, config, "bf16")
            found.append(operations.counts.total())
        counts[blocks] = (found[1] - found[0]) / 2  # of one block of one tower, both passes
    assert counts["packed"] <= 0.55 * counts["open_clip"], counts


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("which", ["selective", True])
def test_activation_checkpointing_changes_no_bit(which: object, precision: str) -> None:
    config = config_of("S16")
    plain, checkpointed = (models.build(config, 3, "packed") for _ in range(2))
    apply_activation_checkpointing(checkpointed, which)
    assert all(
        torch.equal(one, other)
        for one, other in zip(
            gradients(plain, config, precision), gradients(checkpointed, config, precision), strict=True
        )
    )


def test_a_cast_is_one_operation_and_its_gradient_is_exact() -> None:
    tensors = [torch.randn(3, 4, requires_grad=True), torch.randn(5, requires_grad=True)]
    with Operations() as operations:
        made = cast(torch.bfloat16, *tensors)
    assert operations.counts == {"_foreach_copy_": 1}
    assert all(torch.equal(one, other.to(torch.bfloat16)) for one, other in zip(made, tensors, strict=True))
    (made[0].sum() + 2 * made[1].sum()).backward()
    assert torch.equal(tensors[0].grad, torch.ones(3, 4)) and torch.equal(tensors[1].grad, 2 * torch.ones(5))
    assert cast(torch.float32, *tensors)[0] is tensors[0]


def test_layer_scale_is_refused() -> None:
    config = copy.deepcopy(config_of("micro-v1-S16"))
    config["vision_cfg"]["ls_init_value"] = 0.1
    with pytest.raises(ValueError, match="layer scale"):
        pack(models.build(config, 0))

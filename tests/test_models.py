"""The towers are Table 4's, and a stage inherits what it should."""

import json
import math
from pathlib import Path

import numpy
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from torch.utils.flop_counter import FlopCounterMode

from clipa import models
from clipa.config import ConfigError, load_scale
from clipa.cost import CONFIGURATIONS, CONVNETS, forward_macs
from clipa.records import published_records
from clipa.stages import stages_of
from clipa.study import parse_run
from small_training import tiny_stages

CONFIGS = Path(models.__file__).parent / "model_configs"


def parameters_of(name: str, vocabulary: int) -> dict[str, float]:
    """Millions of parameters: the towers bare, and in all with projections but without the fixed image positions."""
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    config["text_cfg"]["vocab_size"] = vocabulary
    with torch.device("meta"):
        model = CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    counted = {"vision": 0, "text": 0, "total": 0}
    for key, parameter in model.named_parameters():
        counted["total"] += parameter.numel() * (key != "visual.positional_embedding")
        if key not in ("visual.proj", "text_projection", "logit_scale"):
            counted["vision" if key.startswith("visual.") else "text"] += parameter.numel()
    return {tower: count / 1e6 for tower, count in counted.items()}


@pytest.mark.parametrize("name", ["S16", "B16", "L16", "H14", "G14"])
def test_sizes_are_counted_exactly(name: str) -> None:
    """What `clipa models` prints, without torch, is what open_clip builds."""
    towers = CONFIGURATIONS[f"{name[0]}/{name[1:]}"]
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    with torch.device("meta"):
        model = CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    vision = sum(parameter.numel() for parameter in model.visual.parameters())
    text = sum(p.numel() for key, p in model.named_parameters() if not key.startswith("visual.")) - 1
    assert towers.vision_parameters(positions=True, projection=True) == vision
    assert towers.text_parameters(config["text_cfg"]["vocab_size"], projection=True) == text


@pytest.mark.parametrize(("ours", "theirs"), [("H14", "ViT-H-14-CLIPA"), ("G14", "ViT-bigG-14-CLIPA")])
def test_clipa_v2_towers_are_open_clips(ours: str, theirs: str) -> None:
    """With the same weights and inputs, features are open_clip's own to 1e-5 (one block a tower, to fit a test)."""
    config = json.loads((CONFIGS / f"{ours}.json").read_text())
    reference = open_clip.get_model_config(theirs)
    for part in ("vision_cfg", "text_cfg"):
        config[part]["layers"] = reference[part]["layers"] = 1
        config["vision_cfg"]["image_size"] = reference["vision_cfg"]["image_size"] = 70
        config["text_cfg"]["vocab_size"] = reference["text_cfg"]["vocab_size"] = 1000
    known = CLIP(reference["embed_dim"], reference["vision_cfg"], reference["text_cfg"]).eval()
    built = models.build(config, 0).eval()
    built.load_state_dict(known.state_dict())
    drawn = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 70, 70, generator=drawn)
    tokens = torch.randint(0, 1000, (2, 32), generator=drawn)
    with torch.no_grad():
        assert torch.allclose(built.encode_image(images), known.encode_image(images), atol=1e-5)
        assert torch.allclose(built.encode_text(tokens), known.encode_text(tokens), atol=1e-5)


@pytest.mark.parametrize("name", ["S16", "B16", "L16", "H14", "G14"])
def test_parameters_are_table_4s(name: str) -> None:
    """Towers to half a million without projections and with bert-base-uncased's 30,522 entries (G/14: with both, and
    32,000 rows), totals to one million with projections and 32,000 rows. No one convention gives all fifteen.
    """
    printed = {
        record["metric"].split(".")[0]: record["value"]
        for record in published_records()
        if record["table"] == 4 and record["case"] == name and record["unit"] == "M"
    }
    bare, full = parameters_of(name, 30_522), parameters_of(name, 32_000)
    if name == "G14":  # 1844 and 672 count the projections, and not the 257 fixed positions
        bare["vision"] = full["vision"] + 1664 * (1280 - 257) / 1e6
        bare["text"] = full["text"] + 1280 * 1280 / 1e6
    assert bare["vision"] == pytest.approx(printed["vision"], abs=0.5)
    assert bare["text"] == pytest.approx(printed["text"], abs=0.5)
    assert full["total"] == pytest.approx(printed["total"], abs=1.0)


@pytest.mark.parametrize(("name", "published", "parameters"), [("T", 4.5, 28.6), ("B", 15.4, 88.6)])
def test_convnexts_are_the_papers(name: str, published: float, parameters: float) -> None:
    """Multiply-adds and parameters of Liu et al. (2022), whose classifier of 1000 classes is not ours."""
    config = json.loads((CONFIGS / f"ConvNeXt-{name}.json").read_text())
    with torch.device("meta"):
        model = CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
        with FlopCounterMode(display=False) as counter:
            model.visual(torch.empty(1, 3, 224, 224))
    net = CONVNETS[config["vision_cfg"]["timm_model_name"]]
    assert net.macs(224) / 1e9 == pytest.approx(published, abs=0.06)
    assert counter.get_total_flops() / 2 == net.macs(224) + net.widths[-1] * config["embed_dim"]
    trunk = sum(parameter.numel() for parameter in model.visual.trunk.parameters())
    assert trunk == net.parameters()
    assert (trunk + 1001 * net.widths[-1]) / 1e6 == pytest.approx(parameters, abs=0.3)


@pytest.mark.parametrize("size", [48, 36, 24, 18, 12])
def test_small_convnexts_take_every_size(size: int) -> None:
    config = json.loads((CONFIGS / "micro-v1-ConvNeXt-T.json").read_text())
    config["vision_cfg"]["image_size"] = size
    model = models.build(config, 0).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features = model.encode_image(torch.zeros(2, 3, size, size))
    assert features.shape == (2, config["embed_dim"]) and torch.isfinite(features).all()
    net = CONVNETS["clipa_micro_convnext_t"]
    assert counter.get_total_flops() / 4 == net.macs(size) + net.widths[-1] * config["embed_dim"]


def test_each_micro_model_costs_at_least_two_and_a_half_times_the_one_before() -> None:
    costs = [
        forward_macs(json.loads((CONFIGS / f"micro-{name}.json").read_text()))
        for name in ("S16", "B16", "L16")
    ]
    assert costs[1] > 2.5 * costs[0] and costs[2] > 2.5 * costs[1]


def test_temperature_starts_at_the_papers_and_is_clamped() -> None:
    model = models.build(tiny_stages()[0].model_config, 0)
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-6)
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    models.clamp_logit_scale(model)
    assert model.logit_scale.exp().item() == pytest.approx(100.0, rel=1e-5)


def test_the_seed_decides_the_weights_and_leaves_the_global_one_alone() -> None:
    config = tiny_stages()[0].model_config
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, same, other = (models.build(config, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    name = "visual.conv1.weight"
    assert torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name])


def test_image_positions_are_computed_anew_for_each_size() -> None:
    small, full = tiny_stages()
    parent, child = models.build(small.model_config, 0), models.build(full.model_config, 1)
    fixed = child.visual.positional_embedding.clone()
    models.inherit(child, parent.state_dict())
    assert torch.equal(child.visual.positional_embedding, fixed)
    assert not child.visual.positional_embedding.requires_grad
    assert torch.equal(child.visual.conv1.weight, parent.visual.conv1.weight)


@pytest.mark.parametrize(("recipe", "last"), [("", 95 / 96), ("-moco-v3", 1.0)])
def test_image_positions_are_the_formulas(recipe: str, last: float) -> None:
    """Sine and cosine of the column, then of the row, times 10000^(-e) with e from 0 to ``last``; zeros for the class
    token. The default is MAE's formula, the variant MoCo v3's, which the released JAX code has.
    """
    stage = stages_of(parse_run(f"S16-none-truncation32{recipe}"), load_scale("paper"), 0)[0]
    found = models.build(stage.model_config, 0, positions=stage.positions).visual.positional_embedding
    row, column = numpy.divmod(numpy.arange(14 * 14), 14)
    frequencies = 10_000.0 ** -numpy.linspace(0, last, 384 // 4)
    angles = [numpy.outer(place, frequencies) for place in (column, row)]
    expected = numpy.concatenate([wave(angle) for angle in angles for wave in (numpy.sin, numpy.cos)], axis=1)
    assert not found.requires_grad and not found[0].any()
    assert numpy.abs(found[1:].numpy() - expected).max() < 1e-6


def test_the_two_formulas_differ_and_all_else_is_the_same() -> None:
    one, other = tiny_stages("S16-resize64-truncation32"), tiny_stages("S16-resize64-truncation32-moco-v3")
    for mae, moco in zip(one, other, strict=True):
        assert moco.content == {**mae.content, "positions": "moco-v3", "parent": moco.content["parent"]}
        assert (moco.content["parent"] == mae.content["parent"]) == (moco.kind == "pretrain")
        first, second = (
            models.build(s.model_config, 0, positions=s.positions).state_dict() for s in (mae, moco)
        )
        differing = {name for name in first if not torch.equal(first[name], second[name])}
        assert differing == {"visual.positional_embedding"}


def activation(mlp: torch.nn.Module, x: numpy.ndarray) -> numpy.ndarray:
    """What stands between the two layers of an MLP: its output where both layers are the identity."""
    with torch.no_grad():
        for layer in (mlp.c_fc, mlp.c_proj):
            torch.nn.init.eye_(layer.weight)
            layer.bias.zero_()
        values = torch.from_numpy(x).float()
        return mlp(values[:, None].expand(-1, layer.weight.shape[0]))[:, 0].double().numpy()


@pytest.mark.parametrize("recipe", ["", "-tanh"])
def test_gelu_is_exact_or_the_tanh_approximation(recipe: str) -> None:
    """In every block of both towers. The released JAX code has the approximation, at most 0.0005 away."""
    stage = tiny_stages(f"S16-none-truncation32{recipe}")[0]
    model = models.build(stage.model_config, 0)
    x = numpy.linspace(-6, 6, 1001)
    exact = x / 2 * (1 + numpy.array([math.erf(one / math.sqrt(2)) for one in x]))
    tanh = x / 2 * (1 + numpy.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert 4e-4 < numpy.abs(exact - tanh).max() < 5e-4
    blocks = [*model.visual.transformer.resblocks, *model.transformer.resblocks]
    assert len(blocks) == 5
    for block in blocks:
        expected, other = (tanh, exact) if recipe else (exact, tanh)
        found = activation(block.mlp, x)
        assert numpy.abs(found - expected).max() < 5e-6 < numpy.abs(found - other).max()


@pytest.mark.parametrize("recipe", ["tanh", "moco-v3"])
def test_a_convnext_has_neither(recipe: str) -> None:
    with pytest.raises(ConfigError, match=rf"ConvNeXt-T-resize64-truncation32-{recipe}: .* a ConvNeXt"):
        stages_of(parse_run(f"ConvNeXt-T-resize64-truncation32-{recipe}"), load_scale("micro-v1"), 0)


def test_text_positions_are_stretched() -> None:
    parent = models.build(tiny_stages("S16-resize64-truncation8")[0].model_config, 0)
    child = models.build(tiny_stages("S16-resize64-truncation8")[1].model_config, 1)
    assert parent.positional_embedding.shape[0] == 8 and child.positional_embedding.shape[0] == 32
    models.inherit(child, parent.state_dict())
    assert torch.allclose(child.positional_embedding[0], parent.positional_embedding[0])
    assert torch.allclose(child.positional_embedding[-1], parent.positional_embedding[-1])
    between = child.positional_embedding[1:3].mean(0)
    assert torch.allclose(between, parent.positional_embedding[:2].mean(0), atol=0.02)


def test_another_models_weights_are_refused() -> None:
    child = models.build(tiny_stages()[1].model_config, 0)
    with pytest.raises((ValueError, RuntimeError)):
        models.inherit(
            child, models.build(tiny_stages("B16-none-truncation32")[0].model_config, 0).state_dict()
        )


def test_weight_decay_reaches_matrices_only() -> None:
    model = models.build(tiny_stages()[0].model_config, 0)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    decayed = {name for name, p in trained.items() if models.decayed(name, p)}
    assert {"visual.conv1.weight", "visual.proj", "text_projection"} <= decayed
    exempt = trained.keys() - decayed
    assert {
        "logit_scale",
        "token_embedding.weight",
        "positional_embedding",
        "visual.class_embedding",
    } <= exempt
    assert all(name in exempt for name in trained if name.endswith("bias") or "ln_" in name)


def test_padding_is_seen_and_the_last_position_is_read() -> None:
    """The text tower is bidirectional, without padding mask, pooled at the last position (A.1 and released code)."""
    model = models.build(tiny_stages()[1].model_config, 0).eval()
    tokens = torch.zeros(1, 32, dtype=torch.long)
    tokens[0, :3] = torch.tensor([2, 50, 60])
    other = tokens.clone()
    other[0, 1] = 51
    with torch.no_grad():
        difference = (model.encode_text(tokens) - model.encode_text(other)).abs().max()
    assert model.attn_mask is None and model.text_pool_type == "last"
    assert difference > 1e-4 and math.isfinite(difference)

"""Reductions where they act: in the image tower, in the data loader, in stages that are killed and resumed."""

import math
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from clipa import models
from clipa.data.annotation import annotate
from clipa.data.shards import ShardError
from clipa.data.stream import Lane, batches, mask_key
from clipa.data.vocabulary import load_tokenizer
from clipa.losses import backward
from clipa.reductions.images import keep
from clipa.reductions.noise import uniform
from clipa.resolved import data_slug
from clipa.train import kept_patches, stream_spec, train_stage
from small_training import BATCH, STEPS, TORCHRUN, losses, resolved, tiny_scale, tiny_stages
from small_world import draw_small_world
from test_train import outcome, run

MASKED = "S16-random49-syntax8"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reduced")
    scale = tiny_scale()
    draw_small_world(scale, root, ())
    annotate(root / "data" / data_slug(scale.data), 1)
    return root


# ------------------------------------------------------------------------------------------------------- noise


def test_noise_belongs_to_the_sample_and_is_the_same_in_both_libraries():
    positions = numpy.array([0, 1, 7, 2**40])
    numbers = uniform(5, positions, 64)
    assert numpy.array_equal(numbers, uniform(5, torch.from_numpy(positions), 64).numpy())
    assert numpy.array_equal(numbers[2:3, :9], uniform(5, positions[2:3], 9))
    assert not numpy.array_equal(numbers, uniform(6, positions, 64))
    assert ((numbers >= 0) & (numbers < 1)).all()


def test_noise_is_uniform_and_neighbours_are_independent():
    numbers = uniform(mask_key(0, "pretrain", "image mask"), numpy.arange(20_000), 64)
    counts = numpy.histogram(numbers, bins=100, range=(0, 1))[0]
    expected = numbers.size / 100
    assert ((counts - expected) ** 2 / expected).sum() < 160  # chi-squared with 99 degrees: p < 1e-4 beyond
    for first, second in ((numbers[:, :-1], numbers[:, 1:]), (numbers[:-1], numbers[1:])):
        assert abs(numpy.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.005


def test_streams_have_keys_of_their_own():
    named = [(s, k, n) for s in (0, 1) for k in ("pretrain", "finetune") for n in ("image mask", "text mask")]
    assert len({mask_key(*name) for name in named}) == len(named)


# ---------------------------------------------------------------------------------------------- the image tower


def towers_of(run_slug: str) -> models.Towers:
    stage = tiny_stages(run_slug)[0]
    return models.Towers(models.build(stage.model_config, 0), stage.scale.augmentation)


def test_only_kept_patches_are_seen():
    towers, stage = towers_of(MASKED), tiny_stages(MASKED)[0]
    kept = kept_patches(resolved(stage, Path()), torch.arange(4))
    assert kept.shape == (4, 16) and len({tuple(row.tolist()) for row in kept}) == 4
    images = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8)
    dropped = next(patch for patch in range(64) if patch not in kept[0])
    for patch, same in ((dropped, True), (int(kept[0, 3]), False)):
        changed = images.clone()
        row, column = divmod(patch, 8)
        changed[0, :, 6 * row : 6 * row + 6, 6 * column : 6 * column + 6] ^= 255
        tokens = torch.ones(4, 8, dtype=torch.long)
        with torch.no_grad():
            before, after = (towers(pixels, tokens, kept)[0] for pixels in (images, changed))
        assert torch.equal(before[0], after[0]) == same
        assert torch.equal(before[1:], after[1:])


def test_nothing_is_dropped_outside_of_training():
    """Evaluation and export call the tower without a choice of patches."""
    towers = towers_of(MASKED)
    images, tokens = (
        torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8),
        torch.ones(2, 8, dtype=torch.long),
    )
    with torch.no_grad():
        full = towers(images, tokens)[0]
        towers(images, tokens, torch.arange(16).expand(2, -1))
        assert torch.equal(towers(images, tokens)[0], full)
    assert not [name for name in towers.model.state_dict() if "patch_dropout" in name]


def test_dropped_patches_cost_nothing():
    """§3.2: a mask that keeps 16 of 64 patches costs what an image resized to 16 patches does, within 15 %."""

    def flops(run_slug: str, kept: torch.Tensor | None) -> int:
        towers, stage = towers_of(run_slug), tiny_stages(run_slug)[0]
        images = torch.zeros(8, 3, stage.image_size, stage.image_size, dtype=torch.uint8)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            towers(images, torch.zeros(8, 32, dtype=torch.long), kept)
        return counter.get_total_flops()

    resized = flops("L16-resize112-truncation32", None)
    masked = flops("L16-random49-truncation32", torch.arange(16).expand(8, -1))
    assert resized < masked <= 1.15 * resized


def test_gradient_caching_is_exact_with_masks():
    stage, drawn = tiny_stages(MASKED)[0], torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 48, 48), dtype=torch.uint8, generator=drawn)
    tokens = torch.randint(0, 700, (8, 8), generator=drawn)
    kept = kept_patches(resolved(stage, Path()), torch.arange(8))
    found = []
    for microbatch in (None, 3):
        towers = towers_of(MASKED)
        loss = backward(towers, (images, tokens, kept), microbatch)
        found.append((loss, [p.grad for p in towers.parameters() if p.grad is not None]))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-6)
    for one, two in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-6)


def test_the_stage_keeps_the_patches_of_the_reduction():
    for mask in ("random", "grid", "block"):
        stage = tiny_stages(f"S16-{mask}49-truncation32", seed=3)[0]
        noise = uniform(mask_key(3, "pretrain", "image mask"), numpy.arange(5), 64)
        expected = keep(mask, noise, (8, 8), 16)
        assert numpy.array_equal(kept_patches(resolved(stage, Path()), torch.arange(5)).numpy(), expected)
        assert tiny_stages(f"S16-{mask}49-truncation32")[1].kept_patches is None


# ----------------------------------------------------------------------------------------------------- the loader


def tokens_of(world: Path, run_slug: str, kind: int = 0) -> tuple[numpy.ndarray, list[str], list]:
    """Tokens of the first batch, and the captions and tags that they were made from."""
    stage = tiny_stages(run_slug)[kind]
    spec = stream_spec(resolved(stage, world))[0]
    lanes = [iter(Lane(spec, lane, 0)) for lane in range(spec.lanes)]
    samples = [next(lane) for _ in range(BATCH // spec.lanes) for lane in lanes]
    tokens = next(batches(spec, 0, 1))[1]
    return tokens, [s.caption for s in samples], [s.tags for s in samples]


@pytest.mark.parametrize("reduction", ["random", "block", "syntax"])
def test_captions_are_reduced_as_the_rule_says(world: Path, reduction: str):
    tokens, captions, tags = tokens_of(world, f"S16-resize112-{reduction}8")
    tokenizer = load_tokenizer(world / "data" / data_slug(tiny_scale().data) / "vocabulary")
    whole = [tokenizer.encode(caption) for caption in captions]
    assert tokens.shape == (BATCH, 8) and (tokens[:, 0] == whole[0].ids[0]).all()
    assert sum(len(encoding.ids) > 8 for encoding in whole) > BATCH // 2
    for row, encoding, words in zip(tokens, whole, tags, strict=True):
        kept = [token for token in row[1:].tolist() if token]
        assert len(kept) == min(7, len(encoding.ids) - 1)
        rest = iter(encoding.ids[1:])
        assert all(token in rest for token in kept), "order of the caption is kept"
        if reduction == "block":
            text = ",".join(map(str, encoding.ids[1:]))
            assert ",".join(map(str, kept)) in text
        if reduction == "syntax":
            classes = [{"NOUN": 0, "PROPN": 0, "ADJ": 1}.get(words[w], 2) for w in encoding.word_ids[1:]]
            nouns = [t for t, c in zip(encoding.ids[1:], classes, strict=True) if c == 0]
            assert all(noun in kept for noun in nouns[:7])
    truncated = tokens_of(world, "S16-resize112-truncation8")[0]
    assert not numpy.array_equal(tokens, truncated)


def test_text_is_reduced_in_fine_tuning_as_in_pre_training(world: Path):
    """B.3: "we employ the same masking strategy during fine-tuning as used during pre-training", at 32 tokens."""
    pretrain, finetune = tiny_stages("S16-resize112-random8")
    train_stage(resolved(pretrain, world))
    specs = [stream_spec(resolved(stage, world))[0] for stage in (pretrain, finetune)]
    assert [(spec.text_reduction, spec.text_tokens) for spec in specs] == [("random", 8), ("random", 32)]


def test_syntax_without_tags_says_what_to_do(world: Path, tmp_path: Path):
    spec = stream_spec(resolved(tiny_stages(MASKED)[0], world))[0]
    for path in spec.directory.iterdir():
        if not path.name.endswith(".pos.jsonl"):
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(ShardError, match=r"pos\.jsonl: cannot be read .*; tag the captions again"):
        next(iter(Lane(replace(spec, directory=tmp_path), 0, 0)))


# ------------------------------------------------------------------------------------------------------- stages


def test_a_masked_stage_survives_kills_and_learns_on_two_processes(world: Path):
    codes, said = run(world, {"runs": "whole", "stage": {"run": MASKED}, "both": True})
    assert codes == [0], said
    deaths = [{"die": "update", "step": 2, "signal": 9}, {"die": "write", "step": 2, "signal": 9}]
    scenarios = [{"runs": "killed", "stage": {"run": MASKED}, **death} for death in [*deaths, {}]]
    codes, said = run(world, *scenarios)
    assert codes == [-9, -9, 0], said
    stage = tiny_stages(MASKED)[0]
    assert outcome(world, "killed", stage) == outcome(world, "whole", stage)

    ranks = {"run": MASKED, "processes": 2, "schedule": {"microbatch": 4}}
    codes, said = run(world, {"runs": "ranks", "stage": ranks}, launcher=TORCHRUN)
    assert codes == [0], said
    one, two = losses(world, "whole", stage), losses(world, "ranks", tiny_stages(**ranks)[0])
    assert len(one) == STEPS and one == pytest.approx(two, abs=2e-4)


@pytest.mark.parametrize(
    "slug",
    [
        *(f"S16-{mask}49-truncation32" for mask in ("random", "grid", "block")),
        *(f"S16-resize112-{text}16" for text in ("truncation", "random", "block", "syntax")),
        "ConvNeXt-T-resize112-truncation32",
    ],
)
def test_every_reduction_learns(world: Path, slug: str):
    """Three hundred steps on few images: the loss ends clearly below ln(batch), that of guessing."""
    steps = 300
    rate = dict.fromkeys(tiny_scale().models, 4e-2)
    schedule = {"samples": steps * BATCH, "warmup_steps": 10, "base_lr": rate}
    codes, said = run(world, {"runs": "learning", "stage": {"run": slug, "schedule": schedule}})
    assert codes == [0], said
    found = losses(world, "learning", tiny_stages(slug, schedule=schedule)[0])
    assert len(found) == steps
    assert numpy.mean(found[-10:]) < math.log(BATCH) - 0.1

"""The contrastive loss, NegCLIP's, and their gradients: in one pass and in many, in one process and in two."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipa import models
from clipa.losses import backward, contrastive_loss, loss_and_gradients
from negclip_gradients import negclip_batch, negclip_gradients
from small_training import TORCHRUN, tiny_stages

TESTS = Path(__file__).parent


def gradients(microbatch: int | None, checkpointing: bool = False) -> tuple[float, dict[str, torch.Tensor]]:
    stage = tiny_stages()[0]
    model = models.build(stage.model_config, 0)
    if checkpointing:
        model.set_grad_checkpointing()
    towers = models.Towers(model, stage.scale.augmentation)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 3, stage.image_size, stage.image_size), generator=generator)
    tokens = torch.randint(0, 700, (12, stage.text_tokens), generator=generator)
    loss = backward(towers, (images.to(torch.uint8), tokens), microbatch)
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("microbatch", "checkpointing"), [(12, False), (4, False), (5, False), (4, True)])
def test_gradient_caching_is_exact(microbatch: int, checkpointing: bool) -> None:
    """Same loss and gradients as one pass, the temperature's included (it must be counted once, not per pass)."""
    loss, whole = gradients(None)
    cached_loss, cached = gradients(microbatch, checkpointing)
    assert cached_loss == pytest.approx(loss, abs=1e-6)
    assert whole.keys() == cached.keys() and "logit_scale" in whole
    for name, gradient in whole.items():
        assert torch.allclose(cached[name], gradient, rtol=1e-4, atol=1e-6), name


def test_one_pass_equals_plain_autograd() -> None:
    stage = tiny_stages()[0]
    model = models.build(stage.model_config, 0)
    towers = models.Towers(model, stage.scale.augmentation)
    images = torch.randint(0, 256, (6, 3, stage.image_size, stage.image_size)).to(torch.uint8)
    tokens = torch.randint(0, 700, (6, stage.text_tokens))
    backward(towers, (images, tokens))
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    contrastive_loss(*towers(images, tokens)).backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            assert torch.allclose(ours[name], p.grad, rtol=1e-4, atol=1e-7), name


def test_the_loss_is_open_clips() -> None:
    from open_clip.loss import ClipLoss

    image, text = (torch.nn.functional.normalize(torch.randn(10, 8), dim=-1) for _ in range(2))
    scale = torch.tensor(14.0)
    assert torch.allclose(contrastive_loss(image, text, scale), ClipLoss()(image, text, scale))


def test_uninformative_features_cost_the_logarithm_of_the_batch() -> None:
    same = torch.nn.functional.normalize(torch.ones(16, 4), dim=-1)
    assert contrastive_loss(same, same, torch.tensor(10.0)).item() == pytest.approx(
        torch.tensor(16.0).log().item()
    )


# ----------------------------------------------------------------------------------------------------- NegCLIP's loss


def features(count: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=-1)


def naive_negclip_loss(images: torch.Tensor, texts: torch.Tensor, scale: float) -> float:
    """The definition, one query at a time: an image looks among all texts, a text (no negative) among all images."""
    costs = {"images": [], "texts": []}
    for i in range(len(images)):
        chances = [math.exp(scale * float(images[i] @ text)) for text in texts]
        costs["images"].append(-math.log(chances[i] / sum(chances)))
        chances = [math.exp(scale * float(image @ texts[i])) for image in images]
        costs["texts"].append(-math.log(chances[i] / sum(chances)))
    return sum(map(sum, costs.values())) / len(images) / 2


def test_negclip_loss_is_its_definition() -> None:
    images, texts = features(10, 0), features(20, 1)
    expected = naive_negclip_loss(images, texts, 14.0)
    assert contrastive_loss(images, texts, torch.tensor(14.0)).item() == pytest.approx(expected, rel=1e-12)


def test_negatives_are_candidates_and_never_ask() -> None:
    """A negative that is like no image costs nothing, since no image is asked for with it; like an image, it costs."""
    images = torch.eye(4, 8, dtype=torch.float64)
    texts = torch.nn.functional.normalize(images + 0.1 * features(4, 3), dim=-1)
    scale = torch.tensor(50.0)
    unlike = -texts  # cosines of about -1: no candidate
    plain = contrastive_loss(images, texts, scale)
    assert contrastive_loss(images, torch.cat([texts, unlike]), scale).item() == pytest.approx(
        plain.item(), rel=1e-9
    )
    alike = contrastive_loss(images, torch.cat([texts, texts]), scale)
    # Every image finds its text twice: log 2 in its half of the loss; the texts' half is as without negatives.
    assert alike.item() == pytest.approx(plain.item() + math.log(2) / 2, rel=1e-9)


@pytest.mark.parametrize("microbatch", [12, 4, 5, 1])
def test_gradient_caching_is_exact_with_two_texts_an_image(microbatch: int) -> None:
    loss, whole = negclip_gradients(negclip_batch(), None)
    cached_loss, cached = negclip_gradients(negclip_batch(), microbatch)
    assert cached_loss == pytest.approx(loss, abs=1e-6)
    assert whole.keys() == cached.keys() and "logit_scale" in whole
    for name, gradient in whole.items():
        assert (cached[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max(), name


def test_one_pass_of_negclip_equals_plain_autograd() -> None:
    stage = tiny_stages()[0]
    towers = models.Towers(models.build(stage.model_config, 0), stage.augmentation)
    contrastive_loss(*towers(*negclip_batch())).backward()
    _, ours = negclip_gradients(negclip_batch(), None)
    for name, p in towers.model.named_parameters():
        if p.grad is not None:
            assert torch.allclose(ours[name], p.grad, rtol=1e-4, atol=1e-7), name


def test_two_processes_have_one_process_s_negclip_gradients() -> None:
    """Two gloo processes, each with every second item, in one pass and in several: the blocks stay aligned."""
    command = [sys.executable, *TORCHRUN, str(TESTS / "negclip_gradients.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for case, found in json.loads(done.stdout).items():
        assert found["loss"] < 1e-6 and found["gradient"] < 1e-4 and found["parameters"] > 20, (case, found)


def test_a_part_that_is_no_multiple_is_refused() -> None:
    images, tokens = negclip_batch()
    with pytest.raises(ValueError, match="12 images and 23 of another part"):
        backward(lambda *_: None, (images, tokens[:23]))


# ------------------------------------------------------------------------------------- a part of the logits at a time


def drawn(
    images: int, texts: int, seed: int, width: int = 8, scale: float | None = None
) -> tuple[torch.Tensor, ...]:
    """Normalised features of pairs that are alike, as in training, and a logit scale (default: 1 to 100); float32."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(max(images, texts), width, generator=generator)
    noisy = base + torch.randn(len(base), width, generator=generator)
    features = (torch.nn.functional.normalize(part, dim=-1) for part in (base[:images], noisy[:texts]))
    return *features, torch.tensor(scale or 1 + 99 * torch.rand((), generator=generator).item())


def differences(found: Sequence[torch.Tensor], asked: Sequence[torch.Tensor]) -> list[float]:
    """Of the loss and the three gradients from the definition's in float64: norm of the difference, relative.

    Where pairs stand out a loss and its gradients are near zero, and a difference of large numbers: then relative to a
    tenth of one, and to a hundredth of what gradients are at a random start.
    """
    exact = [part.double().requires_grad_() for part in asked]
    value = contrastive_loss(*exact)
    expected = [value.detach(), *torch.autograd.grad(value, exact)]
    features = 0.01 * asked[2].item() / len(asked[0]) ** 0.5
    least = (0.1, features, features, 0.01)
    return [
        ((one.double() - other).norm() / other.norm().clamp_min(floor)).item()
        for one, other, floor in zip(found, expected, least, strict=True)
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.sampled_from([1, 2]), st.integers(1, 2000), st.integers(0, 1000))
def test_any_number_of_logits_at_once_gives_the_definitions_gradients(
    count: int, kinds: int, at_once: int, seed: int
) -> None:
    """A logit's rounding grows with the scale. Of 16, 5 is the most seen, and of autograd, too."""
    asked = drawn(count, kinds * count, seed)
    found = differences(loss_and_gradients(*asked, at_once), asked)
    assert max(found) <= 16 * max(1e-6, 1e-7 * asked[2].item())


@pytest.mark.parametrize("kinds", [1, 2])
def test_a_large_batch_has_the_definitions_gradients(kinds: int) -> None:
    asked = drawn(1500, kinds * 1500, 0, width=64, scale=1 / 0.07)
    assert max(differences(loss_and_gradients(*asked, 1 << 18), asked)) < 1e-6


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_have_the_definitions_gradients(processes: int) -> None:
    """Gloo processes, each with some rows; CLIP's loss and NegCLIP's, two numbers of logits at once."""
    command = [sys.executable, *TORCHRUN[:-1], str(processes), str(TESTS / "loss_gradients.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 4 and max(max(case) for case in found.values()) < 2e-6, found

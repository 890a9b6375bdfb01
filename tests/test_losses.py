"""The contrastive loss and its gradient, in one pass and in many."""

import pytest
import torch

from clipa import models
from clipa.losses import backward, contrastive_loss
from small_training import tiny_stages


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

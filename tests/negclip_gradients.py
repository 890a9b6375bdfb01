"""NegCLIP's loss and gradients of a small model; as a program for torchrun, those of two processes against one's.

Prints one JSON object: by images per pass, the difference of the loss, and the largest of any gradient, relative to
its largest entry.
"""

import json
import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn

from clipa import models
from clipa.losses import backward
from small_training import tiny_stages

ITEMS = 6


def negclip_batch(rank: int = 0, ranks: int = 1) -> tuple[Tensor, Tensor]:
    """A process's part of a batch of six items: images of own and neighbours, four blocks of texts."""
    stage = tiny_stages()[0]
    drawn = torch.Generator().manual_seed(0)
    shape = (2, ITEMS, 3, stage.image_size, stage.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=drawn)
    tokens = torch.randint(0, 700, (4, ITEMS, stage.text_tokens), generator=drawn)
    return images[:, rank::ranks].flatten(0, 1), tokens[:, rank::ranks].flatten(0, 1)


def negclip_gradients(
    batch: tuple[Tensor, Tensor], microbatch: int | None
) -> tuple[float, dict[str, Tensor]]:
    stage = tiny_stages()[0]
    model = models.build(stage.model_config, 0)
    towers: nn.Module = models.Towers(model, stage.augmentation)
    if dist.is_initialized():
        towers = nn.parallel.DistributedDataParallel(towers, broadcast_buffers=False)
    loss = backward(towers, batch, microbatch)
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


if __name__ == "__main__":
    torch.set_num_threads(1)
    loss, expected = negclip_gradients(negclip_batch(), None)
    dist.init_process_group("gloo")
    made = {}
    for microbatch in (None, 2, 5):
        found_loss, found = negclip_gradients(
            negclip_batch(dist.get_rank(), dist.get_world_size()), microbatch
        )
        differences = [((found[n] - g).abs().max() / g.abs().max()).item() for n, g in expected.items()]
        made[str(microbatch)] = {
            "loss": abs(found_loss - loss),
            "gradient": max(differences),
            "parameters": len(found),
        }
    if dist.get_rank() == 0:
        json.dump(made, sys.stdout)
    dist.destroy_process_group()

"""Started by torchrun: prints how far the processes' gradients of the loss are from the definition's."""

import json

import torch
import torch.distributed as dist

from clipa.losses import loss_and_gradients
from test_losses import differences, drawn

COUNT = 240


def main() -> None:
    dist.init_process_group("gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()
    found = {}
    for kinds in (1, 2):
        images, texts, scale = drawn(COUNT, kinds * COUNT, seed=kinds, width=16, scale=1 / 0.07)
        # A rank has some images, their texts, and as many negatives.
        own = [images[rank::processes], *(part[rank::processes] for part in texts.split(COUNT))]
        for at_once in (1000, 1 << 20):
            loss, image, text, slope = loss_and_gradients(own[0], torch.cat(own[1:]), scale, at_once)
            parts = []
            for one in (image, *text.split(len(image))):
                gathered = [torch.empty_like(one) for _ in range(processes)]
                dist.all_gather(gathered, one)
                parts.append(torch.stack(gathered, 1).flatten(0, 1))
            whole = (loss, parts[0], torch.cat(parts[1:]), slope)
            found[f"{kinds} {at_once}"] = differences(whole, (images, texts, scale))
    if rank == 0:
        print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

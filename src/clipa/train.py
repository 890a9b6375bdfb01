"""Train one stage, from the first update to the exported model. Read it from top to bottom.

Started again after any interruption, a stage goes on from its last checkpoint and ends with the same bits as an
uninterrupted one on the same hardware: every random draw is a function of the named seed and the sample's
position, so model, optimizer and step are the whole state. Several processes (torchrun) train one global batch; where
the scale says ``sharded``, each keeps only its part of the state (:mod:`clipa.sharding`), and another number may go on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clipa import checkpoint, models, ranks, sharding
from clipa.config import Project
from clipa.data import resident
from clipa.data.stream import ShardError, StreamSpec, batches, mask_key, read_manifest
from clipa.files import write_json_atomically
from clipa.losses import backward, contrastive_loss, negclip_loss
from clipa.progress import Progress
from clipa.provenance import describe
from clipa.reductions.images import keep
from clipa.reductions.noise import uniform
from clipa.runs import TRAINING_SETS, Stage, data_slug, fingerprint
from clipa.schedule import learning_rate

INTERRUPTED = 75
"""Exit code after SIGTERM with a checkpoint saved: start the same command again to go on (EX_TEMPFAIL)."""

LOSSES = {"pretrain": contrastive_loss, "finetune": contrastive_loss, "negclip": negclip_loss}

UNDECODABLE_LIMIT = 0.01
"""Share of images that may be undecodable before the stage stops: more means damaged data, not bad luck."""


class Interrupted(RuntimeError):
    """SIGTERM arrived; the state is saved."""


class NonFinite(RuntimeError):
    """The loss or a gradient is not finite; the update was not made."""


@dataclass
class State:
    """What training changes. ``step`` counts finished updates, ``processes`` the numbers of them that made a part."""

    model: models.CLIP
    towers: nn.Module
    optimizer: torch.optim.AdamW
    step: int = 0
    replaced: int = 0
    seconds: float = 0.0
    losses: list[dict[str, Any]] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)


def train_stage(stage: Stage, project: Project) -> Path:
    """Train ``stage`` (or go on, or find it finished) and return its ``stage.json``.

    Raises :class:`Interrupted`, :class:`NonFinite`, ``ShardError``, ``CheckpointMismatch``, ``OSError``.
    """
    directory = Path(project.runs_directory) / stage.directory
    with ranks.processes(stage) as rank, ranks.sole_writer(directory, stage):
        spec, vocabulary, data_fingerprint = _data(stage, project)
        state = _start(stage, directory, project)
        _update_until_done(stage, directory, spec, state, data_fingerprint)
        weights = sharding.whole(state.model.state_dict())
        if rank == 0:
            return _finish(stage, directory, vocabulary, state, weights, data_fingerprint)
    return directory / "stage.json"


def _update_until_done(
    stage: Stage, directory: Path, spec: StreamSpec, state: State, data_fingerprint: str
) -> None:
    """The training loop: one global batch, one update, until the schedule's end."""
    schedule, device = stage.schedule, torch.device(stage.scale.device)
    rank, count = ranks.rank(), ranks.count()
    data, asked = stage.data, (spec, state.step, schedule.steps, rank, count)
    stream = resident.batches(*asked, device) if stage.resident else batches(*asked, data.workers)
    # Of this process's samples in a batch: rank r holds every count-th lane.
    positions = torch.arange(rank, schedule.batch_size, count, device=device)
    progress = Progress(directory, schedule.steps, schedule.batch_size, state.step, enabled=rank == 0)
    began, seconds_before = time.monotonic(), state.seconds

    with ranks.termination() as asked_to_stop:
        for step in range(state.step, schedule.steps):
            images, tokens, replaced = next(stream)
            batch = [torch.as_tensor(part).to(device, non_blocking=True) for part in (images, tokens)]
            if stage.kept_patches is not None:
                batch.append(_kept_patches(stage, positions + step * schedule.batch_size))
            loss = backward(state.towers, batch, schedule.microbatch, _autocast(stage), LOSSES[stage.kind])
            rate = learning_rate(step, schedule.steps, schedule.warmup_steps, stage.peak_lr)
            _check_finite(state.model, loss, step, directory)
            for group in state.optimizer.param_groups:
                group["lr"] = rate
            state.optimizer.step()
            state.optimizer.zero_grad(set_to_none=True)
            models.clamp_temperature(state.model)

            stop, replaced = ranks.everywhere(bool(asked_to_stop), replaced)
            state.step, state.replaced = step + 1, state.replaced + replaced
            state.seconds = seconds_before + time.monotonic() - began
            _check_replaced(stage, state, spec)
            last = state.step == schedule.steps
            if state.step % stage.scale.log_every == 0 or last:
                scale = state.model.logit_scale.exp().item()
                state.losses.append({"step": state.step, "loss": loss.item(), "lr": rate, "scale": scale})
            progress.update(state.step, loss)
            if last or stop or state.step % stage.scale.checkpoint_every == 0:
                _save(stage, directory, state, data_fingerprint)
            if stop and not last:
                raise Interrupted(
                    f"stopped after step {state.step} of {schedule.steps}; start again to go on"
                )
    progress.close()


def _kept_patches(stage: Stage, positions: Tensor) -> Tensor:
    """The patches [b, K] that the stage's mask keeps of the samples at ``positions`` [b], made on their device."""
    noise = uniform(mask_key(stage.seed, stage.kind, "image mask"), positions, stage.patches)
    side = stage.image_size // stage.patch_size
    return keep(stage.image_reduction, noise, (side, side), stage.kept_patches, stage.reading)


def _start(stage: Stage, directory: Path, project: Project) -> State:
    """The state to go on from: the newest intact checkpoint, else the parent's weights, else initialisation."""
    torch.set_num_threads(stage.scale.threads or torch.get_num_threads())
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # what determinism asks of CUDA's matrix products
    torch.use_deterministic_algorithms(True)
    # Filling memory that is about to be written anyway would double the number of small models' kernels.
    torch.utils.deterministic.fill_uninitialized_memory = False
    model = models.build(stage.model_config, stage.seed)
    found = checkpoint.load_latest(directory, stage.fingerprint)
    if not found and stage.parent:
        models.inherit(model, _parent_weights(stage.parent, project))
    towers = _in_processes(models.Towers(model, stage.augmentation).to(stage.scale.device), stage)
    accelerator = torch.cuda.get_device_name() if stage.scale.device == "cuda" else None
    state = State(model, towers, _optimizer(model, stage), provenance=describe(accelerator))
    if found:
        state.step, tensors, metadata = found
        _restore(state, tensors, metadata)
    if ranks.everywhere(False, state.step)[1] != state.step * ranks.count():
        raise FileNotFoundError(
            f"{directory}: processes see different checkpoints; it must be on a shared disk"
        )
    return state


def _in_processes(towers: models.Towers, stage: Stage) -> nn.Module:
    """The towers as this process trains them: alone, as one of several that hold the same, or with a part of them."""
    if stage.schedule.activation_checkpointing:
        sharding.recompute(towers.model, stage.schedule.activation_checkpointing)
    if ranks.count() == 1:
        return towers
    if stage.sharded:
        return sharding.shard(towers, stage.scale.device, stage.scale.precision)
    return nn.parallel.DistributedDataParallel(towers, broadcast_buffers=False)


def _parent_weights(parent: Stage, project: Project) -> dict[str, Tensor]:
    directory = Path(project.runs_directory) / parent.directory
    try:
        made = json.loads((directory / "stage.json").read_text(encoding="utf-8"))
        weights = load_file(directory / "open_clip" / "open_clip_model.safetensors")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error.filename}: the parent stage is not finished; train it first"
        ) from None
    if made["fingerprint"] != parent.fingerprint:
        raise checkpoint.CheckpointMismatch(f"{directory}/stage.json: not made by {parent.fingerprint}")
    return weights


def _optimizer(model: models.CLIP, stage: Stage) -> torch.optim.AdamW:
    """AdamW (Table 5); decay on weight matrices only."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [p for n, p in trained if models.decayed(n, p)],
            "weight_decay": stage.schedule.weight_decay,
        },
        {"params": [p for n, p in trained if not models.decayed(n, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=stage.schedule.betas, eps=stage.schedule.eps, fused=True)


def _save(stage: Stage, directory: Path, state: State, data_fingerprint: str) -> None:
    """Write model, optimizer and loss log as one checkpoint; the loss log also as ``loss.jsonl`` to look at. All
    processes bring their parts, the first one writes.
    """
    tensors = sharding.whole_state(state.model, state.optimizer)
    state.processes = list(dict.fromkeys([*state.processes, ranks.count()]))
    if ranks.rank() > 0:
        return
    metadata = {
        "fingerprint": stage.fingerprint,
        "data_fingerprint": data_fingerprint,
        "replaced": state.replaced,
        "seconds": round(state.seconds, 3),
        "processes": state.processes,
        "losses": state.losses,
        "provenance": state.provenance,
    }
    checkpoint.save(directory, state.step, tensors, metadata)
    lines = "".join(json.dumps(row) + "\n" for row in state.losses)
    temporary = directory / ".loss.jsonl.partial"
    temporary.write_text(lines, encoding="utf-8")
    os.replace(temporary, directory / "loss.jsonl")


def _restore(state: State, tensors: Mapping[str, Tensor], metadata: dict[str, Any]) -> None:
    sharding.load_whole_state(state.model, state.optimizer, tensors)
    state.replaced, state.seconds = metadata["replaced"], metadata["seconds"]
    state.losses, state.processes = metadata["losses"], metadata.get("processes", [])
    # Every commit that trained a part of the stage is part of its provenance, and so is one uncommitted change.
    earlier = metadata["provenance"]
    state.provenance["dirty"] = state.provenance["dirty"] or earlier["dirty"]
    commits = [*earlier.get("commits", [earlier["commit"]]), state.provenance["commit"]]
    if len(set(commits)) > 1:
        state.provenance["commits"] = list(dict.fromkeys(commits))


def _finish(
    stage: Stage,
    directory: Path,
    vocabulary: Path,
    state: State,
    weights: dict[str, Tensor],
    data_fingerprint: str,
) -> Path:
    """Export the model and write ``stage.json``, the sign that the stage is finished, last.

    Snakemake deletes ``stage.json`` when it reruns an interrupted job; all in it comes from the final checkpoint.
    """
    export = directory / "open_clip"
    models.export_open_clip(stage.model_config, weights, export, vocabulary, stage.augmentation)
    path = directory / "stage.json"
    samples, seconds = stage.schedule.samples, round(state.seconds, 3)
    write_json_atomically(
        path,
        {
            "fingerprint": stage.fingerprint,
            "kind": stage.kind,
            "run": stage.run.coordinates,
            "scale": stage.scale.name,
            "seed": stage.seed,
            "steps": state.step,
            "processes": state.processes,
            "samples_seen": samples,
            "undecodable_images": state.replaced,
            "final_loss": state.losses[-1]["loss"],
            "parameters": sum(p.numel() for p in state.model.parameters() if p.requires_grad),
            "data_fingerprint": data_fingerprint,
            "seconds": seconds,
            "samples_per_second": round(samples / max(seconds, 1e-3), 1),
            **state.provenance,
            "content": stage.content,
        },
    )
    return path


def _data(stage: Stage, project: Project) -> tuple[StreamSpec, Path, str]:
    """What the stage reads, where its vocabulary is (one for all data of a scale), and the digest of its manifest."""
    root = Path(project.data_directory)
    directory = root / data_slug(stage.data) / TRAINING_SETS[stage.kind]
    vocabulary = root / data_slug(stage.scale.data) / "vocabulary"
    manifest = read_manifest(directory)
    spec = StreamSpec(
        directory=directory,
        shards=tuple((shard["name"], shard["samples"]) for shard in manifest["shards"]),
        seed=stage.seed,
        kind=stage.kind,
        lanes=stage.data.lanes,
        shuffle_window=stage.data.shuffle_window,
        batch_size=stage.schedule.batch_size,
        image_size=stage.image_size,
        text_tokens=stage.text_tokens,
        augmentation=stage.augmentation,
        vocabulary=vocabulary,
        text_reduction=stage.text_reduction,
        text_recipe=stage.text_recipe,
    )
    return spec, vocabulary, fingerprint(manifest)


def _check_finite(model: nn.Module, loss: Tensor, step: int, directory: Path) -> None:
    """Stop before the update if the loss or any gradient is not finite."""
    norm = sharding.gradient_norm(model.parameters())
    if not torch.isfinite(norm + loss):
        what = "loss" if not torch.isfinite(loss) else "gradient"
        raise NonFinite(
            f"{directory}: the {what} of step {step} is not finite; stopped before the update, earlier checkpoints "
            "are kept (a lower base_lr or a longer warm-up is the usual cure)"
        )


def _check_replaced(stage: Stage, state: State, spec: StreamSpec) -> None:
    seen = state.step * stage.schedule.batch_size
    if state.replaced > 10 and state.replaced > UNDECODABLE_LIMIT * seen:
        raise ShardError(
            f"{spec.directory}: {state.replaced} of {seen} images cannot be decoded; check the data"
        )


def _autocast(stage: Stage) -> Any:
    if stage.scale.precision == "fp32":
        return nullcontext
    return lambda: torch.autocast(stage.scale.device, torch.bfloat16)


def main(stage: Stage, project: Project) -> int:
    """``clipa train``: exit code 0 when finished, 75 when interrupted with the state saved."""
    try:
        print(f"finished: {train_stage(stage, project)}")
    except Interrupted as error:
        print(error, file=sys.stderr)
        return INTERRUPTED
    return 0

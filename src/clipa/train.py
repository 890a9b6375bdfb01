"""Train one stage, from the first update to the exported model. Read it from top to bottom.

Started again after any interruption, a stage resumes from its last checkpoint and ends with the same bits as an
uninterrupted one on the same hardware: every random draw is a function of the named seed and the sample's position, so
model, optimizer and step are all of the state. Several processes train one global batch (:mod:`clipa.distributed`).
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clipa import checkpoint, distributed, models
from clipa.data.prepared import check_vocabulary
from clipa.data.samples import REASONS, Reason, named
from clipa.data.shards import ShardError, read_manifest
from clipa.data.stream import StreamSpec, batches, mask_key
from clipa.files import with_digest, write_json_atomically, write_text_atomically
from clipa.inputs import check_start, continued, expected_of, inputs_of, resumed, warn_unnamed, weaker
from clipa.losses import backward
from clipa.progress import Progress
from clipa.provenance import describe
from clipa.reductions.images import keep
from clipa.reductions.noise import uniform
from clipa.resolved import (
    EXPORT,
    FINGERPRINT_LENGTH,
    WEIGHTS,
    Content,
    ResolvedStage,
    StageSchedule,
    finished,
    read,
    sealed,
)

INTERRUPTED = 75
"""Exit code after SIGTERM with a checkpoint saved: start the same command again to resume (EX_TEMPFAIL)."""

BAD_SAMPLES_LIMIT = 0.01
"""Share of samples that may be bad before the stage stops: more means damaged data, not bad luck."""


class Interrupted(RuntimeError):
    """SIGTERM arrived; the state is saved."""


class NonFinite(RuntimeError):
    """The loss or a gradient is not finite; the update was not made."""


@dataclass
class State:
    """What training changes, and what it was done with (:mod:`clipa.inputs`).

    ``step`` counts finished updates; ``world_sizes`` are those that trained a part; ``integrity`` is the weakest mode.
    """

    model: models.CLIP
    towers: nn.Module
    optimizer: torch.optim.AdamW
    step: int = 0
    replaced: Counter[Reason] = field(default_factory=Counter)
    seconds: float = 0.0
    losses: list[dict[str, Any]] = field(default_factory=list)
    world_sizes: list[int] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    commits: list[Mapping[str, Any]] = field(default_factory=list)
    integrity: str = "once"


def main(path: Path, adopt_commit: bool = False) -> int:
    """``clipa train FILE``: exit code 0 when finished, 75 when interrupted with a checkpoint saved."""
    try:
        print(f"finished: {train_stage(read(path), adopt_commit)}")
    except Interrupted as error:
        print(error, file=sys.stderr)
        return INTERRUPTED
    return 0


def train_stage(stage: ResolvedStage, adopt_commit: bool = False) -> Path:
    """Train ``stage`` (or resume it, or find it finished) and return its ``stage.json``.

    ``adopt_commit``: also where other code trained it so far. Raises :class:`Interrupted`, :class:`NonFinite`,
    ``ShardError``, ``CheckpointMismatch``, ``OtherInputs``, ``OSError``.
    """
    with (
        distributed.process_group(stage.processes, stage.content.device) as rank,
        distributed.sole_writer(stage.directory, stage.name),
    ):
        spec, inputs = stream_spec(stage)
        state = _start(stage, inputs, adopt_commit)
        _update_until_done(stage, spec, state)
        weights = distributed.full_tensors(state.model.state_dict())
        if rank == 0:
            return _finish(stage, state, weights)
    return stage.directory / "stage.json"


def _update_until_done(stage: ResolvedStage, spec: StreamSpec, state: State) -> None:
    """The training loop: one global batch, one update, until the schedule's end."""
    content, schedule, device = stage.content, stage.content.schedule, torch.device(stage.content.device)
    rank, world_size = distributed.rank(), distributed.world_size()
    stream = _batches(stage, spec, state.step)
    # Of this process's samples in a batch: rank r holds every world_size-th lane.
    positions = torch.arange(rank, schedule.batch_size, world_size, device=device)
    progress = Progress(stage.directory, schedule.steps, schedule.batch_size, state.step, enabled=rank == 0)
    began, seconds_before = time.monotonic(), state.seconds

    with _termination() as received:
        for step in range(state.step, schedule.steps):
            images, tokens, replaced = next(stream)
            batch = [torch.as_tensor(part).to(device, non_blocking=True) for part in (images, tokens)]
            if content.image.kept_patches is not None:
                batch.append(kept_patches(stage, positions + step * schedule.batch_size))
            loss = backward(state.towers, batch, schedule.microbatch, autocast(content))
            rate = learning_rate(step, schedule.steps, schedule.warmup_steps, schedule.peak_lr)
            _check_finite(state.model, loss, step, stage.directory)
            for group in state.optimizer.param_groups:
                group["lr"] = rate
            state.optimizer.step()
            state.optimizer.zero_grad(set_to_none=True)
            models.clamp_logit_scale(state.model)

            # All processes must leave the loop at the same step, whichever of them was asked to stop.
            stop, *replaced = distributed.all_reduce(bool(received), *replaced.tolist())
            state.step, state.replaced = step + 1, state.replaced + _by_reason(replaced)
            state.seconds = seconds_before + time.monotonic() - began
            _check_replaced(schedule, state, spec)
            last = state.step == schedule.steps
            if state.step % stage.log_every == 0 or last:
                scale = state.model.logit_scale.exp().item()
                state.losses.append({"step": state.step, "loss": loss.item(), "lr": rate, "scale": scale})
            progress.update(state.step, loss)
            if last or stop or state.step % stage.checkpoint_every == 0:
                _save(stage, state)
            if stop and not last:
                raise Interrupted(
                    f"stopped after step {state.step} of {schedule.steps}; start again to resume"
                )
    progress.close()


@contextmanager
def _termination() -> Iterator[list[int]]:
    """A list that becomes non-empty when SIGTERM arrives (Slurm's time limit, a preemption)."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def _batches(stage: ResolvedStage, spec: StreamSpec, first_step: int) -> Iterator[tuple[Any, Any, int]]:
    """This process's (images, tokens, replaced) of every step from ``first_step`` on."""
    asked = spec, first_step, stage.content.schedule.steps, distributed.rank(), distributed.world_size()
    if stage.content.loader == "resident":
        from clipa.data import resident

        return resident.batches(*asked, torch.device(stage.content.device))
    return batches(*asked, stage.workers)


def learning_rate(step: int, steps: int, warmup_steps: int, peak: float) -> float:
    """Rate of the update number ``step`` (from 0) of ``steps``: linear warm-up, then cosine to zero (Table 5).

    Warm-up reaches the peak at its last step, as in open_clip ((step + 1) / warm-up: the first update is not
    wasted on a zero rate); the cosine is counted over the steps after the warm-up, as in the released code.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return peak * 0.5 * (1.0 + math.cos(math.pi * progress))


def kept_patches(stage: ResolvedStage, positions: Tensor) -> Tensor:
    """The patches [b, K] that the stage's mask keeps of the samples at ``positions`` [b], made on their device."""
    content, (rows, columns) = stage.content, stage.patch_grid
    noise = uniform(mask_key(content.seed, content.kind, "image mask"), positions, rows * columns)
    mask = content.image
    return keep(mask.reduction, noise, (rows, columns), mask.kept_patches, mask.reading)


def _start(stage: ResolvedStage, inputs: dict[str, str], adopt_commit: bool) -> State:
    """The state to start from: the newest intact checkpoint, else the parent's weights, else initialisation."""
    integrity = check_start(stage, inputs)
    content = stage.content
    torch.set_num_threads(content.threads or torch.get_num_threads())
    # Deterministic matrix products on CUDA need this.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Filling memory that is about to be written anyway would double the number of small models' kernels.
    torch.utils.deterministic.fill_uninitialized_memory = False
    model = models.build(content.model, content.seed)
    found = checkpoint.load_latest(stage.directory, stage.fingerprint)
    commits = resumed(stage, found[0], found[2], adopt_commit) if found else continued(stage, [], 0, False)
    if not found and distributed.rank() == 0:
        warn_unnamed(stage, inputs)
    if not found and stage.parent:
        models.inherit(model, _parent_weights(stage))
    towers = _wrapped(models.Towers(model, content.augmentation).to(content.device), stage)
    accelerator = torch.cuda.get_device_name() if content.device == "cuda" else None
    state = State(model, towers, optimizer_of(model, content.schedule), provenance=describe(accelerator))
    state.inputs, state.commits, state.integrity = inputs, commits, integrity
    if stage.parent:  # what was uncommitted there is in these weights, too
        state.provenance["dirty"] = state.provenance["dirty"] or sealed(stage.parent, content.parent)["dirty"]
    if found:
        state.step, tensors, metadata = found
        _restore(state, tensors, metadata)
        # A kill between two renames leaves an older loss log than the checkpoint.
        _write_losses(stage, state)
    if distributed.all_reduce(state.step) != [state.step * distributed.world_size()]:
        raise FileNotFoundError(
            f"{stage.directory}: processes see different checkpoints; it must be on a shared disk"
        )
    return state


def _wrapped(towers: models.Towers, stage: ResolvedStage) -> nn.Module:
    """The towers as this process trains them: as they are, sharded, or in DistributedDataParallel."""
    content = stage.content
    if content.schedule.activation_checkpointing:
        distributed.apply_activation_checkpointing(towers.model, content.schedule.activation_checkpointing)
    if distributed.world_size() == 1:
        return towers
    if stage.sharded:
        return distributed.shard(towers, content.device, content.precision)
    return nn.parallel.DistributedDataParallel(towers, broadcast_buffers=False)


def _parent_weights(stage: ResolvedStage) -> dict[str, Tensor]:
    finished(stage.parent, stage.content.parent)
    return load_file(stage.parent / EXPORT / WEIGHTS)


def optimizer_of(model: models.CLIP, schedule: StageSchedule) -> torch.optim.AdamW:
    """AdamW (Table 5); decay on weight matrices only."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [p for n, p in trained if models.decayed(n, p)],
            "weight_decay": schedule.weight_decay,
        },
        {"params": [p for n, p in trained if not models.decayed(n, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=schedule.betas, eps=schedule.eps, fused=True)


def _save(stage: ResolvedStage, state: State) -> None:
    """Write model, optimizer and loss log as one checkpoint; the loss log also as ``loss.jsonl`` to look at.

    All processes must call this; the first one writes.
    """
    tensors = distributed.full_state_dict(state.model, state.optimizer)
    state.world_sizes = list(dict.fromkeys([*state.world_sizes, distributed.world_size()]))
    if distributed.rank() > 0:
        return
    metadata = {
        "fingerprint": stage.fingerprint,
        "step": state.step,
        "inputs": state.inputs,
        "commits": state.commits,
        "integrity": state.integrity,
        "replaced_samples": dict(state.replaced),
        "seconds": round(state.seconds, 3),
        "processes": state.world_sizes,
        "losses": state.losses,
        "provenance": state.provenance,
    }
    checkpoint.save(stage.directory, state.step, tensors, metadata)
    _write_losses(stage, state)


def _write_losses(stage: ResolvedStage, state: State) -> None:
    """``loss.jsonl``, to look at: the checkpoint's own log, a row a line."""
    if distributed.rank() == 0:
        lines = "".join(json.dumps(row) + "\n" for row in state.losses)
        write_text_atomically(stage.directory / "loss.jsonl", lines)


def _restore(state: State, tensors: Mapping[str, Tensor], metadata: dict[str, Any]) -> None:
    distributed.load_full_state_dict(state.model, state.optimizer, tensors)
    state.replaced = Counter(
        {Reason(reason): count for reason, count in metadata["replaced_samples"].items()}
    )
    state.seconds = metadata["seconds"]
    state.losses, state.world_sizes = metadata["losses"], metadata["processes"]
    # Weaker checks and uncommitted changes of any part are those of the whole.
    state.integrity = weaker(state.integrity, metadata["integrity"])
    state.provenance["dirty"] = state.provenance["dirty"] or metadata["provenance"]["dirty"]


def _finish(stage: ResolvedStage, state: State, weights: dict[str, Tensor]) -> Path:
    """Export the model and write ``stage.json``, the sign that the stage is finished, last.

    Snakemake deletes ``stage.json`` when it reruns an interrupted job; all in it comes from the final checkpoint.
    """
    content = stage.content
    place = stage.directory / EXPORT
    export = models.export_open_clip(content.model, weights, place, stage.vocabulary, content.augmentation)
    path = stage.directory / "stage.json"
    samples, seconds = content.schedule.samples, round(state.seconds, 3)
    write_json_atomically(
        path,
        with_digest(
            {
                "fingerprint": stage.fingerprint,
                "kind": content.kind,
                "run": stage.run,
                "scale": stage.scale,
                "seed": content.seed,
                "steps": state.step,
                "processes": state.world_sizes,
                "samples_seen": samples,
                "replaced_samples": dict(state.replaced),
                "final_loss": state.losses[-1]["loss"],
                "parameters": sum(p.numel() for p in state.model.parameters() if p.requires_grad),
                "data_fingerprint": state.inputs["data"][:FINGERPRINT_LENGTH],
                "inputs": state.inputs,
                "integrity": state.integrity,
                "seconds": seconds,
                "samples_per_second": round(samples / max(seconds, 1e-3), 1),
                **state.provenance,
                "commits": state.commits,
                "export": export,
                "content": content.plain,
            }
        ),
    )
    return path


def stream_spec(stage: ResolvedStage) -> tuple[StreamSpec, dict[str, str]]:
    """What the stage reads, and the digests of its inputs. ShardError where data is missing."""
    content = stage.content
    manifest = read_manifest(stage.training_data)
    if content.prepared is not None:
        check_vocabulary(stage.training_data, manifest, stage.vocabulary)
    spec = StreamSpec(
        directory=stage.training_data,
        shards=tuple((shard["name"], shard["samples"]) for shard in manifest["shards"]),
        seed=content.seed,
        kind=content.kind,
        lanes=content.order.lanes,
        shuffle_window=content.order.shuffle_window,
        batch_size=content.schedule.batch_size,
        image_size=stage.image_size,
        text_tokens=content.text.tokens,
        augmentation=content.augmentation,
        vocabulary=stage.vocabulary,
        text_reduction=content.text.reduction,
        text_recipe=content.text.recipe,
        decode=content.decode,
        prepared=content.prepared is not None,
        sidecars=stage.sidecars if content.prepared else None,
    )
    checked = replace(spec, expected=expected_of(stage, manifest, spec.needs_tags))
    return checked, inputs_of(stage, manifest, spec.needs_tags, spec.needs_entries)


def _check_finite(model: nn.Module, loss: Tensor, step: int, directory: Path) -> None:
    """Stop before the update if the loss or any gradient is not finite."""
    norm = distributed.gradient_norm(model.parameters())
    if not torch.isfinite(norm + loss):
        what = "loss" if not torch.isfinite(loss) else "gradient"
        raise NonFinite(
            f"{directory}: the {what} of step {step} is not finite; stopped before the update, earlier checkpoints "
            "are kept (a lower base_lr or a longer warm-up is the usual cure)"
        )


def _check_replaced(schedule: StageSchedule, state: State, spec: StreamSpec) -> None:
    seen = state.step * schedule.batch_size
    bad = state.replaced.total()
    if bad > 10 and bad > BAD_SAMPLES_LIMIT * seen:
        raise ShardError(
            f"{spec.directory}: {bad} of {seen} samples are bad ({named(state.replaced)}); check the data"
        )


def _by_reason(counts: list[int]) -> Counter[Reason]:
    return Counter({reason: count for reason, count in zip(REASONS, counts, strict=True) if count})


def autocast(content: Content) -> Any:
    """A context manager's factory for forward passes in the stage's precision."""
    if content.precision == "fp32":
        return nullcontext
    return lambda: torch.autocast(content.device, torch.bfloat16)

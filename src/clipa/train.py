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
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clipa import checkpoint, distributed, models, slurm
from clipa.blocks import compile_blocks, compile_errors
from clipa.cost import CHECKPOINT_BYTES
from clipa.data.dealing import own_places
from clipa.data.prepared import check_vocabulary
from clipa.data.samples import REASONS, Reason, named
from clipa.data.shards import ShardError, read_manifest
from clipa.data.stream import StreamSpec, batches, mask_key
from clipa.files import with_digest, write_json_atomically, write_text_atomically
from clipa.inputs import check_start, continued, expected_of, inputs_of, resumed, warn_unnamed, weaker
from clipa.launch import INTERRUPTED
from clipa.losses import backward
from clipa.optimizers import Optimizers, optimizers_of
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
from clipa.stopping import Interrupted, OutOfTime, Stop

BAD_SAMPLES_LIMIT = 0.01
"""Share of samples that may be bad before the stage stops: more means damaged data, not bad luck."""


class NonFinite(RuntimeError):
    """The loss or a gradient is not finite; the update was not made."""


@dataclass
class State:
    """What training changes, and what it was done with (:mod:`clipa.inputs`).

    ``step`` counts finished updates; ``world_sizes`` and ``passes`` (samples a pass; None: all of a process's) are
    those that trained a part; ``integrity`` is the weakest mode.
    """

    model: models.CLIP
    towers: nn.Module
    optimizer: Optimizers
    step: int = 0
    replaced: Counter[Reason] = field(default_factory=Counter)
    seconds: float = 0.0
    losses: list[dict[str, Any]] = field(default_factory=list)
    world_sizes: list[int] = field(default_factory=list)
    passes: list[int | None] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    commits: list[Mapping[str, Any]] = field(default_factory=list)
    integrity: str = "once"

    @property
    def bytes(self) -> int:
        """Of a checkpoint."""
        return CHECKPOINT_BYTES * sum(parameter.numel() for parameter in self.model.parameters())


def main(path: Path, adopt_commit: bool = False, requeue: bool = False) -> int:
    """``clipa train FILE``: exit code 0 when finished, 75 when interrupted with a checkpoint saved."""
    try:
        print(f"finished: {train_stage(read(path), adopt_commit, requeue)}")
    except Interrupted as error:
        print(error, file=sys.stderr)
        return INTERRUPTED
    return 0


def train_stage(stage: ResolvedStage, adopt_commit: bool = False, requeue: bool = False) -> Path:
    """Train ``stage`` (or resume it, or find it finished) and return its ``stage.json``.

    ``adopt_commit``: also where other code trained it so far. ``requeue``: this is a job of SLURM; save before its time
    is up, and have it started again. Raises :class:`Interrupted`, :class:`NonFinite`, ``ShardError``,
    ``CheckpointMismatch``, ``OtherInputs``, ``SlurmError``, ``OSError``.
    """
    with (
        distributed.process_group(stage.processes, stage.content.device) as rank,
        distributed.sole_writer(stage.directory, stage.name),
        compile_errors() if stage.content.compile else nullcontext(),
    ):
        job = slurm.own_job() if requeue and rank == 0 else None
        spec, inputs = stream_spec(stage)
        state = _start(stage, inputs, adopt_commit)
        first = state.step
        if job:
            job.note(stage.directory, f"{distributed.world_size()} processes start after step {first}")
        try:
            _update_until_done(stage, spec, state, job)
        except OutOfTime as reason:
            if requeue:
                _start_again(job, stage.directory, str(reason), state.step > first)
            raise
        weights = distributed.full_tensors(state.model.state_dict())
        if job:
            job.note(stage.directory, f"finished after step {state.step}")
        if rank == 0:
            return _finish(stage, state, weights)
    return stage.directory / "stage.json"


def _start_again(job: slurm.Job | None, directory: Path, reason: str, advanced: bool) -> None:
    """Have the first process's ``job`` started again; all processes must call this. SlurmError where it must not be."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM sends it as soon as it has accepted; all is saved
    distributed.wait_for_all()
    if job:
        job.note(directory, reason)
        if not advanced:
            raise slurm.SlurmError(f"{directory}: no step ended within job {job.number}; give it more time")
        job.start_again()
    distributed.wait_for_all()  # torchrun ends all processes as soon as one has ended


def _update_until_done(stage: ResolvedStage, spec: StreamSpec, state: State, job: slurm.Job | None) -> None:
    """The training loop: one global batch, one update, until the schedule's end."""
    schedule, rank = stage.content.schedule, distributed.rank()
    stream = _batches(stage, spec, state.step)
    places = own_places(spec.lanes, schedule.batch_size, rank, distributed.world_size())
    positions = torch.as_tensor(places, device=stage.content.device)  # of this process's samples in a batch
    progress = Progress(stage.directory, schedule.steps, schedule.batch_size, state.step, enabled=rank == 0)
    began, seconds_before, saved = time.monotonic(), state.seconds, state.step
    finite = _Finite(stage)

    with Stop(_seconds_left(job), state.bytes) as stop:
        try:
            for step in range(state.step, schedule.steps):
                *batch, replaced = next(stream)
                loss, rate = _update(stage, state, step, batch, positions, finite, stop)
                # All processes must leave the loop at the same step, whichever of them was asked to stop.
                replaced = stop.after_step(*replaced.tolist())
                state.step, state.replaced = step + 1, state.replaced + _by_reason(replaced)
                state.seconds = seconds_before + time.monotonic() - began
                _check_replaced(schedule, state, spec)
                last = state.step == schedule.steps
                if state.step % stage.log_every == 0 or last:
                    finite.check()
                    scale = state.model.logit_scale.exp().item()
                    state.losses.append({"step": state.step, "loss": loss.item(), "lr": rate, "scale": scale})
                progress.update(state.step, loss)
                if last or state.step % stage.checkpoint_every == 0:
                    finite.check()
                    with stop.saving():
                        _save(stage, state)
                    saved = state.step
                if stop.reason and not last:
                    raise stop.reason
        except Interrupted as reason:
            if state.step > saved:
                finite.check()
                _save(stage, state)
                distributed.wait_for_all()  # where one process has ended the others are killed: the first is saving
            told = f"stopped after step {state.step} of {schedule.steps}; start again to resume"
            raise type(reason)(told) from None
    progress.close()


def _seconds_left(job: slurm.Job | None) -> float | None:
    """Of the first process's ``job``, in all processes; None: no limit.

    All must know: one that is ahead of the others and waits for them has looked at its clock a step too early.
    """
    own = job and job.seconds_left()
    limited, left = distributed.all_reduce(own is not None, int(own or 0))
    return left if limited else None


def _update(
    stage: ResolvedStage,
    state: State,
    step: int,
    batch: list[Tensor],
    positions: Tensor,
    finite: _Finite,
    stop: Stop,
) -> tuple[Tensor, float]:
    """One update on this process's images and tokens, at ``positions`` in the batch; loss (scalar) and learning rate.

    The rate is AdamW's. Interrupted where all processes are asked to stop within it: then nothing was changed.
    """
    content, schedule = stage.content, stage.content.schedule
    if content.image.kept_patches is not None:
        batch = [*batch, kept_patches(stage, positions + step * schedule.batch_size)]
    loss = backward(state.towers, batch, stage.microbatch, autocast(content), stop.between_passes)
    peaks = dict.fromkeys(group["peak_lr"] for group in state.optimizer.param_groups)
    rates = {peak: learning_rate(step, schedule.steps, schedule.warmup_steps, peak) for peak in peaks}
    for group in state.optimizer.param_groups:
        group["lr"] = rates[group["peak_lr"]]
    state.optimizer.step(finite.watch(step, loss, distributed.gradient_norm(state.model.parameters())))
    state.optimizer.zero_grad()
    models.clamp_logit_scale(state.model)
    return loss, state.optimizer.param_groups[0]["lr"]


def _batches(stage: ResolvedStage, spec: StreamSpec, first_step: int) -> Iterator[tuple[Tensor, Tensor, Any]]:
    """This process's (images, tokens, both on its device; replaced) of every step from ``first_step`` on."""
    asked = spec, first_step, stage.content.schedule.steps, distributed.rank(), distributed.world_size()
    device = torch.device(stage.content.device)
    if stage.content.loader == "resident":
        from clipa.data import resident

        found = resident.batches(*asked, device)
    else:
        found = batches(*asked, stage.workers)
    return _prefetched(found) if device.type == "cuda" else map(_tensors, found)


def _tensors(batch: tuple[Any, Any, Any]) -> tuple[Tensor, Tensor, Any]:
    images, tokens, replaced = batch
    return torch.as_tensor(images), torch.as_tensor(tokens), replaced


def _prefetched(found: Iterator[tuple[Any, Any, Any]]) -> Iterator[tuple[Tensor, Tensor, Any]]:
    """Batches on the GPU, each copied from pinned memory while the step before it runs."""
    copying, waiting = torch.cuda.Stream(), None
    for batch in found:
        *parts, replaced = _tensors(batch)
        with torch.cuda.stream(copying):
            moved = [p if p.is_cuda else p.pin_memory().to("cuda", non_blocking=True) for p in parts]
        if waiting is not None:
            yield waiting
        torch.cuda.current_stream().wait_stream(copying)
        for part in moved:
            part.record_stream(torch.cuda.current_stream())
        waiting = *moved, replaced
    if waiting is not None:
        yield waiting


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
    model = models.build(content.model, content.seed, content.blocks, content.positions)
    found = checkpoint.load_latest(stage.directory, stage.fingerprint)
    commits = resumed(stage, found[0], found[2], adopt_commit) if found else continued(stage, [], 0, False)
    if not found and distributed.rank() == 0:
        warn_unnamed(stage, inputs)
    if not found and stage.parent:
        models.inherit(model, _parent_weights(stage))
    towers = _wrapped(models.Towers(model, content.augmentation).to(content.device), stage)
    accelerator = torch.cuda.get_device_name() if content.device == "cuda" else None
    state = State(model, towers, optimizers_of(model, content.schedule), provenance=describe(accelerator))
    state.inputs, state.commits, state.integrity = inputs, commits, integrity
    if stage.parent:  # what was uncommitted there is in these weights, too
        state.provenance["dirty"] = state.provenance["dirty"] or sealed(stage.parent, content.parent)["dirty"]
    step = found[0] if found else 0
    if distributed.all_reduce(step) != [step * distributed.world_size()]:
        raise FileNotFoundError(
            f"{stage.directory}: processes see different checkpoints; it must be on a shared disk"
        )
    if found:
        state.step, stored, metadata = found
        _restore(state, stored, metadata)
        # A kill between two renames leaves an older loss log than the checkpoint.
        _write_losses(stage, state)
    return state


def _wrapped(towers: models.Towers, stage: ResolvedStage) -> nn.Module:
    """The towers as this process trains them: as they are, sharded, or in DistributedDataParallel."""
    content = stage.content
    if stage.activation_checkpointing:
        distributed.apply_activation_checkpointing(towers.model, stage.activation_checkpointing)
    if content.compile:
        compile_blocks(towers.model)
    if distributed.world_size() == 1:
        return towers
    if stage.sharded:
        return distributed.shard(towers, content.device, content.precision, stage.nodes)
    size, place = stage.image_size, {"device": content.device}
    batch = [
        torch.zeros(1, 3, size, size, dtype=torch.uint8, **place),
        torch.zeros(1, content.text.tokens, dtype=torch.int64, **place),
    ]
    if content.image.kept_patches is not None:
        batch.append(kept_patches(stage, torch.zeros(1, dtype=torch.int64, **place)))
    return distributed.replicate(towers, batch)


def _parent_weights(stage: ResolvedStage) -> dict[str, Tensor]:
    finished(stage.parent, stage.content.parent)
    return load_file(stage.parent / EXPORT / WEIGHTS)


def _save(stage: ResolvedStage, state: State) -> None:
    """Write model, optimizer and loss log as one checkpoint; the loss log also as ``loss.jsonl`` to look at.

    All processes must call this; the first one writes, but of what is sharded each its own part.
    """
    tensors = distributed.state_dict(state.model, state.optimizer)
    state.world_sizes = list(dict.fromkeys([*state.world_sizes, distributed.world_size()]))
    state.passes = list(dict.fromkeys([*state.passes, stage.microbatch]))
    metadata = {
        "fingerprint": stage.fingerprint,
        "step": state.step,
        "inputs": state.inputs,
        "commits": state.commits,
        "integrity": state.integrity,
        "replaced_samples": dict(state.replaced),
        "seconds": round(state.seconds, 3),
        "processes": state.world_sizes,
        "samples_a_pass": state.passes,
        "losses": state.losses,
        "provenance": state.provenance,
    }
    if stage.sharded and distributed.world_size() > 1:
        checkpoint.save_shards(stage.directory, state.step, tensors, metadata)
    elif distributed.rank() == 0:
        checkpoint.save(stage.directory, state.step, tensors, metadata)
    _write_losses(stage, state)


def _write_losses(stage: ResolvedStage, state: State) -> None:
    """``loss.jsonl``, to look at: the checkpoint's own log, a row a line."""
    if distributed.rank() == 0:
        lines = "".join(json.dumps(row) + "\n" for row in state.losses)
        write_text_atomically(stage.directory / "loss.jsonl", lines)


def _restore(
    state: State, stored: checkpoint.StoredTensors | checkpoint.StoredShards, metadata: dict[str, Any]
) -> None:
    if isinstance(stored, checkpoint.StoredShards):
        stored.read_into(distributed.empty_state_dict(state.model, state.optimizer, stored.shapes()))
    else:
        distributed.load_full_state_dict(state.model, state.optimizer, stored)
    state.replaced = Counter(
        {Reason(reason): count for reason, count in metadata["replaced_samples"].items()}
    )
    state.seconds = metadata["seconds"]
    state.losses, state.world_sizes = metadata["losses"], metadata["processes"]
    state.passes = metadata["samples_a_pass"]
    # Weaker checks and uncommitted changes of any part are those of the whole.
    state.integrity = weaker(state.integrity, metadata["integrity"])
    state.provenance["dirty"] = state.provenance["dirty"] or metadata["provenance"]["dirty"]


def _finish(stage: ResolvedStage, state: State, weights: dict[str, Tensor]) -> Path:
    """Export the model and write ``stage.json``, the sign that the stage is finished, last.

    Snakemake deletes ``stage.json`` when it reruns an interrupted job; all in it comes from the final checkpoint.
    """
    content = stage.content
    place = stage.directory / EXPORT
    export = models.export_open_clip(
        content.model, weights, place, stage.vocabulary, content.augmentation, stage.resize_mode
    )
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
                "samples_a_pass": state.passes,
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


class _Finite:
    """Makes no update from the first step on whose loss or gradients are not finite.

    That is decided on the device, by AdamW's own switch for it, so the host need not wait for each step: it looks when
    it waits anyway, and the state is still that of before the step. Muon has no switch, so with it the host looks at
    every step.
    """

    def __init__(self, stage: ResolvedStage) -> None:
        self.directory = stage.directory
        self.found = torch.tensor(
            [-1, 0], device=stage.content.device
        )  # the step; whether its loss was finite
        self.waits = stage.content.device == "cpu" or stage.content.schedule.muon is not None

    def watch(self, step: int, loss: Tensor, gradient_norm: Tensor) -> Tensor:
        """1 where no update must be made, else 0 (float32), for :meth:`Optimizers.step`; call it before each.

        ``loss`` and ``gradient_norm`` are scalars. Raises NonFinite where it is decided on the host.
        """
        failed = ~torch.isfinite(gradient_norm + loss)
        now = torch.stack([torch.full_like(self.found[0], step), torch.isfinite(loss).long()])
        self.found = torch.where(failed & (self.found[0] < 0), now, self.found)
        if self.waits:
            self.check()
        return (self.found[0] >= 0).float()

    def check(self) -> None:
        """NonFinite, with the step, if there was one. Before a log or a checkpoint says that steps were made."""
        step, loss_was_finite = self.found.tolist()
        if step >= 0:
            what = "gradient" if loss_was_finite else "loss"
            raise NonFinite(
                f"{self.directory}: the {what} of step {step} is not finite; stopped before the update, earlier "
                "checkpoints are kept (a lower base_lr or a longer warm-up is the usual cure)"
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

"""A record in words: its value, its setting, its place in the paper, and how to cite it.

Published numbers are the paper's, measured and derived ones this artifact's; each text below says which. A measured
number is on the data set that was evaluated and of the model that was trained, never on the paper's benchmark or of the
paper's model, whose coordinates its id has.
"""

from __future__ import annotations

import re

from clipa import __version__
from clipa.plan import filling
from clipa.published.search import benchmark_of, metric_parts
from clipa.schema import Record
from clipa.stats import with_error

PAPER = "Xianhang Li, Zeyu Wang, Cihang Xie: An Inverse Scaling Law for CLIP Training. NeurIPS 2023, arXiv:2305.07017"
ARTIFACT = f"clipa {__version__}, an executable artifact by others than the paper's authors"
NO_NUMBER = "no number"
RELEASED = 2026

BENCHMARKS = {
    "imagenet1k": "ImageNet-1k",
    "imagenetv2": "ImageNet-V2",
    "imagenet-a": "ImageNet-A",
    "imagenet-r": "ImageNet-R",
    "imagenet_sketch": "ImageNet-Sketch",
    "objectnet": "ObjectNet",
    "mscoco_captions": "COCO",
    "flickr30k": "Flickr30k",
    "cifar10": "CIFAR-10",
    "vtab/caltech101": "Caltech-101",
    "vtab/cifar100": "CIFAR-100",
    "vtab/clevr_count_all": "CLEVR, count",
    "vtab/clevr_closest_object_distance": "CLEVR, distance",
    "vtab/dmlab": "DMLab",
    "vtab/dtd": "DTD",
    "vtab/eurosat": "EuroSAT",
    "vtab/kitti_closest_vehicle_distance": "KITTI, distance",
    "vtab/flowers": "Flowers",
    "vtab/pets": "Pets",
    "vtab/pcam": "PCam",
    "vtab/resisc45": "RESISC45",
    "vtab/smallnorb_label_azimuth": "smallNORB, azimuth",
    "vtab/smallnorb_label_elevation": "smallNORB, elevation",
    "vtab/svhn": "SVHN",
    "aro": "ARO",
    "aro/vg_relation": "ARO, VG-Relation",
    "aro/vg_attribution": "ARO, VG-Attribution",
    "aro/coco_order": "ARO, COCO-Order",
    "aro/flickr30k_order": "ARO, Flickr30k-Order",
}
_METRICS = {
    "acc1": "top-1 accuracy",
    "relation_acc1": "relations, accuracy",
    "attribute_acc1": "attributes, accuracy",
    "order_acc1": "order, accuracy",
    "image_retrieval_recall@1": "image retrieval, recall@1",
    "text_retrieval_recall@1": "text retrieval, recall@1",
    "compute": "compute of the whole training",
    "flops": "compute per pair",
    "gpu_hours": "training time",
    "base_lr": "base learning rate",
    "embed_dim": "embedding dimension",
    "warmup_steps": "warm-up steps",
    "samples": "samples of pre-training and fine-tuning",
}
STAGES = {
    "pretrain": "after pre-training",
    "finetune": "after fine-tuning at full length",
    "negclip": "after NegCLIP fine-tuning",
}
_AS_PRINTED = ("text", "rate", "samples")
_CHANGES = {
    "drop": ", drop from full length",
    "gain": ", gain",
    "slope": ", slope of the drop over the models",
}
_UNITS = {"percent": "%", "1e12 GFLOPs": "× 10¹² GFLOPs", "1e11 GFLOPs": "× 10¹¹ GFLOPs", "M": "M parameters"}


def value_text(record: Record) -> str:
    """The value with its unit: ``66.2 %``, ``5.7 × 10¹² GFLOPs``, ``15.6 ± 1.9 %`` where it was measured."""
    return " ".join(value_and_unit(record)).rstrip()


def value_and_unit(record: Record) -> tuple[str, str]:
    """The value as text, and its unit (which may be empty)."""
    value, unit, printed = record["value"], record.get("unit") or "percent", record.get("printed")
    if value is None:
        return NO_NUMBER, ""
    if record["source"] == "measured":
        return with_error(value, record["standard_error"]), "%"
    if record["source"] == "derived":
        return record["text"].replace("-", "−"), unit
    if unit in _AS_PRINTED or not isinstance(value, (int, float)):
        return re.sub(r"\s*\[[\d, ]+\]$", "", printed) if printed else str(value), ""
    number = plain_number(record)
    if unit == "points":
        sign = "+" if record["metric"].endswith("_gain") and value >= 0 else ""
        return (sign + number).replace("-", "−"), unit
    return number, "" if unit == "count" else _UNITS.get(unit, unit)


def plain_number(record: Record) -> str:
    """The digits of a numeric value: as many as the paper prints, else one decimal where it prints accuracies."""
    value, printed = record["value"], record.get("printed") or ""
    digits = re.fullmatch(r"[^\d.-]*(\d+(?:\.\d+)?)[^\d.]*", printed)
    if digits is not None and float(digits[1]) == value:
        return digits[1]
    fraction = record.get("unit", "percent") in ("percent", "points")
    return f"{value:.1f}" if fraction else f"{value:g}"


def printed_differently(record: Record) -> bool:
    """Whether the paper prints something else than the value as meant (``299`` for 29.9; ``-`` for none)."""
    printed = record.get("printed")
    if printed is None:
        return False
    if record["value"] is None:
        return True
    as_printed = record.get("unit") in _AS_PRINTED or not isinstance(record["value"], (int, float))
    return not as_printed and plain_number(record) not in printed


def quantity(record: Record) -> str:
    """What is measured: ``ImageNet-1k, top-1 accuracy``; ``image tower, width``; ``pictograms/v1/plain, …``."""
    metric, change = metric_parts(record["metric"])
    tower, _, rest = metric.partition(".")
    if rest and tower in ("vision", "text", "total"):
        where = {"vision": "image tower", "text": "text tower", "total": "both towers"}[tower]
        name = f"{where}, {rest}"
    else:
        name = _METRICS.get(metric, metric.replace("_", " "))
    benchmark = benchmark_of(record)
    what = f"{BENCHMARKS.get(benchmark, benchmark)}, {name}" if benchmark else name
    if change == "minimal":
        limit, length = re.fullmatch(r".*_within([\d.]+)_minimal_(\w+)", record["metric"]).groups()
        return f"least {length.replace('_', ' ')} with a drop of at most {limit} points ({what})"
    if change == "ratio":
        return f"{what}, {record['case'].replace('-over-', ' over ')}"
    return what + _CHANGES.get(change, "")


def model_text(record: Record) -> str:
    """The model: ``L/16``; ``L/16 stand-in, 0.5 M`` for one that a small scale trains in its place."""
    if record["source"] != "measured":
        return record["model"] or ""
    size = f"{record['actual']['parameters'] / 1e6:.2g} M"
    return f"{record['model']}{'' if record['scale'] == 'paper' else ' stand-in'}, {size}"


def stage_text(record: Record) -> str:
    """The stage in words; the full-length baseline has one."""
    if record["stage"] is None:
        return ""
    if record["image_reduction"] == "none" and record["stage"] == "pretrain":
        return "full-length training"
    if record["benchmark"] is None:
        return "pre-training"
    return STAGES[record["stage"]]


def setting(record: Record) -> list[str]:
    """Model, image, text, and what else names the experiment, each in a few words; what is unknown is left out.

    Lengths are the paper's coordinates; those of a measured record are followed by what ran.
    """
    parts = [*filter(None, [model_text(record)]), *lengths(record), *details(record)]
    if record["source"] == "measured":
        actual = record["actual"]
        kept = f" ({actual['patches']} patches)" if actual["patches"] else ""
        parts.append(f"run at {actual['image_size']} px{kept} and {actual['text_tokens']} text tokens")
    return parts


def lengths(record: Record) -> list[str]:
    """How images and texts are shortened: ``images resized to 64 px (16 patches)``, ``32 text tokens``."""
    return [part for part in (_image(record), _text(record)) if part]


def _image(record: Record) -> str:
    reduction, pixels, patches = record["image_reduction"], record["image_size"], record["patches"]
    kept = f" ({patches} patches)" if patches else ""
    if reduction is None:
        return f"{pixels} px images" if pixels else ""
    if pixels is None:  # of every length
        return {"resize": "image resizing"}.get(reduction, f"{reduction} masking of images")
    if reduction == "none":
        return f"full-length images, {pixels} px{kept}"
    if reduction == "resize":
        return f"images resized to {pixels} px{kept}"
    return f"{reduction} masking to {patches} patches"


def _text(record: Record) -> str:
    reduction, tokens = record["text_reduction"], record["text_tokens"]
    if reduction is None:
        return ""
    if tokens is None:
        return f"text {reduction}" if reduction == "truncation" else f"{reduction} masking of text"
    if reduction == "truncation":
        return f"{tokens} text tokens" if tokens == 32 else f"text truncated to {tokens} tokens"
    return f"{reduction} masking of text to {tokens} tokens"


def details(record: Record) -> list[str]:
    """What else names the experiment: data, samples, fine-tuning, pooling, augmentation."""
    factors = record.get("factors") or {}
    parts = [factors.get("data_source"), f"recipe {record['recipe']}" if record.get("recipe") else None]
    if (samples := factors.get("pretrain_samples")) is not None:
        parts.append(f"{_billions(samples)} samples")
    stages = list(factors.get("finetune_samples", ()))
    sizes, ratios = factors.get("finetune_image_size", ()), factors.get("finetune_mask_ratio", ())
    for i, samples in enumerate(stages):
        size = f" at {sizes[i]} px" if i < len(sizes) else ""
        mask = f", {100 * ratios[i]:g} % masked" if i < len(ratios) else ""
        if mask and factors.get("finetune_mask", "random") != "random":
            mask += f" ({factors['finetune_mask']})"
        parts.append(f"fine-tuned on {_billions(samples)}{size}{mask}")
    if "finetune_batch_size" in factors:
        parts.append(f"fine-tuning batch {factors['finetune_batch_size']}")
    if "pooling" in factors:
        parts.append({"cls": "class token", "gap": "average pooling"}[factors["pooling"]])
    if factors.get("color_jitter"):
        parts.append("colour jitter")
    if factors.get("implementation") == "pytorch":
        parts.append("PyTorch")
    return [part for part in parts if part]


def _billions(samples: float) -> str:
    return f"{samples / 1e9:g}B" if samples >= 1e9 else f"{samples / 1e6:g}M"


def measuring(record: Record) -> str:
    """What would measure a published number here: a target of the workflow, and the run; empty for what is not."""
    runs = filling(record) if record["source"] == "published" and record["benchmark"] else []
    return f"snakemake measure_table{record['table']} (run {runs[-1]})" if runs else ""


def place(record: Record) -> str:
    """Where a number is printed: ``Table 11``, ``Section 4.1 (on Figure 5)``; for measured records the scale."""
    if record["source"] == "measured":
        return f"measured here at scale {record['scale']}"
    if record["table"] is not None:
        return f"Table {record['table']}"
    figure = f"Figure {record['figure']}"
    if record.get("section"):
        return f"Section {record['section']} (on {figure})"
    table = re.match(r"table(\d+)\.", (record.get("same_as") or [""])[0])
    return f"Table {table[1]} (plotted in {figure})" if table else figure


def sample(record: Record) -> str:
    """What a measured number is a mean over: ``n = 4000, 3 seeds``, ``n = 4000, seed 0``; empty for others."""
    if record["source"] != "measured":
        return ""
    seeds = record.get("seeds")
    over = f"seed {record['seed']}" if seeds is None else f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    return f"n = {record['dataset']['n']}, {over}"


def stands_for(record: Record) -> str:
    """What the paper's coordinate in a measured record's id stands for; empty where it is what was evaluated."""
    benchmark = record["benchmark"]
    if record["source"] != "measured" or benchmark == benchmark_of(record):
        return ""
    return f"{benchmark} in the id: {benchmark_of(record)} in its place"


def cell(record: Record) -> str:
    """``row; column`` as printed; the place where there is no cell; what a measured or derived number is and is of."""
    if record["source"] == "measured":
        return f"{place(record)}: {quantity(record)}, {model_text(record)}, {sample(record)}"
    if record["source"] == "derived":
        return f"derived from {place(record)}: {quantity(record)}"
    return f"{record['row']}; {record['column']}" if record.get("row") else place(record)


def citation(record: Record) -> str:
    """One sentence to put under a number; empty for a cell without one.

    Of a published number the paper with the place, then the artifact; of a measured or derived one what it is, first.
    """
    if record["value"] is None:
        return ""
    if record["source"] == "measured":
        what = f"{value_text(record)}: {quantity(record)}, {model_text(record)}, {sample(record)}"
        return (
            f"{what} ({place(record)}; record {record['id']} of {ARTIFACT}). "
            f"Not a number of the paper that it follows, {PAPER}"
        )
    if record["source"] == "derived":
        what = f"{value_text(record)}: {', '.join([quantity(record), *setting(record)])}"
        return (
            f"{what} (record {record['id']} of {ARTIFACT}, computed as {record['formula']} from {place(record)} of "
            f"{PAPER}, which does not print it)"
        )
    where = f", row “{record['row']}”, column “{record['column']}”" if record["row"] else ""
    return f"{PAPER}, {place(record)}{where} (record {record['id']} of {ARTIFACT})"


def bibtex(record: Record | None = None) -> str:
    """Two BibTeX entries: the paper, and this artifact with the record's id."""
    if record is None:
        note = "records of every table"
    else:
        note = f"record {record['id']}"
        if record["source"] != "published":
            note += f", not printed in the paper: {value_text(record)}, {cell(record)}"
    note += "; by others than the authors of the paper"
    # In a note, underscores and percent signs would be read by TeX.
    note = re.sub(r"([_%#&])", r"\\\1", note).replace("±", r"$\pm$")
    return f"""@inproceedings{{li2023inverse,
  title     = {{An Inverse Scaling Law for {{CLIP}} Training}},
  author    = {{Li, Xianhang and Wang, Zeyu and Xie, Cihang}},
  booktitle = {{Advances in Neural Information Processing Systems}},
  volume    = {{36}},
  year      = {{2023}},
  note      = {{arXiv:2305.07017}}
}}

@software{{clipa_artifact,
  title     = {{An Inverse Scaling Law for {{CLIP}} Training: an executable artifact}},
  author    = {{{{The CLIPA reproduction authors}}}},
  version   = {{{__version__}}},
  year      = {{{RELEASED}}},
  note      = {{{note}}}
}}"""

"""How the paper's fifteen tables are laid out: which column and row label is which coordinate of a record's id.

What is needed to read a table and does not stand in its text is stated here, once, with the place that says it.
"""

import re
from collections.abc import Callable

from paper_text import Cell, Column, Layout, clean, read

Columns = dict[int, Column]
Heading = list[list[str]]
Rows = list[list[str]]

TABLES = range(1, 16)
TICKS, CROSSES = {"✓", "/"}, {"X", ""}  # Table 7: some ticks came out as a stroke, some crosses not at all
MODELS = ["S/16", "B/16", "L/16"]
# Tables 11 to 13 and 15: model headings, torn over their columns.
TORN = {"L_ℓ116": "L/16", "ViT-·": "ViT-", "ConvNNeXt": "ConvNeXt"}
IMAGENET = "imagenet1k.acc1"
BENCHMARKS = {
    "IN-1k": IMAGENET,
    "IN-V2": "imagenetv2.acc1",
    "IN-A": "imagenet-a.acc1",
    "IN-R": "imagenet-r.acc1",
    "IN-S": "imagenet_sketch.acc1",
    "IN-Sketch": "imagenet_sketch.acc1",
    "ObjectNet": "objectnet.acc1",
    # Table 15 heads the smaller recall I-to-T; Tables 1 and 2 print the smaller one under "image".
    "I-to-T": "mscoco_captions.image_retrieval_recall@1",
    "T-to-I": "mscoco_captions.text_retrieval_recall@1",
}
VTAB = {
    "Caltech 101": "vtab/caltech101",
    "Cifar10": "cifar10",
    "Cifar100": "vtab/cifar100",
    "Clevr_all": "vtab/clevr_count_all",
    "Clevr_dis": "vtab/clevr_closest_object_distance",
    "Dmlab": "vtab/dmlab",
    "Dtd": "vtab/dtd",
    "Eurosat": "vtab/eurosat",
    "Kitti": "vtab/kitti_closest_vehicle_distance",
    "Flowers": "vtab/flowers",
    "Pets": "vtab/pets",
    "Pcam": "vtab/pcam",
    "Resisc45": "vtab/resisc45",
    "Smallnorb_A": "vtab/smallnorb_label_azimuth",
    "Smallnorb_E": "vtab/smallnorb_label_elevation",
    "Svhn": "vtab/svhn",
}
ARO = {
    "VG-Relation": "aro/vg_relation",
    "VG-Attribute": "aro/vg_attribution",
    "COCO-Order": "aro/coco_order",
    "Flickr30k-Order": "aro/flickr30k_order",
}
# Tables 1 and 2 head two columns each, image and text, with COCO and Flickr30k.
RETRIEVAL = {"COCO": "mscoco_captions", "Flickr30k": "flickr30k"}
# Table 4 heads its columns in groups, which the text has torn.
TABLE4 = {"Embed dim": "embed_dim"}
TABLE4 |= {
    f"{tower} Transformer {part}": f"{tower.lower()}.{part}"
    for tower in ("Vision", "Text")
    for part in ("layers", "width", "heads")
}
TABLE4 |= {f"# params (M) {part}": f"{part}.parameters" for part in ("vision", "text", "total")}
# Table 3 labels its third row 12.8B+512M; all that it repeats of Table 2 is printed there for 12.8B and 128M.
TABLE3_SLIP = {"12.8B+512M": "12.8B+128M"}
# Table 8 prints H/14 once for its last three rows (§B.2: from L/16 with 69.3 to H/14 with 72.8).
TABLE8_MODELS = ["CLIPA-L/16", "CLIPA-H/14", "CLIPA-H/14", "CLIPA-H/14"]


def cells(number: int) -> dict[str, Cell]:
    """{record id: Cell} of Table `number`, from its text."""
    return read(number, LAYOUTS[number])


# ------------------------------------------------------------------------------------------------- row labels


def model_in(label: str) -> str:
    """`H14` from `CLIPA-H/14 (I36,T8)`; one label lacks the stroke (CLIPA-L16)."""
    found = re.search(r"([SBLHG])/?(\d\d)", label)
    assert found, f"no model in {label!r}"
    return found[1] + found[2]


def stages_in(label: str) -> list[tuple[str, int | None]]:
    """Samples and pixels of each training: `12.8B@84² + 128M@224²` -> [("12.8B", 84), ("128M", 224)]."""
    parts = [re.fullmatch(r"([\d.]+[BM])(?:@(\d+)²)?", part) for part in clean(label).split("+")]
    assert all(parts), f"no samples in {label!r}"
    return [(part[1], int(part[2]) if part[2] else None) for part in parts]


def pixels_in(label: str) -> int:
    """Side of a square image: `112×112` or `224^{2}`."""
    found = re.fullmatch(r"(\d+)(?:×\1|²)", clean(label))
    assert found, f"no image size in {label!r}"
    return int(found[1])


def _trained(name: str, samples: str, patch_size: int, class_token: int) -> str:
    """`L16-resize64-truncation16` from `CLIPA-L/16 (I17,T16)`; Table 1 counts the class token, 2 and 3 do not."""
    tokens = re.search(r"\(I(\d+),T(\d+)\)", name)
    pixels = stages_in(samples)[0][1]
    assert int(tokens[1]) == (pixels // patch_size) ** 2 + class_token, f"{name} at {pixels} pixels"
    return f"{model_in(name)}-resize{pixels}-truncation{tokens[2]}"


def _data(source: str, samples: str) -> str:
    return "-".join([source.replace("-", "").lower(), *(amount for amount, _ in stages_in(samples))])


def _table1(row: list[str]) -> tuple[str, str]:
    name = row[0].removesuffix(", Our Eval")
    if name.startswith("CLIPA"):
        return _trained(name, row[1], 16, class_token=1), "finetune"
    return name.replace("/", ""), ""


def _table2(row: list[str]) -> tuple[str, str]:
    name = row[0].removesuffix(", Our Eval")
    if name.startswith("CLIPA"):
        return f"{_trained(name, row[2], 14, class_token=0)}-{_data(row[1], row[2])}", "finetune"
    return name.replace("/", ""), ""


def _table3(row: list[str]) -> tuple[str, str]:
    samples = TABLE3_SLIP.get(row[1], row[1]).replace("12.8B", "12.8B@84²")  # I36: 6 × 6 patches of 14 pixels
    return _table2([row[0], "LAION-2B", samples])  # the caption's data set


def _table7(row: list[str]) -> tuple[str, str]:
    parts = [word for word, mark in zip(("gap", "jitter", "pytorch"), row[1:4], strict=True) if mark == "✓"]
    parts += [] if row[4] == "32k" else [f"batch{row[4]}"]
    return "-".join(parts) or row[0].lower(), ""


def _table8(row: list[str]) -> tuple[str, str]:
    model = model_in(row[1])
    pixels = 6 * int(model[1:])  # 36 patches
    return f"{model}-resize{pixels}-truncation{row[3]}-{_data(row[4], row[5])}", "finetune"


def _table10(row: list[str]) -> tuple[str, str]:
    masks, sizes, samples = (clean(cell).split("+") for cell in row[1:4])
    phases = [
        f"{pixels_in(size)}px" + ("" if mask == "0%" else f"-mask{mask.removesuffix('%')}") + f"-{amount}"
        for mask, size, amount in zip(masks, sizes, samples, strict=True)
    ]
    return "-".join(phases), "finetune"


def _table11(row: list[str]) -> tuple[str, str]:
    label, setting, tokens = row[0], row[1], int(row[2])
    if label == "baseline":
        assert (setting, tokens) == ("0.0%", 197)
        return "none-truncation32", ""
    if label in ("resize", "resizing"):
        assert tokens == (pixels_in(setting) // 16) ** 2 + 1
        return f"resize{pixels_in(setting)}-truncation32", ""
    assert setting == f"{100 * (1 - (tokens - 1) / 196):.1f}%"
    return f"{label}{tokens - 1}-truncation32", ""


def _short_text(row: list[str]) -> tuple[str, str]:
    assert pixels_in(row[1]) == 112
    return f"resize112-{row[0]}{int(row[2])}", ""


def _table13(row: list[str]) -> tuple[str, str]:
    pixels = pixels_in(row[0])
    return ("none" if pixels == 224 else f"resize{pixels}") + "-truncation32", ""


def _table14(row: list[str]) -> tuple[str, str]:
    if row[0].startswith("CLIPA"):  # Table 1's: the only B/16 of this recipe in the paper
        return "B16-resize112-truncation16", "negclip" if row[1] else "finetune"
    return row[0].replace("/", ""), "negclip" if row[1] else ""


# ------------------------------------------------------------------------------------- torn and spanning cells


def _mend2(rows: Rows) -> None:
    for index, row in enumerate(rows):  # model and data source stand once for two rows
        row[:2] = [cell or above for cell, above in zip(row[:2], rows[index - 1][:2], strict=True)]


def _mend7(rows: Rows) -> None:
    for row in rows:
        assert set(row[1:4]) <= TICKS | CROSSES
        row[1:4] = ["✓" if mark in TICKS else "✗" for mark in row[1:4]]


def _mend8(rows: Rows) -> None:
    for model, row in zip(TABLE8_MODELS, rows, strict=True):
        assert row[1:4] in (["", "", ""], [model, "36", "8"])
        row[1:4] = [model, "36", "8"]


def _mend14(rows: Rows) -> None:
    for row in rows:  # one tick stands beside the model's name, one beside a second print of it
        row[:2] = [row[0].removesuffix("✓").strip(), "✓" if "✓" in row[0] + row[1] else ""]


# --------------------------------------------------------------------------------------------------- headings


def _named(names: dict[str, str], stage: str = "") -> Callable[[Heading], Columns]:
    """Columns by their headings in the one line there is; `cost` is of a whole row, whatever its stage."""

    def columns(heading: Heading) -> Columns:
        position = {clean(name): i for i, name in enumerate(heading[0])}
        return {
            position[name]: Column(name, metric, stage=stage or ("" if "." in metric else "cost"))
            for name, metric in names.items()
        }

    return columns


def _at_scale(first: int, cost: str) -> Callable[[Heading], Columns]:
    """Tables 1 and 2: cost, six benchmarks (second line of heading), image and text recall twice (third line)."""

    def columns(heading: Heading) -> Columns:
        found = [Column(heading[2][first], cost, stage="cost")]
        found += [Column(name, BENCHMARKS[name]) for name in heading[1][first + 1 : first + 7]]
        assert heading[2][first + 7 : first + 11] == ["image", "text", "image", "text"]
        found += [
            Column(f"{name} {side}", f"{benchmark}.{side}_retrieval_recall@1")
            for name, benchmark in RETRIEVAL.items()
            for side in ("image", "text")
        ]
        return dict(enumerate(found, first))

    return columns


def _table4_columns(heading: Heading) -> Columns:
    assert heading[1] == ["model", *(name.split()[-1] for name in TABLE4)]
    return {i: Column(name, metric) for i, (name, metric) in enumerate(TABLE4.items(), 1)}


def _setting(row: list[str]) -> tuple[str, str]:
    """Table 5's names of settings as metrics: `warm-up steps` -> warmup_steps."""
    return "pretrain." + re.sub(r" \[\d+\]|-", "", row[0]).replace(" ", "_"), ""


def _across(prefix: str) -> Callable[[Heading], Columns]:
    """Tables 6 and 9: every column is another fine-tuning."""
    return lambda heading: {
        i: Column(name, IMAGENET, prefix + name, "finetune") for i, name in enumerate(heading[0]) if i
    }


def _grouped(models: list[str], first: int, names: list[str]) -> Callable[[Heading], Columns]:
    """Tables 11 to 13 and 15: the same columns under each model; the torn headings of the models are checked."""

    def columns(heading: Heading) -> Columns:
        joined = "".join(clean(cell) for cell in heading[0]).replace(" ", "")
        for torn, whole in TORN.items():
            joined = joined.replace(torn, whole)
        assert joined == "".join(models), joined
        assert heading[1][first : first + len(names) * len(models)] == names * len(models)
        found = {}
        for index, model in enumerate(models):
            for i, name in enumerate(names, first + index * len(names)):
                slug = model.removeprefix("ViT-").replace("/", "") + "-"
                stage = name.replace("-", "") if name in STAGES else "finetune"
                found[i] = Column(f"{model} {name}", BENCHMARKS.get(name, IMAGENET), slug, stage)
        return found

    return columns


STAGES = ["pre-train", "fine-tune"]
TABLE8 = {"data source": "data_source", "# seen samples": "samples", "total compute (×1e11)": "compute"}
TABLE15 = ["IN-1k", "IN-V2", "IN-A", "IN-R", "IN-S", "I-to-T", "T-to-I"]
BACKBONES = ["ViT-S/16", "ConvNeXt-T", "ViT-B/16", "ConvNeXt-B"]
IN1K = {"IN-1k": IMAGENET}


def _accuracies(names: dict[str, str]) -> dict[str, str]:
    return {name: f"{benchmark}.acc1" for name, benchmark in names.items()}


LAYOUTS = {
    1: Layout(3, (0, 1), _at_scale(2, "gpu_hours"), _table1),
    2: Layout(3, (0, 1, 2), _at_scale(3, "compute"), _table2, _mend2),
    3: Layout(1, (0, 1), _named({"compute": "compute"} | IN1K | _accuracies(VTAB)), _table3),
    4: Layout(2, (0,), _table4_columns, lambda row: (model_in(row[0]), "")),
    5: Layout(1, (0,), lambda heading: {1: Column(heading[0][1], "")}, _setting),
    6: Layout(1, (0,), _across("batch"), lambda row: ("", "")),
    7: Layout(
        1,
        (0, 1, 2, 3, 4),
        lambda heading: {
            i: Column(name, IMAGENET, stage=name.replace("-", ""))
            for i, name in enumerate(heading[0])
            if name in STAGES
        },
        _table7,
        _mend7,
    ),
    8: Layout(1, (1, 2, 3), _named(TABLE8 | IN1K), _table8, _mend8),
    9: Layout(1, (0,), _across(""), lambda row: (row[0].removesuffix("%"), "")),
    10: Layout(1, (0, 1, 2, 3), _named({"training FLOPs": "flops"} | IN1K), _table10),
    11: Layout(2, (0, 1, 2), _grouped(MODELS, 3, STAGES), _table11),
    12: Layout(2, (0, 1, 2), _grouped(MODELS, 3, STAGES), _short_text),
    13: Layout(2, (0,), _grouped(BACKBONES, 1, STAGES), _table13),
    14: Layout(1, (0, 1), _named(_accuracies(ARO)), _table14, _mend14),
    15: Layout(2, (0, 1, 2), _grouped(MODELS, 3, TABLE15), _short_text),
}

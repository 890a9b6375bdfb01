"""Finding a number of the paper by words or id.

A query is rewritten by `REWRITES` and split into terms. A record matches when it has every term. Each term of a
record belongs to a side of it (text, benchmark, case, …), so that a search knows which sides the query leaves open.

docs/numbers.html runs the same search: `clipa.published.search_data` exports what is known here of words and records,
and `render/numbers_search.js` repeats `terms_of`, `species_asked_for`, `search` and `nearest` over it. Patterns
therefore keep to the syntax that both languages read alike (re.ASCII in Python).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from clipa.schema import Record
from clipa.study import FULL_PATCHES, IMAGE_REDUCTIONS

_TOWER = r"(?:[sblhg]/?(?:14|16|32))(?![\w-]*-)"

# (pattern, replacement with $1, $2 …), applied in this order to the lower-cased query.
REWRITES: tuple[tuple[str, str], ...] = (
    (r"[×✕]", "x"),
    (r"[–—−]", "-"),
    (r"[()\[\];:\"'?|]+(?=\s|$)", " "),
    (r"(^|\s)[()\[\]\"'|#]+", "$1"),
    (r"(\d),(?=\d\d\d\b)", "$1"),
    (r",", " "),
    # ratios of masks; any other percentage is a value
    (r"\b(\d+(?:\.\d+)?)\s?%[- ](?=(?:of|random|grid|block|mask))", "$1pct "),
    (
        r"\b(random|grid|block|mask(?:ing|ed)?)((?:[- ]mask(?:ing|ed)?)?)(?:[- ](?:ratio|rate))?"
        r"(?: (?:of|at|to|by))? (\d+(?:\.\d+)?)\s?%",
        "$1$2 $3pct",
    ),
    (r"\b(mask(?:ing|ed)?)[- ](?:ratio|rate)s?\b", "$1"),
    (r"(\d)\s?%", "$1"),
    # a run without its text: L16-resize96
    (r"(^|\s)([sblhg](?:14|16|32)|convnext-[tb])-(none|resize|random|grid|block)(\d*)(?=\s|$)", "$1$2 $3$4"),
    # models: L16, l-16, ViT-L/16, OpenCLIP-B/32
    (r"\bvit[- ](?=" + _TOWER + ")", ""),
    (r"\b(openclip|openai|flip|clipa)[- ](?=" + _TOWER + ")", "$1 "),
    (r"\bopen[- ]clip\b", "openclip"),
    (r"(^|\s)([sblhg])[-/]?(14|16|32)(?![\w.-])", "$1$2/$3"),
    (r"\bconv[- ]?next[- /]?([tb])\b(?!-)", "convnext-$1"),
    (r"\bconv[- ]next\b", "convnext"),
    # stages
    (r"\bfine[- ]?tun(?:ed|ing|e)\b", "finetune"),
    (r"\bpre[- ]?train(?:ed|ing)?\b", "pretrain"),
    (r"\bneg[- ]clip\b", "negclip"),
    # benchmarks
    (r"\b(?:imagenet|in)[- _]?v2\b", "imagenetv2"),
    (r"\b(?:imagenet[- _]|in-)([ar])\b", "imagenet-$1"),
    (r"\bimagenet[- _]?sketch\b|\bin-s(?:ketch)?\b", "imagenet_sketch"),
    (r"\b(?:imagenet|in)[- _]?1k\b|\bimagenet(?![\w-])", "imagenet1k"),
    (r"\b(?:ms)?coco[- ]order\b", "coco_order"),
    (r"\bflickr(?:30k)?[- ]order\b", "flickr30k_order"),
    (r"\b(?:ms)?coco(?![\w-])", "mscoco_captions"),
    (r"\bflickr(?![\w-])", "flickr30k"),
    (r"\bvg[- _]relations?\b", "vg_relation"),
    (r"\bvg[- _]attribut(?:es?|ions?)\b", "vg_attribution"),
    (r"\bobject[- ]net\b", "objectnet"),
    (r"\bcaltech([- ]?101)?\b", "caltech101"),
    (r"\bcifar[- ](100?)\b", "cifar$1"),
    (r"\bsmall[- ]norb\b", "smallnorb"),
    (r"\btext[- ]to[- ]image(?: retrieval)?\b|\bimage[- ]retrieval\b", "image_retrieval"),
    (r"\bimage[- ]to[- ]text(?: retrieval)?\b|\btext[- ]retrieval\b", "text_retrieval"),
    # quantities
    (r"\bgpu[- ]?hours?\b", "gpu_hours"),
    (r"\bgflops?\b|\bflop\b", "flops"),
    (r"\btop[- ]?1\b|\baccuracy\b|\bacc@1\b", "acc1"),
    (r"\brecall(?:@1)?(?![\w@])", "recall@1"),
    (r"\b(?:base )?learning[- ]rate\b", "base_lr"),
    (r"\bwarm[- ]?up\b(?: steps)?", "warmup_steps"),
    (r"\bparam(?:eter)?s?\b", "parameters"),
    (r"\b(?:image|vision) (?:tower|encoder)\b", "vision"),
    (r"\btext (?:tower|encoder)\b", "text"),
    (r"\bembed(?:ding)?[- ]dim(?:ension)?\b", "embed_dim"),
    (r"\bweight[- ]decay\b", "weight_decay"),
    (r"\bcolou?r[- ]jitter\b", "color_jitter"),
    (r"\bbatch[- ]size(?= \d+k)", "batch"),
    (r"\bbatch[- ]size\b", "batch_size"),
    (r"\blaion[- ](400m|2b)\b", "laion$1"),
    (r"\bdata[- ]?comp(?:[- ]?1b)?\b", "datacomp1b"),
    # derived numbers
    (r"\b(?:performance |accuracy |acc1 )?drops?\b", "drop"),
    (r"\bslopes?\b", "slope"),
    (r"\b(?:ratios?|speed-?ups?)\b|\b(?:times |how much )?(?:faster|cheaper)\b(?: than)?", "ratio"),
    (
        r"\b(?:minim(?:um|al)|shortest|fewest|least|smallest)\b(?: number of)?|\b(?:image |text )?tokens needed\b",
        "minimal",
    ),
    (r"\b(?:with)?in (\d(?:\.\d+)?) ?(?:points?|pp)\b", "within$1"),
    # reductions and lengths
    (r"\bresiz(?:ed|ing)\b(?: to)?", "resize"),
    (r"\btruncat(?:ed|ing|e)\b(?: (?:to|at))?", "truncation"),
    (r"\b(random|grid|block|syntax)[- ]mask(?:ing|ed)?\b", "$1"),
    (r"\bmask(?:ing|ed)\b", "mask"),
    (r"\b(\d+) ?x ?\1\b|\b(\d+)(?:²|\^2)", "$1$2px"),
    (r"\b(\d+)[- ]?pixels?\b|\b(\d+) px\b", "$1$2px"),
    (r"\btext (?=truncation|syntax|random|block)", ""),
    (r"\b(\d+)[- ]?(?:image |text )?tokens?\b(?: (?:of )?text\b)?", "$1tokens"),
    (r"\b(\d+)[- ]?patch(?:es)?\b", "$1patches"),
    (r"\btokens? (\d+)\b", "$1tokens"),
    (
        r"\b(resize|random|grid|block|syntax|truncation|mask|batch)[- ]?(\d+k?)(?:px|tokens|patches)?\b(?!\.\d)",
        "$1$2",
    ),
    (r"\b(?:baseline|full[- ](?:length|resolution)|vanilla)\b", "baseline"),
    # places
    (r"\btab(?:le|\.)? ?(\d+)\b", "table$1"),
    (r"\bfig(?:ure|\.)? ?(\d+)\b", "figure$1"),
    (r"\bsec(?:tion|\.)? ?(\d+(?:\.\d+)?)", "§$1"),
)

# Words of queries that are true of every record or of none.
SILENT = (
    " a an and are at by can case cell citation cite clip did do does for from gets give gives had has "
    "have how id in is it its many me model models much need needs number numbers of on paper paper's "
    "please record records report reported reports result results score scores show take takes tell that "
    "the there to took value values was were what when where which with zero-shot "
)

# A run or an id is looked for in ids as it stands.
LIKE_AN_ID = r"[a-z_@\d]\.[a-z]|-(?:none|resize|random|grid|block)\d*-|-laion|-datacomp"
# White space in either language: each knows characters that the other does not.
SPACE = r"[\s\x1c-\x1f\x85\xa0\ufeff]+"
PLAIN_NUMBER = r"^\d+(\.\d+)?$"
BEGINNING = r"^[a-z]{3,}$"
SEED = r"\bseed\d"
WITH_A_NUMBER = r"^([a-z]*)(\d{1,9})([a-z]*)$"
_LIKE_AN_ID = re.compile(LIKE_AN_ID, re.ASCII)
# The address of the page of numbers before an id, and the marks of a sentence around it.
AROUND_AN_ID = r"^.*#|^[^a-z0-9]+|[^a-z0-9]+$"
_AROUND_AN_ID = re.compile(AROUND_AN_ID, re.ASCII)
_PLAIN_NUMBER = re.compile(PLAIN_NUMBER, re.ASCII)
_BEGINNING = re.compile(BEGINNING, re.ASCII)
_SEED = re.compile(SEED, re.ASCII)
_WITH_A_NUMBER = re.compile(WITH_A_NUMBER, re.ASCII)
_SPACE = re.compile(SPACE)
_COMPILED = tuple(
    (re.compile(pattern, re.ASCII), re.sub(r"\$(\d)", r"\\\1", new)) for pattern, new in REWRITES
)

_FAMILIES = ("openclip", "openai", "flip")
_STANDARD_METRICS = ("acc1", "image_retrieval_recall@1", "text_retrieval_recall@1")
_EXTRA = {
    "imagenet1k": ("in-1k",),
    "imagenetv2": ("in-v2",),
    "mscoco_captions": ("coco",),
    "flops": ("compute",),
    "compute": ("flops",),
    "base_lr": ("lr",),
    "minimal_lr": ("lr",),
    "warmup_steps": ("warmup",),
}


def terms_of(query: str) -> list[str]:
    """The terms of a query, in its order; words that say nothing are left out.

    ``L16 resized to 64x64, fine-tuned`` gives ``l/16 resize64 finetune``.
    """
    terms: list[str] = []
    plain: list[str] = []

    def rewrite() -> None:
        text = " ".join(plain)
        for pattern, new in _COMPILED:
            text = pattern.sub(new, text)
        terms.extend(word for word in _words(text) if f" {word} " not in SILENT)
        plain.clear()

    for word in _words(query.lower()):
        if like_an_id(word):
            rewrite()
            terms.append(_AROUND_AN_ID.sub("", word))
        else:
            plain.append(word)
    rewrite()
    return list(dict.fromkeys(terms))


def _words(text: str) -> list[str]:
    return [word for word in _SPACE.split(text) if word]


def like_an_id(word: str) -> bool:
    """Whether a word is a run, an id or a part of one, as this repository writes them."""
    return _LIKE_AN_ID.search(word) is not None


def matches(term: str, have: Mapping[str, set[str]], identity: str) -> bool:
    """Whether a record of these terms and this (lower-case) id has `term`.

    A term of three letters or more may be the beginning of one that the record has; one that looks like an id
    may stand anywhere in the id.
    """
    if term in have:
        return True
    if like_an_id(term):
        return term in identity
    return bool(_BEGINNING.search(term)) and any(known.startswith(term) for known in have)


def record_terms(record: Record) -> dict[str, set[str]]:
    """Every term of a record, with the sides of the record that it names.

    Sides: place, family, model, image, text, stage, benchmark, metric, case, value.
    """
    have: dict[str, set[str]] = {}

    def add(side: str, *terms: object) -> None:
        for term in terms:
            for word in str(term).lower().split() if term is not None else ():
                have.setdefault(word, set()).add(side)

    for kind in ("table", "figure"):
        if record.get(kind) is not None:
            add("place", f"{kind}{record[kind]}")
    if record["source"] != "published":
        add("place", record["source"], record["scale"] if record["source"] == "measured" else None)
    _add_model(add, record)
    _add_lengths(add, record)
    add("stage", record["stage"])
    if record["image_reduction"] == "none" and "fine-tune" in (record.get("column") or ""):
        add("stage", "finetune")  # where the paper prints it
    _add_quantity(add, record)
    _add_case(add, record)
    for text in (record.get("row"), record.get("column")):
        add("place", *re.split(r"[\s|,()+]+", (text or "").lower()))
    if record.get("section"):
        add("place", f"§{record['section']}")
    return have


def _add_model(add, record: Record) -> None:
    model = record["model"]
    if model is None:
        return
    family, _, tower = model.rpartition("-")
    if family.lower() in _FAMILIES:
        add("family", family)
        add("model", tower, "vit")
    else:
        add("model", model, *(("convnext",) if "convnext" in model.lower() else ("vit",)))
    if (record.get("factors") or {}).get("recipe") == "CLIPA":
        add("case", "clipa")


def _add_lengths(add, record: Record) -> None:
    """Image and text reduction with pixels, patches and tokens, alone and joined: resize64, random17, syntax8."""
    image, text = record["image_reduction"], record["text_reduction"]
    pixels, patches, tokens = record["image_size"], record["patches"], record["image_tokens"]
    if image == "none":
        add("image", "none", "baseline", "full")
    elif image is not None:
        add("image", image, *(f"{image}{size}" for size in (patches, tokens) if size is not None))
        if image == "resize":
            add("image", f"resize{pixels}")
        elif IMAGE_REDUCTIONS[image].mask and patches is not None:
            percent = 100 * (1 - patches / FULL_PATCHES)
            add("image", "mask", *(f"{number}pct" for number in (f"{percent:.1f}", f"{percent:.0f}")))
    if pixels is not None:
        add("image", pixels, f"{pixels}px")
    if patches is not None:
        add(
            "image", patches, tokens, f"{patches}patches", f"{tokens}tokens", f"{patches}tokens", f"i{tokens}"
        )
    if text is not None:
        length = record["text_tokens"]
        add("text", text, f"{text}{length}", length, f"{length}tokens", f"t{length}")


def _add_quantity(add, record: Record) -> None:
    metric, value = record["metric"], record["value"]
    if (benchmark := benchmark_of(record)) is not None:
        short = benchmark.rpartition("/")[2]
        words = re.split(r"[/_]", benchmark)
        add("benchmark", benchmark, short, *words, *_EXTRA.get(benchmark, ()))
    base, change = metric_parts(metric)
    add("metric", metric, base, *base.split("."), *_EXTRA.get(metric, ()), change)
    if change == "slope":
        add("metric", "drop")
    if change == "minimal":
        limit, length = re.fullmatch(r".*_(within[\d.]+)_minimal_(\w+)", metric).groups()
        add("metric", "drop", "length", limit, *length.split("_"), record["unit"])
    if "retrieval" in metric:
        direction = metric.partition("_")[0]
        add("metric", direction, f"{direction}_retrieval", "retrieval", "recall@1")
    if isinstance(value, (int, float)):
        add("value", f"{value:g}", f"{value:.1f}")
    add("value", (record.get("printed") or "").strip("()+"))


def benchmark_of(record: Record) -> str | None:
    """What a record is a number on: the paper's benchmark, or of a measured one the data set that was evaluated."""
    return record["dataset"]["name"] if record["source"] == "measured" else record["benchmark"]


def metric_parts(metric: str) -> tuple[str, str | None]:
    """A metric without what is derived from it, and the word for that: ("acc1", "drop"); None for a plain metric."""
    found = re.fullmatch(r"(.*?)_(?:(drop_slope)|(drop|gain|ratio)|within[\d.]+_(minimal)_\w+)", metric)
    if found is None:
        return metric, None
    return found[1], "slope" if found[2] else found[3] or found[4]


def _add_case(add, record: Record) -> None:
    """What else names the experiment: data, samples, masks and sizes of fine-tuning, batch, pooling."""
    factors = record.get("factors") or {}
    if record.get("case") is not None:
        case = record["case"].lower()
        add("case", case, *case.split("-"))
        if (percent := re.fullmatch(r"(random|grid|block)(\d+)", case)) is not None:
            add("case", percent[1], percent[2], f"{percent[2]}pct", "mask", f"mask{percent[2]}")
        if record["source"] == "derived":  # a ratio of two models
            towers = re.findall(r"\b([sblhg])(14|16|32)\b", case)
            add("case", "clipa", "than", *(f"{size}/{patch}" for size, patch in towers))
    if recipe := (record.get("recipe") or "").lower():
        add("case", recipe, *recipe.split("-"))
    data = (factors.get("data_source") or "").lower()
    add("case", data, data.replace("-", ""))
    for name in ("finetune_image_size", "finetune_patches"):
        unit = "px" if name == "finetune_image_size" else "patches"
        add("case", *(form for size in factors.get(name, ()) for form in (size, f"{size}{unit}")))
    for ratio in factors.get("finetune_mask_ratio", ()):
        if ratio:
            percent = f"{100 * ratio:g}"
            add("case", "mask", f"mask{percent}", percent, f"{percent}pct", factors.get("finetune_mask"))
    batch = factors.get("finetune_batch_size")
    if batch:
        add("case", batch, f"{batch // 1024}k", f"batch{batch // 1024}k")
    add(
        "case",
        factors.get("pooling"),
        factors.get("implementation"),
        "jitter" if factors.get("color_jitter") else None,
    )


def departures(record: Record) -> list[tuple[int, tuple[str, ...]]]:
    """How a record departs from the paper's standard setting: steps, and what takes them back.

    A query that names all of the latter (sides, or terms) does not mean the standard there; nothing takes back steps
    with an empty tuple. Standard: the authors' own models, 32 tokens of text by truncation, no special case,
    ImageNet-1k accuracy.
    """
    model = (record["model"] or "").lower()
    text = (record["text_reduction"], record["text_tokens"])
    case = record.get("case")
    change = metric_parts(record["metric"])[1]
    recipe = tuple((record.get("recipe") or "").lower().split("-")) if record.get("recipe") else ()
    found = [
        (2, (), model.startswith(_FAMILIES)),
        (1, ("text",), text not in ((None, None), ("truncation", 32))),
        (1, ("benchmark",), record["benchmark"] not in (None, "imagenet1k")),
        (1, ("metric",), record["metric"] not in _STANDARD_METRICS),
        (1, (change or "",), change in ("minimal", "slope")),
        (1, ("case",), case is not None and _letters(case) != _letters(model)),
        (1, recipe, bool(recipe)),
    ]
    return [(steps, names) for steps, names, departs in found if departs]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


# --------------------------------------------------------------------------------------------------------- species

MEASURED = "measured"
DERIVED = "derived"
CHANGES = ("drop", "slope", "ratio", "minimal")
"""What is derived, by the word that asks for it."""


def species(record: Record) -> str:
    """`published`, a kind of derived numbers (`drop`, …), or of measured ones `mean` (over seeds) or `seed`."""
    if record["source"] == MEASURED:
        return "mean" if "seeds" in record else "seed"
    return (metric_parts(record["metric"])[1] or "") if record["source"] == DERIVED else "published"


def species_asked_for(terms: Sequence[str], scales: Sequence[str]) -> set[str]:
    """The species that a query is about: published numbers; derived or measured ones only where its words say so.

    `scales`: those with measured records, whose names ask for them.
    """
    if any(term == MEASURED or term.split(".")[0] in scales for term in terms):
        return {"seed" if any(_SEED.search(term) for term in terms) else "mean"}
    kinds = {kind for kind in CHANGES if kind in terms}
    if not kinds and any(term == DERIVED or term.startswith(f"{DERIVED}.") for term in terms):
        kinds = set(CHANGES)
    return {"published"} | kinds


# ---------------------------------------------------------------------------------------------------------- search


MENTIONED = 3  # numbers that are named beside a hit, or in its place
NEAR, CUTOFF = 3, 0.7  # known words for an unknown one, and how alike they must be (difflib's ratio)


@dataclass(frozen=True)
class Entry:
    """A record as a search sees it: what can be known before there is a query."""

    record: Record
    identity: str
    terms: Mapping[str, set[str]]
    departures: Sequence[tuple[int, tuple[str, ...]]]

    def has(self, term: str) -> bool:
        return matches(term, self.terms, self.identity)

    def sides(self, terms: Iterable[str]) -> set[str]:
        """The sides that these terms name."""
        return set().union(*(self.terms.get(term, ()) for term in terms))

    def distance(self, named: set[str]) -> int:
        """How far the record lies from the standard setting, apart from what a query names."""
        return sum(steps for steps, names in self.departures if not names or not named.issuperset(names))


def entries_of(records: Iterable[Record]) -> list[Entry]:
    """Records ready to be searched."""
    return [
        Entry(record, record["id"].lower(), record_terms(record), departures(record)) for record in records
    ]


@dataclass
class Found:
    """What a search gives: the hits, best first, and how many more match in other settings."""

    terms: list[str]
    hits: list[Record]
    further: list[Record]


def search(words: Sequence[str], entries: Sequence[Entry]) -> Found:
    """The records that have all words; one alone where the words, read with the paper's standard setting, leave one.

    Standard (:func:`departures`): the authors' models, 32 text tokens, ImageNet-1k accuracy, no special case. A number
    that several tables print is one hit: the first table's; its `same_as` names the others. Records without a number
    are hits only where nothing else matches, or by their id.
    """
    terms = terms_of(" ".join(words))
    if len(terms) == 1:
        exact = [entry.record for entry in entries if entry.identity == terms[0]]
        if exact:
            return Found(terms, exact, [])
    lone = lone_number(terms)
    scored, by_value = [], False
    for position, entry in enumerate(entries):
        if lone and not (len(terms[0]) > 1 and "value" in entry.terms.get(terms[0], ())):
            continue
        if terms and all(map(entry.has, terms)):
            by_value = by_value or lone or any(entry.terms.get(term) == {"value"} for term in terms)
            scored.append((entry.distance(entry.sides(terms) | {*terms}), position))
    if any(entries[position].record["value"] is not None for _, position in scored):
        scored = [scored_one for scored_one in scored if entries[scored_one[1]].record["value"] is not None]
    groups: list[tuple[int, Record]] = []
    taken: set[str] = set()
    for distance, position in sorted(scored):
        record = entries[position].record
        if taken.isdisjoint([record["id"], *(record.get("same_as") or ())]):
            groups.append((distance, record))
        taken.add(record["id"])
    # Who asks for a number by its digits does not mean the standard setting.
    if not by_value and len([distance for distance, _ in groups if distance == groups[0][0]]) == 1:
        return Found(terms, [groups[0][1]], [record for _, record in groups[1:]])
    return Found(terms, [record for _, record in groups], [])


def lone_number(terms: Sequence[str]) -> bool:
    """Whether a query is digits and nothing else. They are then a value; a single digit names none."""
    return len(terms) == 1 and _PLAIN_NUMBER.search(terms[0]) is not None


@dataclass
class Nearest:
    """For a search without hits: `near` words of each unknown term, the `ids` of records that have most of the terms,
    and the query that was perhaps `meant`: the nearest known word for each unknown one; "" if one has none."""

    near: dict[str, list[str]]
    ids: list[str]
    meant: str


def nearest(terms: Sequence[str], entries: Sequence[Entry]) -> Nearest:
    """What to suggest for terms that find nothing. In looking for ids the nearest word stands for an unknown one."""
    valued = [entry for entry in entries if entry.record["value"] is not None]
    words = set().union(*(entry.terms for entry in valued), (*CHANGES, DERIVED, MEASURED))
    known = {word: word for word in sorted(words)}
    slugs = {
        entry.record[name].lower(): entry.record[name]
        for entry in valued
        for name in ("run", "case", "id")
        if entry.record.get(name)
    }
    near: dict[str, list[str]] = {}
    for term in terms:
        if not any(entry.has(term) for entry in valued):
            near[term] = _near(term, slugs if like_an_id(term) else known)
    meant = [near[term][0].lower() if near.get(term) else term for term in terms]

    def distance(entry: Entry) -> tuple[int, int]:
        held = [term for term in meant if entry.has(term)]
        return len(meant) - len(held), entry.distance(entry.sides(held))

    ranked = sorted((*distance(entry), i) for i, entry in enumerate(valued))
    ids = [valued[i].record["id"] for missing, _, i in ranked[:MENTIONED] if missing < len(meant)]
    return Nearest(near, ids, " ".join(meant) if near and all(near.values()) else "")


def _near(term: str, known: Mapping[str, str]) -> list[str]:
    """Up to three known words near `term`: of the same letters with the nearest number (resize64 for resize65), else
    of like spelling."""
    parts = _WITH_A_NUMBER.search(term)
    if parts is not None and (parts[1] or parts[3]):
        kin = [(found, word) for word in known if (found := _WITH_A_NUMBER.search(word)) is not None]
        numbers = sorted(
            (abs(int(found[2]) - int(parts[2])), word)
            for found, word in kin
            if (found[1], found[3]) == (parts[1], parts[3])
        )
        if numbers:
            return [word for _, word in numbers[:NEAR]]
    return [known[word] for word in difflib.get_close_matches(term, known, n=NEAR, cutoff=CUTOFF)]

"""Finding a number: queries that people would type, and the numbers they must lead to."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clipa.published import citation
from clipa.published.search import REWRITES, entries_of, matches, record_terms, search, terms_of
from clipa.records import published_records
from clipa.render import terminal
from clipa.render.terminal import LISTED, cite_report

ROOT = Path(__file__).resolve().parent.parent
RESIZE64 = "table11.L16-resize64-truncation32.finetune.imagenet1k.acc1"


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def records():
    return published_records(ROOT / "results" / "published")


@pytest.fixture(scope="module")
def entries(records):
    """The records, ready to be searched."""
    return entries_of(records)


@pytest.mark.parametrize(
    ("query", "identity", "value"),
    [
        ("L/16 resize 64 finetune", RESIZE64, 66.2),
        ("L16 resized to 64x64, fine-tuned", RESIZE64, 66.2),
        ("ViT-L/16 64px fine-tuning", RESIZE64, 66.2),
        ("finetune 17 tokens resize table 11 l-16", RESIZE64, 66.2),
        (RESIZE64, RESIZE64, 66.2),
        (RESIZE64.lower(), RESIZE64, 66.2),
        (
            "L/16 truncation 16 resize 64 finetune",
            "table1.L16-resize64-truncation16.finetune.imagenet1k.acc1",
            67.8,
        ),
        ("S/16 baseline", "table11.S16-none-truncation32.pretrain.imagenet1k.acc1", 56.7),
        ("L/16 full-length fine-tune", "table11.L16-none-truncation32.pretrain.imagenet1k.acc1", 69.2),
        ("imagenet-v2 L/16 syntax 8", "table15.L16-resize112-syntax8.finetune.imagenetv2.acc1", 61.6),
        ("IN-V2 L16 syntax masking 8", "table15.L16-resize112-syntax8.finetune.imagenetv2.acc1", 61.6),
        (
            "coco image OpenCLIP B/16",
            "table1.OpenCLIP-B16.mscoco_captions.image_retrieval_recall@1",
            38.3,
        ),
        ("OpenCLIP B/16", "table1.OpenCLIP-B16.imagenet1k.acc1", 67.1),
        (
            "G/14 83.0",
            "table2.G14-resize84-truncation8-datacomp1b-12.8B-512M-128M.finetune.imagenet1k.acc1",
            83.0,
        ),
        ("OpenCLIP-G/14 compute", "table2.OpenCLIP-G14.compute", 29.8),
        ("gpu hours OpenAI L/14", "table1.OpenAI-L14.gpu_hours", 50800),
        ("CLIPA-L/16 (I37,T8) ImageNet", "table1.L16-resize96-truncation8.finetune.imagenet1k.acc1", 69.3),
        ("vision width H/14", "table4.H14.vision.width", 1280),
        ("G/14 total params", "table4.G14.total.parameters", 2516),
        ("learning rate", "table5.pretrain.base_lr", 8e-6),
        ("batch size 8k", "table6.batch8k.finetune.imagenet1k.acc1", 67.7),
        ("table 9 block 25%", "table9.block25.finetune.imagenet1k.acc1", 78.0),
        ("299", "table12.S16-resize112-random6.pretrain.imagenet1k.acc1", 29.9),
        (
            "ConvNeXt-B 96x96 finetune",
            "table13.ConvNeXt-B-resize96-truncation32.finetune.imagenet1k.acc1",
            62.2,
        ),
        ("Caltech 101 FLIP", "table3.FLIP-H14.vtab/caltech101.acc1", 84.3),
        (
            "S/16 random 17 tokens coco image drop",
            "figure5.S16-random16-truncation32.finetune.mscoco_captions.image_retrieval_recall@1_drop",
            6.6,
        ),
        (
            "CLIPA negclip VG-Relation 78.5",
            "table14.B16-resize112-truncation16.negclip.aro/vg_relation.acc1",
            78.5,
        ),
    ],
)
def test_a_guessable_query_leads_to_its_number(entries, query, identity, value):
    hits = search(query.split(), entries).hits
    assert [hit["id"] for hit in hits] == [identity]
    assert hits[0]["value"] == value


@pytest.mark.parametrize("number", range(1, 16))
def test_every_record_is_found_by_its_id_and_every_valued_one_by_its_words(records, number):
    """The words of a record (its own terms, all of them) find it, whatever else they find."""
    of_table = [record for record in records if record["table"] == number]
    assert of_table
    entries = entries_of(of_table)
    for record in of_table:
        assert [hit["id"] for hit in search([record["id"]], entries).hits] == [record["id"]]
        have = record_terms(record)
        assert all(matches(term, have, record["id"].lower()) for term in have)
        assert not any(re.search(r"\s", term) for term in have)


def test_a_number_printed_in_several_tables_is_one_hit(entries):
    hits = search(["S/16", "resize", "112", "truncation", "32", "finetune"], entries).hits
    assert [hit["id"] for hit in hits] == ["table11.S16-resize112-truncation32.finetune.imagenet1k.acc1"]
    text, _ = cite_report(["S/16", "resize", "112", "truncation", "32", "finetune"])
    for other in hits[0]["same_as"]:
        assert f"also printed: {other}" in text
    in_13 = search(["table", "13", "S/16", "resize", "112", "finetune"], entries).hits
    assert [hit["id"] for hit in in_13] == ["table13.S16-resize112-truncation32.finetune.imagenet1k.acc1"]


def test_several_hits_are_listed_with_their_count():
    text, code = cite_report(["gpu", "hours"])
    assert code == 0
    lines = text.splitlines()
    assert lines[0].startswith("9 numbers")
    assert len([line for line in lines if ".gpu_hours  " in line]) == 9
    assert any(
        line.startswith("    628 GPU hours  table1.L16-resize64-truncation16.gpu_hours ") for line in lines
    )
    long, _ = cite_report(["table", "15"])
    assert len(long.splitlines()) == LISTED + 2
    assert long.startswith(f"420 numbers have table15; the first {LISTED}")


def test_what_words_leave_open_is_listed(entries):
    both = [hit["id"] for hit in search(["L/16", "random", "masking", "16", "fine-tuned"], entries).hits]
    assert both[:2] == [
        "table11.L16-random16-truncation32.finetune.imagenet1k.acc1",
        "table12.L16-resize112-random16.finetune.imagenet1k.acc1",
    ]
    models = {hit["model"] for hit in search(["compute", "G/14"], entries).hits}
    assert models == {"OpenCLIP-G/14", "G/14"}
    stages = [hit["stage"] for hit in search(["table11", "L/16", "resize", "64"], entries).hits]
    assert stages == ["pretrain", "finetune"]
    benchmarks = {hit["benchmark"] for hit in search(["table15", "L/16", "syntax", "8"], entries).hits}
    assert benchmarks == {"imagenet1k"}


def test_digits_are_not_read_in_the_standard_setting(entries):
    hits = search(["67.8"], entries).hits
    assert len(hits) > 3
    assert {hit["value"] for hit in hits} == {67.8}


def test_cells_without_a_number_are_found_only_by_themselves(entries):
    assert all(hit["value"] is not None for hit in search(["grid"], entries).hits)
    hits = search(["L/16", "grid16", "finetune", "table11"], entries).hits
    assert len(hits) == 1
    assert hits[0]["value"] is None
    text, code = cite_report([hits[0]["id"]])
    assert code == 0
    assert text.startswith("no number ")
    assert "“N/A”" in text
    assert "Not run" in text and "cite as" not in text


def test_a_cell_that_is_lost_cannot_be_cited():
    lost = "table14.OpenCLIP-B16.negclip.aro/vg_relation.acc1"
    text, code = cite_report([lost], bibtex=True)
    assert code == 0
    assert "Lost in the text of the paper" in text
    assert "cite as" not in text and "@" not in text
    (hit,) = json.loads(cite_report([lost], as_json=True)[0])["records"]
    assert (hit["value"], hit["cite_as"], hit["bibtex"]) == (None, None, None)


PHRASINGS = [
    line.split("\t")
    for line in (ROOT / "tests" / "cite_phrasings.tsv").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


@pytest.mark.parametrize(("query", "answer", "place"), PHRASINGS, ids=[query for query, *_ in PHRASINGS])
def test_a_phrasing_has_its_answer(query, answer, place, records, monkeypatch):
    monkeypatch.setattr(terminal, "published_records", lambda: records)
    monkeypatch.setattr(terminal, "caveats", lambda record, records: [])  # they take a third of a second
    text, code = cite_report(query.split())
    if answer == "asks":
        assert code == 1 and text.startswith("clipa cite: ")
    elif answer.endswith(" numbers"):
        assert code == 0 and text.startswith(answer + " have ")
    else:
        assert code == 0 and text.startswith(answer + "   "), text
        assert text.splitlines()[1].split("id:")[1].strip().startswith(place)


def test_phrasings_are_many_and_of_every_kind():
    assert len(PHRASINGS) >= 60
    assert len({query for query, *_ in PHRASINGS}) == len(PHRASINGS)
    kinds = [place.partition(".")[0].rstrip("0123456789") for *_, place in PHRASINGS]
    assert {"table", "figure", "derived", "micro-v"} <= set(kinds)


def test_a_number_that_prose_states_is_cited_to_the_prose():
    text, _ = cite_report(["7.1"])
    assert "in the paper: Section 4.1 (on Figure 5)\n" in text
    assert "Section 4.1 (on Figure 5)" in text.split("cite as:")[1]


def test_a_plotted_number_that_a_table_prints_is_cited_to_the_table():
    text, _ = cite_report(["figure6.S16-resize112-truncation32.finetune.imagenetv2.acc1"])
    assert "in the paper: Table 15 (plotted in Figure 6)\n" in text


def test_a_citation_does_not_pass_for_the_authors_release(records):
    (record,) = [record for record in records if record["id"] == RESIZE64]
    assert "by others than the paper's authors" in citation.citation(record)
    assert "by others than the authors of the paper" in citation.bibtex(record)


@pytest.mark.parametrize(
    ("query", "parts"),
    [
        ("L/16 resize 65 finetune", ["resize65: in no record; near it: resize64", RESIZE64]),
        ("L/16 trunctation", ["near it: truncation", "did you mean: clipa cite l/16 truncation\n"]),
        ("slpoe resize 64", ["near it: slope"]),
        ("table 16", ["near it: table15"]),
        ("L16-resize64-truncation33", ["near it: L16-resize64-truncation32"]),
        (RESIZE64 + "x", ["near it: " + RESIZE64]),
        ("L/16 syntax 8 vtab", ["no number has all of: l/16 syntax8 vtab", "nearest:"]),
        ("the paper", ["names nothing", "clipa cite L/16 resize 64 finetune"]),
        ("quantum", ["quantum: in no record"]),
    ],
)
def test_nothing_found_suggests_the_nearest(query, parts):
    text, code = cite_report(query.split())
    assert code == 1
    assert text.startswith("clipa cite: ")
    for part in parts:
        assert part in text


def test_what_differs_from_the_print_is_said():
    text, _ = cite_report(["299"])
    assert text.startswith("29.9 %")
    assert "printed:      “299”" in text
    assert "the decimal point is lost" in text


def test_json_holds_the_record_and_how_to_cite_it(records):
    text, code = cite_report(["L/16", "resize", "64", "finetune"], as_json=True)
    answer = json.loads(text)
    assert code == 0
    assert answer["found"] == 1
    hit = answer["records"][0]
    (stored,) = [record for record in records if record["id"] == RESIZE64]
    assert stored.items() <= hit.items()
    assert "arXiv:2305.07017, Table 11" in hit["cite_as"]
    assert RESIZE64 in hit["cite_as"]
    assert all(identity != RESIZE64 for identity in answer["further"])
    nothing, code = cite_report(["quantum"], as_json=True)
    assert code == 1
    assert json.loads(nothing)["found"] == 0


def parsed(bibtex: str) -> dict[str, dict[str, str]]:
    """BibTeX entries as {key: {field: text}}; braces must balance."""
    found = {}
    for kind, key, body in re.findall(r"(?ms)^@(\w+)\{(\w+),\n(.*?)^\}", bibtex):
        fields = dict(re.findall(r"(?m)^  (\w+) +=\s\{(.*)\},?$", body))
        assert len(fields) == len(body.splitlines())
        assert all(text.count("{") == text.count("}") for text in fields.values())
        found[key] = {"kind": kind, **fields}
    return found


def test_bibtex_names_paper_artifact_and_record():
    text, _ = cite_report(["coco", "image", "OpenCLIP", "B/16"], bibtex=True)
    found = parsed(text)
    assert found["li2023inverse"]["kind"] == "inproceedings"
    assert found["li2023inverse"]["author"] == "Li, Xianhang and Wang, Zeyu and Xie, Cihang"
    assert found["clipa_artifact"]["note"].startswith("record table1.OpenCLIP-B16.")
    # TeX reads a bare underscore as the beginning of an index.
    assert not re.search(r"(?<!\\)_", found["clipa_artifact"]["note"])


def test_artifact_is_cited_as_citation_cff_says():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    artifact = parsed(citation.bibtex())["clipa_artifact"]
    assert artifact["version"] == cff["version"]
    assert artifact["year"] == str(cff["date-released"].year)
    assert artifact["title"].replace("{", "").replace("}", "") == cff["title"]
    preferred = cff["preferred-citation"]
    names = ", ".join(f"{person['given-names']} {person['family-names']}" for person in preferred["authors"])
    assert citation.PAPER.startswith(f"{names}: {preferred['title']}.")
    assert preferred["identifiers"][0]["value"] in citation.PAPER


def test_readme_shows_the_same_entry():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert parsed(readme)["li2023inverse"] == parsed(citation.bibtex())["li2023inverse"]


def test_answers_load_nothing_heavy():
    code = (
        "import sys; from clipa.render.terminal import cite_report;"
        "cite_report(['L/16', 'resize', '64', 'finetune'], bibtex=True); cite_report(['resise'], as_json=True);"
        "heavy = {'pandas', 'numpy', 'torch', 'matplotlib', 'jsonschema', 'jinja2'} & set(sys.modules);"
        "print(*heavy); sys.exit(bool(heavy))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT / "src")})


def test_words_are_read_as_said():
    assert terms_of("L16 resized to 64×64, fine-tuned") == ["l/16", "resize64", "finetune"]
    assert terms_of("OpenCLIP-B/32 on the MS COCO") == ["openclip", "b/32", "ms", "mscoco_captions"]
    assert terms_of("what is ImageNet of S16-random98-truncation32") == [
        "imagenet1k",
        "s16-random98-truncation32",
    ]
    assert terms_of("Tab. 3, 4,600 hours at 17 tokens") == ["table3", "4600", "hours", "17tokens"]


def test_rewrites_are_read_alike_by_javascript():
    """Patterns keep to what Python and JavaScript share; replacements name groups as $1."""
    for pattern, replacement in REWRITES:
        groups = re.compile(pattern).groups
        assert not re.search(r"\(\?(?![:=!])", pattern), pattern
        assert "\\" not in replacement
        assert all(int(name) <= groups for name in re.findall(r"\$(\d)", replacement))

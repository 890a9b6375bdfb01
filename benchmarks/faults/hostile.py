"""Files from elsewhere that mean harm: records, archives of `clipa run`, shards, zips, links in place of locks,
formulas, exported models.

None may be taken for a result, write outside its folder, run code, need much memory, or end in a traceback.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import processes
from .outcomes import ACCEPTED, CODE, DIFFERENT, HANG, MEMORY, REFUSED, SAME, Case, Outcome, judge
from .samples import MARK, Touch
from .world import ASKED, RUN, World, configure, contents, scratch

KIND = "hostile-file"
LIMIT_SECONDS, LIMIT_MB = 60.0, 900
_GIB = 1 << 30


def cases(world: World, seed: int, quick: bool) -> Iterator[Case]:
    """All of them (``quick``: every fifth, and no archives, as there is no finished `run` then)."""
    families: dict[str, tuple[dict[str, Any], Callable[..., Outcome]]] = {
        "accept": ({**GARBAGE, **FORGED}, accepted),
        "law": (GARBAGE, read),
        "shard": (SHARDS, indexed),
        "coco": (ZIPS, listed),
        "lock": (LOCKED, locked),
        "formula": (FORMULAS, computed),
        "model": (MODELS, evaluated),
        "archive": (ARCHIVES, unpacked),
    }
    for family, (made, attack) in families.items():
        for number, name in enumerate(made):
            if quick and (family == "archive" or number % 5):
                continue
            yield Case(KIND, f"{family}: {name}", lambda attack=attack, what=made[name]: attack(world, what))


def run(home: Path, words: list[str] | Callable[[], int]) -> Outcome | None:
    """What a command came to; None where it succeeded."""
    ended = processes.run(home, words, limit=LIMIT_SECONDS)
    if list(home.rglob(MARK)):
        return CODE, f"it made {MARK}"
    if ended.peak_mb > LIMIT_MB:
        return MEMORY, f"it needed {ended.peak_mb} MB"
    outcome = judge(ended)
    return outcome if outcome is None or outcome[0] != HANG else (HANG, outcome[1])


# ------------------------------------------------------------------------------------------------------- records

GARBAGE: dict[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "a number": b"7",
    "a list": b"[]",
    "an empty map": b"{}",
    "records null": b'{"schema_version": 1, "records": null}',
    "records of numbers": b'{"schema_version": 1, "records": [1, 2]}',
    "no records": b'{"schema_version": 1, "records": []}',
    "not utf-8": b'{"records": "\xff\xfe"}',
    "20,000 brackets": b"[" * 20_000,
    "NaN": b"NaN",
    "a number of 10,000 digits": b"9" * 10_000,
    "a shard": bytes(10_240),
}


def _record(**change: Any) -> Callable[[dict], dict]:
    """The record with other values; of a nested map these alone."""
    return lambda record: {
        **record,
        **{
            key: {**record[key], **value} if isinstance(value, dict) else value
            for key, value in change.items()
        },
    }


FORGED: dict[str, Callable[[dict], dict]] = {
    "another value": _record(value=99.0),
    "ImageNet-1k": _record(dataset={"name": "ImageNet-1k"}),
    "another data set": _record(dataset={"name": "pictograms/v1/fresh"}),
    "another fingerprint of the data set": _record(dataset={"fingerprint": "0" * 12}),
    "more items": _record(dataset={"n": 10**12}),
    "more outcomes": _record(outcomes={"n": 10**12}),
    "outcomes that are no base64": _record(outcomes={"data": "\ud800"}),
    "an unknown kind of outcomes": _record(outcomes={"kind": "pickle"}),
    "a value of 10^400": lambda record: {**record, "value": 10**400},
    "another seed": _record(seed=1),
    "a seed of a thousand digits": lambda record: {**record, "seed": 10**1000},
    "another stage": _record(stage_fingerprint="0" * 12),
    "a run ../../../x": _record(run="../../../x"),
    "a scale ../../x": _record(scale="../../x"),
    "another commit": _record(provenance={"commit": "0" * 40}),
    "a commit that is an option": _record(provenance={"commit": "--upload-pack=touch executed"}),
    "uncommitted changes": _record(provenance={"dirty": True}),
    "another training set": _record(provenance={"data_fingerprint": "0" * 12}),
    "more parameters": _record(actual={"parameters": 10**9}),
    "another protocol": _record(protocol="0" * 12),
    "published": _record(source="published"),
    "an unknown field": _record(winner=True),
}


def accepted(world: World, what: bytes | Callable[[dict], dict]) -> Outcome:
    """`clipa accept` of garbage, or of a forged record; nothing of it may reach results/recorded."""
    from clipa.files import with_digest

    with world.copy("accept") as home:
        [path] = home.glob("results/runs/tiny/*/evaluation/*/records.json")
        if isinstance(what, bytes):
            path.write_bytes(what)
        else:
            document = json.loads(path.read_text(encoding="utf-8"))
            document["records"][-1] = what(document["records"][-1])
            path.write_text(json.dumps(with_digest(document)), encoding="utf-8")
        before = contents(home)
        outcome = run(home, world.words("accept", home))
        if outcome is None:
            return ACCEPTED, "it was recorded"
        more = sorted(contents(home).keys() - before.keys())
        return (ACCEPTED, f"refused, but it left {more[0]}") if more else outcome


def read(world: World, content: bytes) -> Outcome:
    """`clipa law` and `clipa compare` of garbage."""
    with scratch(world.root) as home:
        configure(home, {})
        (home / "records.json").write_bytes(content)
        outcomes = [run(home, [verb, "records.json"]) for verb in ("law", "compare")]
        bad = [outcome for outcome in outcomes if outcome and outcome[0] != REFUSED]
        return (
            bad or [outcome for outcome in outcomes if outcome] or [(SAME, "it says that there is nothing")]
        )[0]


# -------------------------------------------------------------------------------------------------------- shards


def _tar(*members: tuple[str, bytes, bytes, str], size: int | None = None) -> bytes:
    """A tar of (name, type, content, link target); ``size``: what the first header says."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, content, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, len(content)
            archive.addfile(member, io.BytesIO(content))
    whole = bytearray(buffer.getvalue())
    if size is not None:
        header = tarfile.TarInfo(members[0][0])
        header.size = size
        whole[:512] = header.tobuf(tarfile.GNU_FORMAT)[:512]
    return bytes(whole)


_FILE = (tarfile.REGTYPE, b"x", "")
SHARDS: dict[str, bytes] = {
    "empty": b"",
    "one block": bytes(512),
    "zeros": bytes(10_240),
    "text": b"this is no archive\n" * 1000,
    "gzipped": gzip.compress(_tar(("a.jpg", *_FILE))),
    "a symbolic link": _tar(("a.jpg", tarfile.SYMTYPE, b"", "/etc/passwd")),
    "a hard link": _tar(("a.jpg", tarfile.LNKTYPE, b"", "../../../../etc/passwd")),
    "a pipe": _tar(("a.jpg", tarfile.FIFOTYPE, b"", "")),
    "a device": _tar(("a.jpg", tarfile.CHRTYPE, b"", "")),
    "a folder": _tar(("a.jpg", tarfile.DIRTYPE, b"", "")),
    "a member of 8 EiB": _tar(("a.jpg", *_FILE), size=2**63 - 1),
    "a member of a negative size": _tar(("a.jpg", *_FILE), size=-1024),
    "a member longer than the file": _tar(("a.jpg", *_FILE), size=10**6),
    "a long name that is cut": _tar(("k" * 5000 + ".jpg", *_FILE))[:1024],
    "100,000 members": _tar(*((f"{i}.x", tarfile.REGTYPE, b"", "") for i in range(100_000))),
}


def indexed(world: World, content: bytes) -> Outcome:
    """A shard of a drawn world with other bytes, and a data set of it alone: `index`, `vocabulary`, `annotate`."""
    with world.copy("vocabulary") as home:
        [train] = home.glob("results/data/*/train")
        for path in train.glob("*.tar"):
            path.unlink()
        (train / "00000.tar").write_bytes(content)
        (train / "manifest.json").unlink()
        seen = []
        for verb in ("index", "vocabulary", "annotate"):
            words = [verb, "train", *ASKED] if verb == "index" else [verb, *ASKED]
            outcome = run(home, words)
            if outcome is None and verb == "vocabulary":
                return DIFFERENT, "it has captions"
            if outcome is None and verb == "annotate":
                made = json.loads((train / "annotation.json").read_text(encoding="utf-8"))
                if made["words"]:
                    return DIFFERENT, "it has words"
            if outcome and outcome[0] != REFUSED:
                return outcome[0], f"{verb}: {outcome[1]}"
            seen.append(outcome)
        return next(outcome for outcome in seen if outcome)


# ---------------------------------------------------------------------------------------------------------- zips


def _zip(content: bytes | None, name: str = "annotations/captions_train2014.json") -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w", force_zip64=True) as file,
    ):
        if content is not None:
            file.write(content)
        else:
            for _ in range(2048):
                file.write(bytes(1 << 20))
    return buffer.getvalue()


ZIPS: dict[str, Callable[[], bytes]] = {
    "no zip": lambda: b"PK\x03\x04 and no more",
    "another member": lambda: _zip(b"{}", "../../x"),
    "null": lambda: _zip(b"null"),
    "an empty map": lambda: _zip(b"{}"),
    "annotations null": lambda: _zip(b'{"annotations": null, "images": null}'),
    "a caption null": lambda: _zip(
        b'{"annotations": [{"id": 1, "image_id": 1, "caption": null}], "images": []}'
    ),
    "ids of several kinds": lambda: _zip(
        b'{"annotations": [{"id": 1, "image_id": 1, "caption": "a"}, {"id": "x", "image_id": [], "caption": "b"}],'
        b'"images": []}'
    ),
    "an image without an address": lambda: _zip(
        b'{"annotations": [{"id": 1, "image_id": 1, "caption": "a"}], "images": [{"id": 1}]}'
    ),
    "2 GiB of zeros": lambda: _zip(None),
}


def listed(world: World, make: Callable[[], bytes]) -> Outcome:
    """`clipa coco` of a zip from elsewhere."""
    with scratch(world.root) as home:
        (home / "annotations.zip").write_bytes(make())
        outcome = run(home, ["coco", "annotations.zip", "images.jsonl"])
        if outcome is None:
            return ACCEPTED, f"made {(home / 'images.jsonl').read_text(encoding='utf-8')[:80]!r}"
        return outcome


# --------------------------------------------------------------------------------------------------------- locks

LOCKED: dict[str, tuple[str, str, str]] = {
    f"{verb}, {kind}": (verb, place, kind)
    for verb, place in {
        "draw-train": "results/data/{data}/train",
        "vocabulary": "results/data/{data}/vocabulary",
        "annotate": "results/data/{data}/train",
        "train": "results/runs/tiny/S16-resize64-syntax8/pretrain/{stage}",
        "evaluate": "results/runs/tiny/{run}/evaluation/{evaluation}",
    }.items()
    for kind in ("a link to a file", "a link to nothing", "a folder", "a pipe")
}


def locked(world: World, what: tuple[str, str, str]) -> Outcome:
    """A ``.lock`` that is something else: what it points to must stay as it is."""
    verb, place, kind = what
    with world.copy(verb) as home:
        names = {
            "data": next(world.state("train").glob("results/data/*")).name,
            "stage": next(world.state("train").glob("results/runs/tiny/*/pretrain/*")).name,
            "evaluation": next(world.state("accept").glob("results/runs/tiny/*/evaluation/*")).name,
            "run": RUN,
        }
        lock, precious = home / place.format(**names) / ".lock", home / "precious"
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.unlink(missing_ok=True)
        precious.write_text("content", encoding="utf-8")
        if kind == "a folder":
            lock.mkdir()
        elif kind == "a pipe":
            os.mkfifo(lock)
        else:
            lock.symlink_to(precious if kind == "a link to a file" else home / "absent")
        outcome = run(home, world.words(verb, home))
        if precious.read_text(encoding="utf-8") != "content" or (home / "absent").exists():
            return DIFFERENT, "what the link points to was written"
        precious.unlink()
        return outcome or world.compare(home, verb)


# ------------------------------------------------------------------------------------------------------ formulas

FORMULAS = {
    text: text
    for text in (
        "9**9**9",
        "9**9**9**9",
        "2**-100000000",
        "(1/3)**99999999",
        "10**400*10**400",
        "1/0",
        "0**-1",
        "(-8)**(1/3)",
        "-" * 5000 + "1",
        "(" * 5000 + "1" + ")" * 5000,
        "+".join("1" * 20_000),
        "__import__('os').system('touch executed')",
        "().__class__.__base__.__subclasses__()",
        "[x for x in range(10**9)]",
        "'a' * 10**10",
        "lambda: 0",
        "1 if 1 else 2",
        "\0",
        "",
    )
}
FORMULAS = {text if len(text) < 60 else f"{text[:20]}… ({len(text)} characters)": text for text in FORMULAS}


def computed(world: World, formula: str) -> Outcome:
    """A claim's formula: an error that says so, or a number, soon."""

    def compute() -> int:
        from clipa.published.formulas import evaluate
        from clipa.published.quantities import FormulaError, Published

        try:
            evaluate(formula, Published([]))
        except FormulaError as error:
            print(f"clipa claims: {' '.join(str(error).split())}")
            return 1
        return 0

    with scratch(world.root) as home:
        return run(home, compute) or (SAME, "it is a number")


# -------------------------------------------------------------------------------------------------------- models


def _pickle_for_weights(export: Path) -> None:
    weights = export / "open_clip_model.safetensors"
    weights.unlink()
    for name in ("open_clip_pytorch_model.bin", "open_clip_model.pth", "pytorch_model.bin"):
        (export / name).write_bytes(pickle.dumps(Touch(MARK)))


def _pickle_beside(export: Path) -> None:
    (export / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps(Touch(MARK)))


def _pickle_called_safetensors(export: Path) -> None:
    (export / "open_clip_model.safetensors").write_bytes(pickle.dumps(Touch(MARK)))


def _configured(change: Callable[[dict, Path], None]) -> Callable[[Path], None]:
    def apply(export: Path) -> None:
        path = export / "open_clip_config.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content, export)
        path.write_text(json.dumps(content), encoding="utf-8")

    return apply


def _code_of_a_tower(content: dict, export: Path) -> None:
    """A text tower that transformers would build from code that lies beside it."""
    folder = export.parents[5] / "tower"
    folder.mkdir(exist_ok=True)
    named = {"AutoConfig": "tower.Config", "AutoModel": "tower.Model", "AutoTokenizer": [None, "tower.Model"]}
    (folder / "config.json").write_text(
        json.dumps({"model_type": "tower", "auto_map": named}), encoding="utf-8"
    )
    (folder / "tower.py").write_text(f"open({MARK!r}, 'w')\nConfig = Model = object\n", encoding="utf-8")
    content["model_cfg"]["text_cfg"] |= {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder)}


def _header_of(length: int) -> Callable[[Path], None]:
    def apply(export: Path) -> None:
        path = export / "open_clip_model.safetensors"
        path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])

    return apply


def _zeros(export: Path) -> None:
    path = export / "open_clip_model.safetensors"
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    path.write_bytes(content[:start] + bytes(len(content) - start))


def _tokenizer(content: bytes) -> Callable[[Path], None]:
    return lambda export: (export / "tokenizer.json").write_bytes(content) and None


MODELS: dict[str, tuple[Callable[[Path], None], bool]] = {
    f"{name}{', and stage.json names it' if named else ''}": (change, named)
    for name, change in {
        "a pickle in place of the weights": _pickle_for_weights,
        "a pickle beside the weights": _pickle_beside,
        "a pickle called safetensors": _pickle_called_safetensors,
        "weights of zeros": _zeros,
        "a header of 8 EiB": _header_of(2**63 - 1),
        "a tower with code": _configured(_code_of_a_tower),
        "a tokenizer that is empty": _tokenizer(b""),
        "a tokenizer that is null": _tokenizer(b"null"),
        "no configuration of the model": _configured(
            lambda content, export: content.pop("model_cfg") and None
        ),
        "a model of 10^9 pixels": _configured(
            lambda content, export: content["model_cfg"]["vision_cfg"].update(width=10**9) and None
        ),
    }.items()
    for named in (False, True)
    if not (named and name == "weights of zeros")
}
"""What is done to the exported model; and whether ``stage.json`` is forged to name these bytes."""


def evaluated(world: World, what: tuple[Callable[[Path], None], bool]) -> Outcome:
    """Evaluate a run whose exported model is somebody else's."""
    from clipa.files import sha256_of, with_digest

    change, named = what
    with world.copy("evaluate") as home:
        [export] = home.glob("results/runs/tiny/*/finetune/*/open_clip")
        change(export)
        path = export.parent / "stage.json"
        made = json.loads(path.read_text(encoding="utf-8"))
        if named and "export" in made:
            made["export"] = {file.name: sha256_of(file) for file in export.iterdir()}
            path.write_text(json.dumps(with_digest(made)), encoding="utf-8")
        outcome = run(home, world.words("evaluate", home))
        return outcome or world.compare(home, "evaluate", ("*/finetune/*",))


# ------------------------------------------------------------------------------------------------------ archives


def _packed(
    *members: tuple[str, bytes, bytes, str], size: int | None = None
) -> Callable[[World], Iterator[bytes]]:
    return lambda world: iter([gzip.compress(_tar(*members, size=size), mtime=0)])


def _bomb(name: str | None) -> Callable[[World], Iterator[bytes]]:
    """2 GiB of zeros, as they are or as a member."""

    def make(world: World) -> Iterator[bytes]:
        if name is not None:
            header = tarfile.TarInfo(_place(world, name))
            header.size = 2 * _GIB
            yield gzip.compress(header.tobuf(tarfile.GNU_FORMAT))
        block = gzip.compress(bytes(1 << 24))
        for _ in range(2 * _GIB >> 24):
            yield block

    return make


def _place(world: World, name: str) -> str:
    """Where ``clipa run`` looks for records, or for what a stage leaves."""
    kind, _, file = name.partition("/")
    [found] = world.state("run", "after").glob(f"results/runs/tiny/*/{kind}/seed0-*")
    return f"{found.relative_to(found.parents[3])}/{file}"


def _planted(name: str, content: bytes) -> Callable[[World], Iterator[bytes]]:
    return lambda world: iter(
        [gzip.compress(_tar((_place(world, name), tarfile.REGTYPE, content, "")), mtime=0)]
    )


ARCHIVES: dict[str, Callable[[World], Iterator[bytes]]] = {
    "empty": lambda world: iter([b""]),
    "no archive": lambda world: iter([b"records of ours"]),
    "gzip, cut": lambda world: iter([gzip.compress(_tar(("tiny/x", *_FILE)))[:40]]),
    "a member ../x": _packed(("../x", *_FILE)),
    "a member tiny/../../x": _packed(("tiny/../../x", *_FILE)),
    "a member /tmp/x": _packed(("/tmp/clipa-hostile", *_FILE)),
    "a symbolic link": _packed(("tiny/x", tarfile.SYMTYPE, b"", "/etc"), ("tiny/x/y", *_FILE)),
    "a hard link": _packed(("tiny/x", tarfile.LNKTYPE, b"", "/etc/passwd")),
    "a pipe": _packed(("tiny/x", tarfile.FIFOTYPE, b"", "")),
    "a member of 8 EiB": _packed(("tiny/x", *_FILE), size=2**63 - 1),
    "2 GiB of zeros": _bomb(None),
    "records of 2 GiB": _bomb("evaluation/records.json"),
    "records that are garbage": _planted("evaluation/records.json", b"garbage"),
    "records that are none": _planted("evaluation/records.json", b'{"schema_version": 1, "records": []}'),
    "a foreign stage.json": _planted("pretrain/stage.json", b"{}"),
    "a foreign stage.resolved.json": _planted("pretrain/stage.resolved.json", b"{}"),
    "a foreign lock": _planted("pretrain/.lock", b"1"),
    "a foreign loss log": _planted("pretrain/loss.jsonl", b"{}\n"),
}


def unpacked(world: World, make: Callable[[World], Iterator[bytes]]) -> Outcome:
    """`clipa run` where ``out.tar.gz`` is somebody else's: refused, or all is measured as if it were not there."""
    with world.copy("run") as home:
        with open(home / "out.tar.gz", "wb") as file:
            file.writelines(make(world))
        outcome = run(home, world.words("run", home))
        if (home.parent / "x").exists() or Path("/tmp/clipa-hostile").exists():
            return DIFFERENT, "it wrote outside its folder"
        return outcome or world.compare(home, "run")

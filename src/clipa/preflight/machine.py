"""What this machine must have: programs, environments, tokens, pins, files placed by hand, disk."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

from clipa.crosschecks import all_data, test_sets
from clipa.data.aro import ARCHIVED, BY_HAND, place_of
from clipa.downloads import Downloads
from clipa.estimate import disk
from clipa.links import links_of
from clipa.plan import Plan
from clipa.preflight import MISSING, OK, Finding


def environments(plan: Plan) -> Iterator[Finding]:
    """Packages of this environment, and the environment that downloads."""
    for package, what, cure in (
        ("snakemake", "Snakemake", "make environment, then source .venv/bin/activate"),
        ("torch", "training environment", "make environment, then source .venv/bin/activate"),
    ):
        yield _installed(package, what, cure)
    if plan.scale.data.kind != "webdataset":
        return
    yield _installed(plan.scale.tagger, "part-of-speech tagger", "make tagger")
    downloads = [links_of(data.download).download for data in all_data(plan.scale).values()]
    needed = {"img2dataset": "make data"}
    if any(one.distributor == "ray" for one in downloads):
        needed["ray"] = "install the version of your cluster there (docs/data.md)"
    for package, cure in needed.items():
        here = Path(".venv-data/bin", package).is_file() or importlib.util.find_spec(package) is not None
        said = f"{package} is there" if here else f"no {package} in .venv-data; {cure}"
        yield Finding("data environment", OK if here else MISSING, said)


def _installed(package: str, what: str, cure: str) -> Finding:
    there = importlib.util.find_spec(package) is not None
    said = f"{package} is installed" if there else f"{package} is not installed; {cure}"
    return Finding(what, OK if there else MISSING, said)


def repositories(plan: Plan) -> list[str]:
    """The repositories of the hub that the scale downloads."""
    if plan.scale.data.kind != "webdataset":
        return []
    lists = [data.download.repository for data in all_data(plan.scale).values() if data.download]
    sets = sorted({name for name in test_sets(plan.scale).values() if not name.startswith("aro-")})
    return [*lists, *(f"clip-benchmark/wds_{name}" for name in sets)]


def tokens(plan: Plan, downloads: Downloads) -> Iterator[Finding]:
    """A token of the hub, where a repository lets in only who has agreed to its terms."""
    import huggingface_hub

    asking = [name for name in repositories(plan) if downloads.repositories[name].consent]
    if not asking:
        return
    there = huggingface_hub.get_token() is not None
    terms = ", ".join(f"huggingface.co/datasets/{name}" for name in asking)
    said = (
        f"is there; its account must have agreed to the terms of {terms}"
        if there
        else f"agree to the terms at {terms}; then set HF_TOKEN to a token from huggingface.co/settings/tokens"
    )
    yield Finding("HF_TOKEN", OK if there else MISSING, said)


def pins(plan: Plan, downloads: Downloads) -> Iterator[Finding]:
    """Downloads that are refused because nobody has written down what they must be."""
    wanted = repositories(plan)
    if not wanted:
        return
    unknown = {
        "revision": [name for name in wanted if downloads.repositories[name].revision is None],
        "digest": [name for name, file in downloads.files.items() if file.digest is None],
    }
    for key, names in unknown.items():
        if names:
            said = f"config/downloads.yaml: {key} is null for {', '.join(names)}; paste it (docs/data.md)"
            yield Finding(f"{key}s", MISSING, said)
    if not any(unknown.values()):
        yield Finding("pins", OK, f"{len(wanted)} repositories have a commit")
    for key, data in all_data(plan.scale).items():
        if data.manifest is None and (plan.root / plan.data_of(data) / "train" / "manifest.json").is_file():
            yield Finding(
                "manifest",
                MISSING,
                f"{key}.manifest: paste the line that `clipa index train` printed before anything is trained",
            )


def files_by_hand(plan: Plan) -> Iterator[Finding]:
    """ARO's files that have no address to be downloaded from."""
    if not any(name.startswith("aro-") for name in test_sets(plan.scale).values()):
        return
    folder = plan.root / plan.project.data_directory / "aro"
    for name in BY_HAND:
        there = (folder / name).exists() or (folder / ARCHIVED.get(name, name)).is_file()
        said = "is there" if there else f"missing; get it {place_of(name)}"
        yield Finding("file by hand", OK if there else MISSING, f"{folder / name} {said}")


def space(plan: Plan, target: str) -> Iterator[Finding]:
    """Room for what the target's trainings leave, and for the data."""
    needed = disk(plan, plan.work(target).pending)
    asked = {
        plan.project.data_directory: needed["data"],
        plan.project.runs_directory: needed["checkpoints"] + needed["exports"],
    }
    places = {folder: _existing(plan.root / folder) for folder in asked}
    for folder, size in asked.items():
        disks = [place.stat().st_dev for place in places.values()]
        shared = len(set(disks)) == 1
        free, size = shutil.disk_usage(places[folder]).free, sum(asked.values()) if shared else size
        said = f"{' and '.join(asked) if shared else folder}: {size / 1e12:.2f} TB needed, {free / 1e12:.2f} TB free"
        if size > free:
            said += f"; link {folder} to a larger disk, or name one in config/config.yaml"
        yield Finding("disk", OK if size <= free else MISSING, said)
        if shared:
            return


def _existing(place: Path) -> Path:
    """The folder, or the one above it that exists."""
    while not place.exists():
        place = place.parent
    return place

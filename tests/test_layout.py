"""The building itself: who imports whom, how long files are, what must not be written in them, locks and mirrors."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "clipa"

DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")


def floors() -> list[set[str]]:
    """The table of docs/design.md, ground first. A module imports from its own floor or from one below."""
    table = re.search(r"<!-- floors: begin.*?-->\n(.*?)<!-- floors: end -->", DESIGN, re.S)[1]
    rows = [line.split("|")[2] for line in table.splitlines()[2:]]
    return [set(re.findall(r"`(\w+)`", row)) for row in reversed(rows)]


# Reader's and trainer's side stand beside each other: training and evaluation feed records, nothing else, to readers.
GROUND, PLANNING, MODELS, TRAINERS, READERS, COMMANDS = floors()
FLOORS = [GROUND, PLANNING, MODELS, TRAINERS, READERS, COMMANDS, {"__main__"}]
# What may never be loaded by figures, tables and numbers: a figure must be there in seconds.
HEAVY = {"torch", "torchvision", "open_clip", "clip_benchmark", "spacy", "transformers", "timm"}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imported_rooms(path: Path) -> set[str]:
    """Rooms of clipa that a file imports, anywhere in it, also inside functions; those for types alone excepted."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    rooms = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("clipa.") and name.split(".")[1] not in ("__version__",):
                rooms.add(name.split(".")[1])
    return rooms


def floor_of(name: str) -> int:
    return next(i for i, floor in enumerate(FLOORS) if name in floor)


def test_every_room_has_a_floor():
    rooms = {room(path) for path in sources()} - {"__init__"}
    assert rooms == set().union(*FLOORS), (
        "a module was added or removed: give it a floor here and in docs/design.md"
    )


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    here = room(path)
    if here == "__init__":
        return
    upwards = {name for name in imported_rooms(path) if floor_of(name) > floor_of(here)}
    assert not upwards, f"{path.name} ({here}) imports {', '.join(sorted(upwards))} from a higher floor"
    if here in READERS:
        assert not imported_rooms(path) & (TRAINERS | MODELS - {"reductions"}), (
            f"{path.name}: figures and numbers must not need training code"
        )


def loads_none_of(heavy: set[str], modules: str) -> None:
    code = (
        f"import sys, {modules}; found = {heavy!r} & set(sys.modules); print(*found); sys.exit(bool(found))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(ROOT / "src")})


def modules_of(names: set[str]) -> str:
    """Every module of these rooms, as an import statement names them."""
    paths = [path for path in sources() if room(path) in names]
    dotted = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths]
    return ", ".join(name.removesuffix(".__init__") for name in dotted)


def test_readers_side_loads_nothing_heavy():
    loads_none_of(HEAVY, modules_of(READERS | COMMANDS | {"reductions"}))


def test_planning_and_ground_are_light():
    loads_none_of(HEAVY | {"pandas", "numpy", "matplotlib"}, modules_of(GROUND | PLANNING))


# ------------------------------------------------------------------------------------------------------- files


def written_files() -> list[Path]:
    """Text files of the project that people write (locks, results and pictures are made)."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert listed.returncode == 0, listed.stderr
    made = (".lock", ".png", ".pdf", ".csv")
    paths = [ROOT / line for line in listed.stdout.splitlines()]
    return [path for path in paths if path.is_file() and path.suffix not in made]


def test_files_fit_a_sitting():
    code = [path for path in written_files() if path.suffix in (".py", ".smk") or path.name == "Snakefile"]
    assert len(code) > 30
    long = {
        str(path.relative_to(ROOT)): n
        for path in code
        if (n := len(path.read_text("utf-8").splitlines())) > 600
    }
    assert not long


def test_functions_fit_a_screen():
    long = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1
                if lines > 60:
                    long.append(f"{path.relative_to(ROOT)}: {node.name} has {lines} lines")
    assert not long


def test_rules_fit_a_screen_and_say_what_they_do():
    wanted = ("message:", "log:", "benchmark:", "conda:")
    count = 0
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        for block in re.split(r"(?m)^(?=rule )", path.read_text(encoding="utf-8"))[1:]:
            block = block.rstrip()
            name = block.split(":")[0]
            if "shell:" in block:
                count += 1
                missing = [key for key in wanted if key not in block]
                assert not missing, f"{path.name}: {name} lacks {missing}"
                assert "threads:" in block or "resources:" in block, f"{path.name}: {name} lacks resources"
            assert len(block.splitlines()) <= 25, f"{path.name}: {name}: {len(block.splitlines())} lines"
    assert count >= 12


def test_no_rule_writes_into_stored_results():
    for path in [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk"), ROOT / "workflow" / "Snakefile"]:
        for output in re.findall(r"(?ms)^    output:\n(.*?)^    \w+:", path.read_text(encoding="utf-8")):
            assert "published" not in output and "recorded" not in output.replace("recorded-", ""), path


# In fragments, so that this file does not mention them itself.
FORBIDDEN = {
    "a package registry": ["pypi" + r"\.", "python" + "hosted", "npm" + r"js\.", r"deb\.deb" + "ian"],
    "a path of one machine": [r"(?<![\w.])/(root|wo" + "rk|Users)/[A-Za-z0-9_]"],
    "unfinished work": [
        "TO" + "DO",
        "FIX" + "ME",
        "NotImplemented" + "Error",
        r"pytest\.sk" + "ip",
        "xfa" + "il",
    ],
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_written_mentions(what):
    found = []
    pattern = re.compile("|".join(FORBIDDEN[what]))
    for path in written_files():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_the_tagger_has_an_address_and_a_digest():
    """What no registry has; the conda mirror names the same file, so that pip checks it there, too."""
    text = (ROOT / "envs" / "tagger.txt").read_text(encoding="utf-8")
    found = re.search(r"(?m)^en-core-web-sm @ (https://\S+\.whl) \\\n +--hash=sha256:([0-9a-f]{64})$", text)
    assert found
    mirror = yaml.safe_load((ROOT / "envs" / "tagger.yaml").read_text(encoding="utf-8"))
    train = yaml.safe_load((ROOT / "envs" / "train.yaml").read_text(encoding="utf-8"))
    *same, tagger = mirror["dependencies"][-1]["pip"]
    assert same == train["dependencies"][-1]["pip"] and tagger == f"{found[1]}#sha256={found[2]}"


def test_locks_name_no_registry():
    for lock in (ROOT / "envs").glob("*.lock"):
        assert not re.search(r"https?://|--(extra-)?index", lock.read_text(encoding="utf-8")), lock.name


def test_no_room_without_a_name():
    nameless = {"utils", "util", "helpers", "helper", "misc", "common"}
    assert not [path for path in written_files() if path.stem in nameless]


# ------------------------------------------------------------------------------------------------ environments


def locked(name: str) -> dict[str, str]:
    text = (ROOT / "envs" / f"{name}.lock").read_text(encoding="utf-8")
    return dict(re.findall(r"(?m)^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;]+)", text))


def mirrored(name: str) -> dict[str, str]:
    content = yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text(encoding="utf-8"))
    pins = next(entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict))
    return dict(re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;]+).*", pin).groups() for pin in pins)


@pytest.mark.parametrize("name", ["reader", "train", "data"])
def test_conda_environment_mirrors_lock(name):
    expected = locked(name)
    # A backport that pip refuses on Python 3.11; see envs/mirror.py.
    expected.pop("dataclasses", None)
    assert len(expected) > 20
    assert mirrored(name) == expected


def test_every_locked_package_has_hashes():
    for lock in (ROOT / "envs").glob("*.lock"):
        entries = re.split(r"(?m)^(?=[A-Za-z0-9])", lock.read_text(encoding="utf-8"))
        bare = [entry.split()[0] for entry in entries if "==" in entry and "--hash=sha256:" not in entry]
        assert not bare, f"{lock.name}: {bare}"


def test_reader_and_training_environments_agree():
    reader, train = locked("reader"), locked("train")
    assert {name: train.get(name) for name in reader} == reader
    assert not HEAVY & set(reader)


def test_installed_is_what_is_locked():
    from importlib.metadata import version

    for name in ("snakemake", "numpy", "pandas", "matplotlib", "torch", "open-clip-torch", "clip-benchmark"):
        assert version(name).split("+")[0] == locked("train")[name]


PYTHONS = ("3.11", "3.12", "3.13")


@pytest.mark.parametrize("lock", sorted((ROOT / "envs").glob("*.lock")), ids=lambda lock: lock.stem)
def test_a_lock_has_one_version_of_each_package(lock):
    """Of a package for every Python and system, so that no number depends on them; markers only leave packages out."""
    names = re.findall(r"(?m)^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==", lock.read_text(encoding="utf-8"))
    assert names and len(set(names)) == len(names)


def test_graphics_cards_libraries_are_for_linux_only():
    """macOS has no wheels of them: the training lock once did not install there."""
    from packaging.requirements import Requirement

    text = (ROOT / "envs" / "train.lock").read_text(encoding="utf-8")
    cards = re.findall(r"(?m)^((?:nvidia|cuda|triton)[a-z0-9-]*(?:\[[^\]]*\])?==[^\\\n]+)", text)
    assert len(cards) > 10
    for card in map(Requirement, map(str.strip, cards)):
        assert card.marker and not card.marker.evaluate(
            {"sys_platform": "darwin", "platform_machine": "arm64"}
        )


def test_the_makefile_and_the_package_name_the_same_pythons():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert tuple(re.search(r"(?m)^PYTHONS := (.*)$", makefile)[1].split()) == PYTHONS
    hosted = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert tuple(hosted["jobs"]["reader"]["strategy"]["matrix"]["python"]) == PYTHONS


def test_every_lock_is_explained():
    """docs/environments.md has a row for each environment, and each version that is fixed has a reason there."""
    page = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    for asked in (ROOT / "envs").glob("*.in"):
        assert f"`envs/{asked.stem}.lock`" in page
        for name, version in re.findall(r"(?m)^([A-Za-z0-9_-]+)==(\S+)$", asked.read_text(encoding="utf-8")):
            row = next((row for row in page.splitlines() if re.match(rf"\|[^|]*\b{name}\b", row)), "")
            assert version in row, f"{asked.name}: {name}=={version}"

"""Build a release from the commit that is checked out: ``make release``.

Writes, and replaces as a whole, the folder dist/: the wheel, the RO-Crate as a zip (every tracked file, with
ro-crate-metadata.json and a model card of each recorded run), and Croissant descriptions of the records and of each
drawn training set that is there. Then each description is given to the validator of its own format. Exit code 1 if one
does not pass.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from clipa import __version__
from clipa.model_card import recorded_cards
from clipa.provenance import commit
from clipa.records import recorded_scales
from release import context, crate, croissant

ROOT = Path(__file__).resolve().parent.parent
NAME = f"clipa-{__version__}"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of each file in the zip, so that a commit always gives the same bytes."""


def main() -> int:
    """Build and check; the number of checks that did not pass, at most 1."""
    head, dirty = commit()
    if dirty or head is None:
        print(
            "release: the checkout has changes that no commit has: commit them, then make release",
            file=sys.stderr,
        )
        return 1
    place, half = ROOT / "dist", ROOT / "dist.partial"
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    build_crate(half, head)
    (half / "records.croissant.json").write_text(
        croissant.text(croissant.records(ROOT, half)), encoding="utf-8"
    )
    for manifest in sorted((ROOT / "results" / "data").glob("*/train/manifest.json")):
        described = croissant.text(croissant.world(ROOT, manifest.parent))
        (half / f"{manifest.parent.parent.name}.croissant.json").write_text(described, encoding="utf-8")
    build_wheel(half)
    shutil.rmtree(place, ignore_errors=True)
    half.rename(place)
    for path in sorted(path for path in place.iterdir() if path.is_file()):
        print(f"dist/{path.name}  {path.stat().st_size / 1e6:.1f} MB")
    return check(place)


def build_crate(place: Path, head: str) -> None:
    """``place/crate/``, the tracked files with model cards and the crate's metadata, and the same as a zip."""
    folder = place / "crate"
    tracked = subprocess.run(["git", "archive", head], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(tracked)) as files:
        files.extractall(folder, filter="data")
    for scale in recorded_scales():
        (folder / crate.CARDS / scale).mkdir(parents=True)
        for run, text in recorded_cards(scale).items():
            (folder / crate.card_of(scale, run)).write_text(text, encoding="utf-8")
    (folder / "ro-crate-metadata.json").write_text(crate.metadata(folder, head), encoding="utf-8")
    archive = place / f"{NAME}-crate.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(f"{NAME}/{path.relative_to(folder).as_posix()}", EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, path.stat().st_mode << 16
            packed.writestr(entry, path.read_bytes())


def build_wheel(place: Path) -> None:
    """The wheel, built from the crate's files by what the lock has, without a network."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place)]
    done = subprocess.run(command, cwd=place / "crate", capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"release: the wheel cannot be built:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    for left in ("build", f"src/{NAME.split('-')[0]}.egg-info"):
        shutil.rmtree(place / "crate" / left, ignore_errors=True)


def check(place: Path) -> int:
    """Give every description to its validator, print what each says, and return 1 if one does not pass.

    None needs the network: the crate's reads the context of RO-Crates from :mod:`release.context`.
    """
    with TemporaryDirectory() as scratch:
        return run_validators(validators(place, context.cache(Path(scratch))))


def validators(place: Path, contexts: Path) -> dict[str, list[str]]:
    """Their commands by what they check. ``contexts``: the crate validator's cache."""
    tools, folder = Path(sys.executable).parent, place / "crate"
    crates = [
        *("validate", "--no-paging", "--offline", "--cache-path", str(contexts)),
        *("--profile-identifier", "workflow-run-crate-0.5", "--requirement-severity", "required"),
    ]
    commands = {
        "RO-Crate, workflow run profile (rocrate-validator)": [
            *(str(tools / "rocrate-validator"), "--no-interactive", *crates, str(folder))
        ],
        "licences (reuse)": [str(tools / "reuse"), "--root", str(folder), "lint"],
    }
    for path in sorted(place.glob("*.croissant.json")):
        command = [str(tools / "mlcroissant"), "validate", "--jsonld", str(path)]
        commands[f"{path.name} (mlcroissant)"] = command
    return commands


def run_validators(commands: Mapping[str, list[str]]) -> int:
    """Print what each says; 1 if one does not pass."""
    failed = 0
    for name, command in commands.items():
        done = subprocess.run(command, capture_output=True, text=True)
        said = (done.stdout + done.stderr).strip()
        if done.returncode == 0:
            print(f"{name}: valid", flush=True)
        else:
            print(f"{name}: exit code {done.returncode}\n{said[-3000:]}", flush=True)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())

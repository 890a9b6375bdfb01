"""Write the conda environment files from the locks: the same versions, for `snakemake --sdm conda` (`make locks`)."""

import re
from pathlib import Path

HERE = Path(__file__).parent
ABOUT = {
    "reader": "figures, tables, numbers; no torch",
    "train": "everything: training, evaluation, figures, tests",
    "data": "the paper scale's downloads",
    "parquet": "figures, tables, numbers, and numbers as Parquet; no torch",
    "tagger": "tagging at the paper scale: the training environment and en_core_web_sm",
}
# What an environment is made of, where that is not its own lock.
SOURCES = {"parquet": ("reader.lock", "parquet.lock"), "tagger": ("train.lock", "tagger.txt")}
# img2dataset asks for this backport of a module that Python has had since 3.7; pip refuses to install it there.
LEFT_OUT = {"dataclasses"}


def pins(lock: Path) -> list[str]:
    """`name==version` of every package of a lock, in its order."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    found = [re.match(r"([A-Za-z0-9._-]+(?:\[[^\]]*\])?==\S+(?: ; [^\\]+)?)", line) for line in lines]
    return [m[1].strip() for m in found if m and re.split(r"[=\[]", m[1])[0] not in LEFT_OUT]


def wheels(lock: Path) -> list[str]:
    """Packages of a lock that are files at an address, with the digest that pip checks."""
    text = lock.read_text(encoding="utf-8")
    found = re.findall(r"(?m)^\S+ @ (\S+) \\\n +--hash=sha256:([0-9a-f]{64})$", text)
    return [f"{address}#sha256={digest}" for address, digest in found]


def mirror(name: str) -> str:
    """The conda environment file of the lock called `name`."""
    locks = [HERE / lock for lock in SOURCES.get(name, (f"{name}.lock",))]
    names = " and ".join(lock.name for lock in locks)
    head = (
        f"# Mirror of {names} ({ABOUT[name]}). Made by `make locks`; conda checks no hashes, the lock does.\n"
    )
    base = "channels: [conda-forge, nodefaults]\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n"
    return head + base + "".join(f"      - {pin}\n" for lock in locks for pin in [*pins(lock), *wheels(lock)])


if __name__ == "__main__":
    for name in ABOUT:
        (HERE / f"{name}.yaml").write_text(mirror(name), encoding="utf-8")

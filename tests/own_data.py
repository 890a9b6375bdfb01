"""Small shards and test sets of drawn pictures, as somebody's own data would come."""

import io
import shutil
import tarfile
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
COLOURS = ("red", "green", "blue", "black")
SHAPES = ("disc", "box")


def picture(number: int, kind: str = "JPEG", size: int = 64) -> bytes:
    """A disc or a box of one of four colours."""
    image = Image.new("RGB", (size, size), "white")
    draw = getattr(ImageDraw.Draw(image), "ellipse" if number % 2 else "rectangle")
    draw((8, 8, size - 8 - number % 7, size - 8), fill=COLOURS[number // 2 % 4])
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def caption(number: int) -> str:
    return f"a {COLOURS[number // 2 % 4]} {SHAPES[number % 2 == 0]}, number {number % 50}"


def write_tar(path: Path, samples: list[dict[str, bytes]]) -> Path:
    """A tar of samples, each by ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, sample in enumerate(samples):
            for ending, content in sample.items():
                member = tarfile.TarInfo(f"{number:04d}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def good(count: int, first: int = 0) -> list[dict[str, bytes]]:
    """Samples with jpg, png and webp images, and txt or json captions."""
    kinds = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
    samples = []
    for number in range(first, first + count):
        ending = list(kinds)[number % 3]
        words = caption(number)
        said = {"txt": words.encode()} if number % 2 else {"json": f'{{"caption": "{words}"}}'.encode()}
        samples.append({ending: picture(number, kinds[ending]), **said})
    return samples


def write_shards(folder: Path, shards: int = 4, each: int = 24) -> Path:
    for number in range(shards):
        write_tar(folder / f"{number:05d}.tar", good(each, number * each))
    return folder


def write_test_set(folder: Path, items: int = 24) -> Path:
    """A classification test set in CLIP_benchmark's layout: eight classes."""
    samples = [{"jpg": picture(number), "cls": str(number % 8).encode()} for number in range(items)]
    write_tar(folder / "test" / "0.tar", samples)
    names = [caption(number).partition(",")[0].removeprefix("a ") for number in range(8)]
    (folder / "classnames.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    (folder / "zeroshot_classification_templates.txt").write_text("a {c}\n{c}, a drawing\n", encoding="utf-8")
    return folder


def clone(home: Path) -> Path:
    """What of the repository is read where nothing is drawn or committed."""
    home.mkdir(exist_ok=True)
    shutil.copytree(ROOT / "config", home / "config")
    (home / "results").mkdir()
    (home / "results/published").symlink_to(ROOT / "results/published")
    return home

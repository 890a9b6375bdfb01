"""COCO's captions as the list of images that img2dataset downloads: NegCLIP's training set at the paper's scale.

``annotations_trainval2014.zip`` holds ``annotations/captions_train2014.json``: 82,783 images, five captions each or
more. One image a line, in the order of their numbers, with all its captions, since NegCLIP draws among them.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from clipa.files import write_text_atomically

CAPTIONS = "annotations/captions_train2014.json"


class CocoError(ValueError):
    """The zip of captions is missing, cut short or another one; one line that says where and what to do."""


def write_image_list(annotations: Path, out: Path) -> Path:
    """Write the images of the zip ``annotations`` to ``out``, one JSON object a line; returns ``out``.

    Each is ``{"url", "caption", "captions", "image_id"}``: ``captions`` in the order of their numbers, ``caption`` the
    first of them. Images without a caption are left out. Raises CocoError.
    """
    content = _captions(Path(annotations))
    of_image: dict[int, list[str]] = {}
    for annotation in sorted(content["annotations"], key=lambda one: one["id"]):
        caption = " ".join(annotation["caption"].split())  # some end with a line break
        if caption:
            of_image.setdefault(annotation["image_id"], []).append(caption)
    lines = []
    for image in sorted(content["images"], key=lambda one: one["id"]):
        captions = of_image.get(image["id"])
        if captions:
            row = {
                "url": image["coco_url"],
                "caption": captions[0],
                "captions": captions,
                "image_id": image["id"],
            }
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_text_atomically(out, "".join(lines))
    return Path(out)


def _captions(annotations: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(annotations) as archive:
            return json.loads(archive.read(CAPTIONS))  # the zip's own checksum is compared
    except FileNotFoundError:
        raise CocoError(
            f"{annotations}: missing; download COCO's annotations_trainval2014.zip first"
        ) from None
    except KeyError:
        raise CocoError(
            f"{annotations}: holds no {CAPTIONS}; expected COCO's annotations_trainval2014.zip"
        ) from None
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise CocoError(f"{annotations}: not whole ({error}); delete it and download it again") from None

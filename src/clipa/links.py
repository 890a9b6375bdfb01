"""Data sets that are lists of image links: where a list is, how it is split into shards and jobs, what must arrive."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from clipa.fields import Area, Count, Strict

ColumnName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
MOST_JOBS = 256
"""Of one data set."""


class Download(Strict):
    """Where the image links of a web data set are (docs/data.md), and how they are downloaded; ``downloads.yaml`` says
    which revision of the list.
    """

    repository: str = Field(description="on the Hugging Face hub, with parquet files")
    url_column: ColumnName = "URL"
    caption_column: ColumnName = "TEXT"
    minimum_yield: Area = Field(
        default=0.5, description="share of the links that must give an image; with fewer there is no manifest"
    )
    images_per_shard: Count = Field(
        default=10_000, le=10**5, description="links of a shard; as the authors have it"
    )
    hours: Count = Field(default=12, le=24 * 14, description="longest job")
    images_per_second: Count = Field(
        default=200, le=10**5, description="links that a job gets through; with `hours` it sets how many jobs"
    )
    distributor: Literal["multiprocessing", "ray"] = Field(
        default="multiprocessing",
        description="who downloads the shards of a job: processes of its machine, or a Ray cluster that runs already",
    )

    def jobs(self, shards: int) -> int:
        """How many jobs download that many shards. ValueError where they are more than 256."""
        jobs = -(-shards * self.images_per_shard // (self.images_per_second * self.hours * 3600))
        if jobs > MOST_JOBS:
            raise ValueError(
                f"download.hours: {shards} shards are {jobs} jobs of {self.hours} h at {self.images_per_second} images "
                f"a second; more than {MOST_JOBS}: raise one of the two"
            )
        return jobs


class Links(NamedTuple):
    """A list of links and how it is downloaded."""

    download: Download
    listed: str
    """Below the data's folder: a folder of parquet files, or a file of JSON lines."""
    more_columns: tuple[str, ...] = ()
    """Kept beside the caption."""


COCO = Links(
    Download(
        repository="", url_column="url", caption_column="caption", minimum_yield=0.99, images_per_shard=1000
    ),
    listed="images.jsonl",
    more_columns=("captions", "image_id"),
)
"""COCO's own list, from ``clipa coco``. Its bucket has every image."""


def links_of(download: Download | None) -> Links:
    """How a data source is downloaded; the one without a repository is COCO (crosschecks)."""
    return COCO if download is None else Links(download, "metadata")


def share_of(shards: int, part: int, parts: int) -> range:
    """The numbers of the shards that job ``part`` of 0 … ``parts`` - 1 downloads: all side by side."""
    return range(shards * part // parts, shards * (part + 1) // parts)

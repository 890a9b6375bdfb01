"""Evaluation protocols, as data: what becomes of an image, a prompt and a tie. The file is ``config/protocols.yaml``.

A protocol has a name, which records carry, and content, which their ``protocol`` digests together with the prompts.
``study`` is what runs of the study are measured with; a record that names no protocol was measured so.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from clipa.config import CONFIG_DIRECTORY, ConfigError, read_once, read_yaml, validated
from clipa.fields import Count, Number, Strict, Text

STUDY_PROTOCOL = "study"
CHECKPOINT_PROTOCOL = "checkpoint"

Mode = Literal["shorter", "squash", "longest"]
Interpolation = Literal["bilinear", "bicubic"]


class Pixels(NamedTuple):
    """How an image becomes ``size`` × ``size`` pixels.

    ``shorter``: its shorter side is resized to ``side``, and the middle is cut out; ``squash``: both sides are resized
    to ``size``; ``longest``: the longer one is, and the rest is filled with black (open_clip's name for it).
    """

    size: int
    mode: Mode
    side: int
    interpolation: Interpolation


class Protocol(Strict):
    """One protocol. ``checkpoint`` stands for what the evaluated checkpoint says of itself."""

    about: Text = Field(description="whose it is, and what was chosen where its source is silent")
    resize: Literal["shorter", "squash", "checkpoint"]
    margin: Annotated[float, Number, Field(ge=1, le=2)] = Field(
        default=1.0,
        description="the shorter side becomes so many times the model's pixels, which are cut out",
    )
    squash_from: Count | None = Field(
        default=None, le=4096, description="models of so many of the paper's pixels see squashed images"
    )
    interpolation: Literal["bilinear", "bicubic", "checkpoint"]
    bare_name: bool = Field(default=False, description="the name of the class is one more prompt")
    canonical: bool = Field(default=False, description="prompts in small letters, without punctuation")
    order_ties: Literal["lose", "win"] = Field(
        default="lose", description="of the right order of words with a wrong one; elsewhere in ARO ties lose"
    )
    recall: list[Annotated[int, Number, Field(ge=1, le=1000)]] = Field(
        default=[1], min_length=1, max_length=8, description="retrieval: a right one among so many"
    )

    @model_validator(mode="after")
    def _margin_is_cut(self) -> Protocol:
        if self.margin > 1 and self.resize != "shorter":
            raise ValueError(f"margin: {self.margin} belongs to `resize: shorter`, which cuts it off again")
        if self.squash_from is not None and self.resize != "shorter":
            raise ValueError("squash_from: an exception to `resize: shorter`")
        if len(set(self.recall)) < len(self.recall):
            raise ValueError(f"recall: {self.recall}: one occurs twice")
        return self

    def pixels(self, size: int, paper_size: int, own: tuple[Mode, Interpolation]) -> Pixels:
        """What it does for a model of ``size`` pixels that stands for one of ``paper_size`` in the paper.

        ``own``: what the checkpoint says of itself.
        """
        mode = own[0] if self.resize == "checkpoint" else self.resize
        if self.squash_from is not None and paper_size >= self.squash_from:
            mode = "squash"
        interpolation = own[1] if self.interpolation == "checkpoint" else self.interpolation
        return Pixels(size, mode, round(size * self.margin) if mode == "shorter" else size, interpolation)

    @property
    def content(self) -> dict[str, Any]:
        """What the digest in a record covers: all but the words about it."""
        return self.model_dump(exclude={"about"})


def load_protocols(directory: Path = CONFIG_DIRECTORY) -> dict[str, Protocol]:
    """Every protocol by name. ConfigError for any mistake."""
    return _load(directory / "protocols.yaml")


@read_once
def _load(path: Path) -> dict[str, Protocol]:
    protocols = {}
    for name, values in read_yaml(path).items():
        if not re.fullmatch("[a-z][a-z0-9-]*", str(name)):
            raise ConfigError(f"{path}: {name}: a protocol's name has small letters, digits and - only")
        protocols[name] = validated(Protocol, values, path, str(name))
    if missing := [name for name in (STUDY_PROTOCOL, CHECKPOINT_PROTOCOL) if name not in protocols]:
        raise ConfigError(f"{path}: there is no protocol {missing[0]!r}, which evaluation starts from")
    return protocols


def protocol_named(name: str, directory: Path = CONFIG_DIRECTORY, asked: str = "--protocol") -> Protocol:
    """The protocol called ``name`` (``asked``: by which file and key). ConfigError where there is none."""
    protocols = load_protocols(directory)
    if name not in protocols:
        raise ConfigError(f"{asked}: there is no protocol {name!r} (known: {', '.join(protocols)})")
    return protocols[name]

"""TensorBoard's event files, written from what trainings log; needs no TensorBoard, whose readers they are for.

A file is a row of records: length (uint64), its checksum, the message, its checksum; checksums are CRC-32C, masked. A
message is a protocol buffer, ``Event``: wall_time 1 (double), step 2 (int64), file_version 3 (string), summary 5, which
has values 1 of tag 1 and simple_value 2 (float). TensorBoard's own package would add nine others for these few lines.
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from clipa.watching import TRAINING, Training, Watch, loss_log

VERSION = "brain.Event:2"
TAGS = {"loss": "loss", "lr": "learning_rate", "scale": "logit_scale"}
"""Of a loss log's rows."""


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def masked_crc(content: bytes) -> int:
    """CRC-32C (Castagnoli), rotated and shifted as in TFRecord files."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def record(message: bytes) -> bytes:
    """A message as it stands in an event file."""
    length = struct.pack("<Q", len(message))
    return length + struct.pack("<I", masked_crc(length)) + message + struct.pack("<I", masked_crc(message))


def event(
    wall_time: float, step: int = 0, values: dict[str, float] | None = None, version: str = ""
) -> bytes:
    """An event: the file's version, or scalars at a step."""
    message = b"\x09" + struct.pack("<d", wall_time)
    if step:
        message += b"\x10" + _varint(step)
    if version:
        message += b"\x1a" + _sized(version.encode())
    if values:
        parts = (
            b"\x0a" + _sized(b"\x0a" + _sized(tag.encode()) + b"\x15" + struct.pack("<f", value))
            for tag, value in values.items()
        )
        message += b"\x2a" + _sized(b"".join(parts))
    return record(message)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def _sized(content: bytes) -> bytes:
    return _varint(len(content)) + content


@dataclass
class _File:
    """An event file, with the last steps of the loss log and of what was seen that are in it."""

    path: Path
    logged: int = 0
    seen: int = 0


class EventFiles:
    """One event file for each stage below ``directory``, in the stage's own path; each is begun anew by each call.

    A stage's loss log is complete, but grows with each checkpoint only; under ``live/`` stands what was seen meanwhile.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files: dict[Path, _File] = {}

    def add(self, watch: Watch, trainings: list[Training]) -> None:
        """Append what is new of each stage."""
        for training in trainings:
            if training.directory not in self._files:
                self._files[training.directory] = _File(self._begin(watch, training))
            file, content = self._files[training.directory], b""
            for row in loss_log(training.directory / "loss.jsonl"):
                if row["step"] > file.logged:
                    values = {tag: float(row[key]) for key, tag in TAGS.items() if key in row}
                    content += event(time.time(), row["step"], values)
                    file.logged = row["step"]
            if training.step > file.seen and training.state == TRAINING:
                seen = {"live/loss": training.loss}
                if training.rate is not None:
                    seen["live/samples_per_second"] = training.rate
                content += event(time.time(), training.step, seen)
                file.seen = training.step
            if content:
                with open(file.path, "ab") as end:
                    end.write(content)

    def _begin(self, watch: Watch, training: Training) -> Path:
        folder = self.directory / training.directory.relative_to(watch.runs)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*.clipa"):
            old.unlink()
        path = folder / f"events.out.tfevents.{int(time.time())}.{os.getpid()}.clipa"
        path.write_bytes(event(time.time(), version=VERSION))
        return path

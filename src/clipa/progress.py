"""The progress of a stage: a bar on a terminal, a line every ten seconds in a log, and ``progress.json``."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

_LINE_SECONDS = 10.0
_FILE_SECONDS = 2.0


class Progress:
    """Reports the updates of a stage. The demo's overall bar reads ``progress.json`` in the stage's directory."""

    def __init__(self, directory: Path, steps: int, batch_size: int, first: int, enabled: bool) -> None:
        from tqdm import tqdm

        self.path, self.steps, self.batch_size, self.enabled = (
            directory / "progress.json",
            steps,
            batch_size,
            enabled,
        )
        self.first, self.began = first, time.monotonic()
        self.next_line = self.next_file = self.began
        on_terminal = sys.stderr.isatty()
        self.bar = tqdm(total=steps, initial=first, unit="step", disable=not (enabled and on_terminal))
        self.lines = enabled and not on_terminal

    def update(self, step: int, loss: Any) -> None:
        """``step`` updates are done; ``loss`` (a scalar tensor) is read only when something is shown."""
        self.bar.update(step - self.bar.n)
        now = time.monotonic()
        if not self.enabled or (now < self.next_file and step < self.steps):
            return
        rate = (step - self.first) / max(now - self.began, 1e-9)
        remaining = (self.steps - step) / max(rate, 1e-9)
        self.bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if self.lines and (now >= self.next_line or step == self.steps):
            print(
                f"step {step}/{self.steps}  loss {loss.item():.3f}  {rate * self.batch_size:.0f} samples/s  "
                f"{remaining:.0f} s left",
                flush=True,
            )
            self.next_line = now + _LINE_SECONDS
        state = {
            "step": step,
            "steps": self.steps,
            "loss": loss.item(),
            "samples_per_second": round(rate * self.batch_size, 1),
            "eta_seconds": round(remaining, 1),
            "pid": os.getpid(),
            "updated": time.time(),
        }
        temporary = self.path.with_suffix(".partial")
        temporary.write_text(json.dumps(state), encoding="utf-8")
        os.replace(temporary, self.path)
        self.next_file = now + _FILE_SECONDS

    def close(self) -> None:
        self.bar.close()

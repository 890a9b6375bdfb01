"""Tokenizers, each made once a process, with what they gave: checkpoints of one tokenizer share the tokens of a suite.

OpenAI's and OpenCLIP's models have open_clip's own, which takes as long for a prompt as a small tower does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor

from clipa.files import digest, sha256_of

TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt", "config.json"),
    *("special_tokens_map.json", "added_tokens.json"),
)
"""Files that tokenizers are made of."""


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """Those of a tokenizer in ``folder``, by name; none where it has no vocabulary."""
    files = {name: folder / name for name in TOKENIZER if (folder / name).is_file()}
    return files if files.keys() & {"tokenizer.json", "vocab.txt", "vocab.json"} else {}


class Tokenizer:
    """Texts → tokens [n, context], int64; of the same texts the second time from memory (int32: 308 kB a thousand)."""

    def __init__(self, tokenize: Callable[[list[str]], Tensor]) -> None:
        self._tokenize = tokenize
        self._known: dict[tuple[str, ...], Tensor] = {}

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        key = (texts,) if isinstance(texts, str) else tuple(texts)
        if key not in self._known:
            self._known[key] = self._tokenize(list(key)).to(torch.int32)
        return self._known[key].long()


_MADE: dict[str, Tokenizer] = {}
"""By the digest of files and settings."""


def tokenizer_of(text: dict[str, Any], folder: Path | None) -> Tokenizer:
    """The tokenizer that open_clip's ``text_cfg`` describes, of the files in ``folder``; None: open_clip's own.

    The same files and settings give the same object. Raises whatever open_clip and transformers do for files that are
    no tokenizer.
    """
    settings = {"context_length": text.get("context_length", 77), **(text.get("tokenizer_kwargs") or {})}
    files = {}
    if folder is not None:
        settings["tokenizer_mode"] = text.get("tokenizer_mode")
        files = {name: sha256_of(path) for name, path in tokenizer_files(folder).items()}
    key = digest({"settings": settings, "files": files})
    if key not in _MADE:
        made = SimpleTokenizer(**settings) if folder is None else HFTokenizer(str(folder), **settings)
        _MADE[key] = Tokenizer(made)
    return _MADE[key]

"""Tables of the paper as HTML: the same panels as in LaTeX, each number a link to its record.

Layout and templates write LaTeX (one home for what a table says); the little of it that they use is read here.
"""

from __future__ import annotations

import html
import re

from clipa.render.tables.latex import SPECIAL, TableError

_PAIRED = {"textbf": "b", "textit": "i", "textsuperscript": "sup"}
# Longer ones first: `---` before `--`.
_PLAIN = {
    **dict(sorted(((latex, text) for text, latex in SPECIAL.items()), key=lambda pair: -len(pair[0]))),
    r"\times": "×",
    r"\pm": "±",
    r"\approx": "≈",
    r"\to": "→",
    r"\mathsection": "§",
    "~": "\N{NO-BREAK SPACE}",
}
_ARGUMENT = r"\{((?:[^{}]|\\[{}])*)\}"


def as_html(latex: str) -> str:
    """LaTeX of a cell, heading, note or caption as HTML. TableError for a command that none of these has."""
    text = html.escape(latex, quote=False).replace("&amp;", "&")
    before = None
    while before != text:  # from the inside out
        before = text
        text = re.sub(r"\\(?:rlap|ensuremath|clipatext)" + _ARGUMENT, r"\1", text)
        for command, tag in _PAIRED.items():
            text = re.sub(rf"\\{command}{_ARGUMENT}", rf"<{tag}>\1</{tag}>", text)
        text = re.sub(r"\^" + _ARGUMENT, r"<sup>\1</sup>", text)
    text = re.sub(r"\$([a-z])\$", r"<i>\1</i>", text)
    for command, character in _PLAIN.items():
        text = text.replace(html.escape(command, quote=False).replace("&amp;", "&"), html.escape(character))
    text = re.sub(r"(?<!\\)\$", "", text)
    if (left := re.search(r"\\.|[{}]", text)) is not None:
        raise TableError(f"{left[0]!r} in {latex!r}: not known as HTML")
    return text

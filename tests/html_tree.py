"""A page of HTML as a tree, strictly: what is opened must be closed."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "input", "br", "wbr", "link", "img", "hr"}


class Node:
    """An element: name, attributes, children (elements and text)."""

    def __init__(self, name: str, attributes: dict[str, str | None]) -> None:
        self.name, self.attributes, self.children = name, attributes, []

    def all(self, name: str) -> list[Node]:
        found = []
        for child in self.children:
            if isinstance(child, Node):
                found += ([child] if child.name == name else []) + child.all(name)
        return found

    def of_class(self, name: str) -> list[Node]:
        every = [child for child in self.children if isinstance(child, Node)]
        own = [child for child in every if name in (child.attributes.get("class") or "").split()]
        return own + [found for child in every for found in child.of_class(name)]

    @property
    def text(self) -> str:
        return "".join(child.text if isinstance(child, Node) else child for child in self.children)


class Reader(HTMLParser):
    """A tree of a well-formed page; elements that are left open fail."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Node("root", {})
        self.open = [self.root]

    def handle_starttag(self, name, attributes):
        node = Node(name, dict(attributes))
        self.open[-1].children.append(node)
        if name not in VOID:
            self.open.append(node)

    def handle_endtag(self, name):
        assert self.open[-1].name == name, f"</{name}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, text):
        self.open[-1].children.append(text)


def read(html: str) -> Node:
    reader = Reader()
    reader.feed(html)
    assert reader.open == [reader.root]
    return reader.root


def every(node: Node) -> list[Node]:
    found = [child for child in node.children if isinstance(child, Node)]
    return found + [inner for child in found for inner in every(child)]

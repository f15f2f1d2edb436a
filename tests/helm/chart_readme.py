"""The table of values in the chart's README, made from values.yaml.

A comment that begins with `# --` above a key is its description, up to the key.
`python -m tests.helm.chart_readme` writes the table anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from tests.helm.rendering import CHART

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"
LONGEST_DEFAULT = 60


def described_values(text: str) -> Iterator[tuple[str, str, str]]:
    """Each value that a person sets: its dotted name, its default, its description."""
    yield from _of_map(yaml.compose(text), "", text)


def _of_map(node: yaml.MappingNode, prefix: str, text: str) -> Iterator[tuple[str, str, str]]:
    for key, value in node.value:
        name = prefix + key.value
        description = _comment_above(text.splitlines(), key.start_mark.line)
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            if description:
                yield name, "", description
            yield from _of_map(value, name + ".", text)
        else:
            default = " ".join(text[value.start_mark.index : value.end_mark.index].split())
            yield name, f"`{default}`" if len(default) <= LONGEST_DEFAULT else "see values.yaml", description


def _comment_above(lines: list[str], line: int) -> str:
    words: list[str] = []
    for above in reversed(lines[:line]):
        text = above.strip()
        if not text.startswith("#"):
            break
        words.insert(0, text.lstrip("# "))
        if text.startswith("# --"):
            return " ".join(words).removeprefix("-- ")
    return ""


def with_table(readme: str, values: str) -> str:
    """`readme` with the table between its marks made anew."""
    rows = [
        f"| `{name}` | {default} | {description} |" for name, default, description in described_values(values)
    ]
    before, _, rest = readme.partition(BEGIN)
    after = rest.partition(END)[2]
    return before + "\n".join([BEGIN, "| value | default | |", "|---|---|---|", *rows, END]) + after


if __name__ == "__main__":
    README = CHART / "README.md"
    README.write_text(with_table(README.read_text(), (CHART / "values.yaml").read_text()))

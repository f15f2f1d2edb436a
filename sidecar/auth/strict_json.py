"""JSON with one reading only: what two parsers could understand differently is refused."""

from __future__ import annotations

import json
from typing import NoReturn

_BLANKS = " \t\n\r"  # RFC 8259 section 2


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def loads(document: bytes) -> object:
    """Parse one UTF-8 JSON text.

    Raises:
        ValueError: not UTF-8, not JSON, a name twice in one object, NaN or Infinity, or nested too deep.
    """
    try:
        text = document.decode("utf-8").strip(_BLANKS)
        value: object
        value, end = _DECODER.raw_decode(text)  # `decode` looks for blanks by regular expressions
    except RecursionError:
        raise ValueError("nested too deep") from None
    if end != len(text):
        raise ValueError("more than one JSON text")
    return value

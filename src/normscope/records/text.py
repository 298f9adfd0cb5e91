"""Records as versioned JSON, and back."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from normscope.errors import RecordError

SCHEMA = 1

T = TypeVar("T")


def to_json(record: Any, *, compact: bool = False) -> str:
    """`record` (a dataclass of this module) as JSON text with its schema; NaN and infinities become null."""
    body = _finite({"normscope": SCHEMA, "type": type(record).__name__, **dataclasses.asdict(record)})
    style: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    return json.dumps(body, **style, ensure_ascii=False, allow_nan=False)


def from_json(text: str, kind: type[T], name: str = "the record") -> T:
    """The record of type `kind` in `text`.

    Raises:
        RecordError: Not JSON, cut short, of another schema or another type.
    """
    try:
        body = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(
            f"{name} is not a whole record: JSON ends or breaks at character {error.pos} of {len(text)};"
            " take the file that `normscope why --out` wrote, uncut"
        ) from None
    if not isinstance(body, dict) or "normscope" not in body:
        raise RecordError(f"{name} is not a normscope record: expected an object with the key 'normscope'")
    if body["normscope"] != SCHEMA:
        raise RecordError(
            f"{name} has schema {body['normscope']}, this normscope reads schema {SCHEMA};"
            " render it with the version that wrote it, which stands under 'versions'"
        )
    if body.get("type") != kind.__name__:
        raise RecordError(f"{name} holds a {body.get('type')}, expected a {kind.__name__}")
    try:
        return typing.cast("T", _build(kind, body))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise RecordError(f"{name} lacks a part of a {kind.__name__}: {error}") from None


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _build(kind: Any, value: Any) -> Any:
    """`value`, parsed JSON, as an instance of the annotation `kind`."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(kind) if option is not type(None)]
        if value is None:
            return None
        nested = [option for option in options if dataclasses.is_dataclass(option)]
        return _build(nested[0], value) if nested else value
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        known = {item.name for item in dataclasses.fields(kind)}
        make = typing.cast("Callable[..., Any]", kind)
        return make(**{key: _build(hints[key], item) for key, item in value.items() if key in known})
    if origin is tuple:
        inner = typing.get_args(kind)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_build(inner[0], item) for item in value)
        return tuple(_build(part, item) for part, item in zip(inner, value, strict=True))
    if kind is float and value is None:
        return float("nan")
    return value

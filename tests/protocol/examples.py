"""One valid value for each type of a field: the least that each message needs."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

_SCALARS: dict[Any, Any] = {int: 1, str: "x", bytes: b"", float: 1.0, bool: False}


def fields_of(struct: type[msgspec.Struct]) -> list[Any]:
    """The fields of a valid struct of this kind, in order, as what goes over the wire."""
    return [value_of(field.type) for field in msgspec.structs.fields(struct)]


def value_of(kind: Any) -> Any:
    """A valid value of this type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return value_of(arguments[0])
    if origin is Literal:
        return arguments[0]
    if isinstance(kind, UnionType) or origin is Union:
        return value_of(arguments[0])
    if origin in (list, dict):
        return origin()
    if origin is tuple:
        return [value_of(part) for part in arguments]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return (
            fields_of(kind)
            if kind.__struct_config__.array_like
            else dict(zip(kind.__struct_fields__, fields_of(kind), strict=True))
        )
    return _SCALARS[kind]

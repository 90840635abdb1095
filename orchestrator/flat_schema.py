"""JSON schemas without references: small LLMs, and the rule engine, read what stands in its place. Pure.

Knows the layout of JSON schemas, and nothing of where they come from.
"""

from __future__ import annotations

from typing import Any

_ONE = ("items", "additionalProperties", "propertyNames", "contains", "not", "if", "then", "else")
_SEVERAL = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "dependentSchemas")
# A title repeats the name that it stands under; a discriminator refers to definitions that are no longer there.
_DROPPED = ("title", "discriminator", "$defs")


class Definitions:
    """The definitions that must stay: those of types that hold themselves. `where` is for errors."""

    def __init__(self, where: str) -> None:
        self.kept: dict[str, Any] = {}
        self._where = where

    def keep(self, name: str, definition: dict[str, Any]) -> None:
        """Raises TypeError for another definition of the same name."""
        if self.kept.setdefault(name, definition) != definition:
            raise TypeError(f"{self._where}: two types that hold themselves are both called {name!r}: rename one")


def flattened(schema: dict[str, Any], definitions: Definitions) -> dict[str, Any]:
    """The schema with each definition where it is used; one that holds itself stays a reference into `definitions`."""
    flat: dict[str, Any] = _Flattener(schema.get("$defs", {}), definitions).plain(schema)
    return flat


class _Flattener:
    """Walks one schema. Values that are not schemas, such as defaults and enums, are never looked into."""

    def __init__(self, given: dict[str, Any], definitions: Definitions) -> None:
        self._given = given
        self._definitions = definitions
        self._open: list[str] = []  # definitions that we are inside of
        self._recursive: set[str] = set()

    def plain(self, schema: Any) -> Any:
        if not isinstance(schema, dict):
            return schema  # `additionalProperties: false`
        reference = schema.get("$ref")
        if isinstance(reference, str):
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            return {**self._target(reference), **self.plain(beside)}
        return {key: self._part(key, value) for key, value in schema.items() if key not in _DROPPED}

    def _part(self, key: str, value: Any) -> Any:
        if key in _ONE:
            return self.plain(value)
        if key in _SEVERAL:
            return [self.plain(each) for each in value]
        if key in _NAMED:
            return {name: self.plain(each) for name, each in value.items()}
        return value

    def _target(self, reference: str) -> dict[str, Any]:
        name = reference.rpartition("/")[2]
        if name in self._open:
            self._recursive.add(name)
        if name in self._recursive:
            return {"$ref": reference}
        self._open.append(name)
        definition: dict[str, Any] = self.plain(self._given[name])
        self._open.pop()
        if name in self._recursive:
            self._definitions.keep(name, definition)
            return {"$ref": reference}
        return definition

"""What an LLM is told of a function's parameters, and what is taken of the arguments that it writes.

JSON schemas come from annotations (pydantic) and the docstring (docstring-parser). Knows nothing of tasks or calls.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import docstring_parser
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind
from pydantic_core import ErrorDetails, from_json, to_json

from orchestrator.flat_schema import Definitions, flattened

_SHOWN = 80  # characters of a wrong value that are repeated to the LLM
_MAX_PROBLEMS = 8  # that are listed: a long list of wrong items would cost more than it tells


class AIError(Exception):
    """Something went wrong that the LLM is to know: it is told `message` as it is.

    Raise it in an AI function, or give it to `InlineTask.complete`. Whatever else a function raises is logged, and the
    LLM is told only of an internal error.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidArguments(AIError):
    """The arguments that the LLM wrote do not fit; the function was not called."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """A function's parameters: `schema` (a JSON schema of type object) is what the LLM may give.

    `filled`: the names of those that the LLM does not know of. `description`: what the docstring says, "" without one.
    """

    description: str
    schema: dict[str, Any]
    filled: tuple[str, ...]
    adapters: Mapping[str, TypeAdapter[Any]]

    def parse(self, arguments_json: str) -> dict[str, Any]:
        """The keyword arguments that JSON text holds, as the types that the function wants.

        Lax, as pydantic means it: "3" is taken for 3, and "yes" for True, since LLMs write such things. Nothing at all
        stands for `{}`. Raises `InvalidArguments`, which tells all that is wrong; a validator of the user's own may
        raise what it likes.
        """
        given = _object(arguments_json)
        problems = [f"there is no argument {_shown(name)}" for name in given if name not in self.adapters]
        values: dict[str, Any] = {}
        for name, adapter in self.adapters.items():
            if name in given:
                try:
                    # As JSON, and not as Python objects: types that are strict take a date from JSON's string only.
                    values[name] = adapter.validate_json(to_json(given[name]))
                except ValidationError as error:
                    problems += [_problem(name, details) for details in error.errors(include_url=False)]
            elif name in self.schema["required"]:
                problems.append(f"{name} is missing")
        if problems:
            raise _wrong(problems, f"The arguments are: {', '.join(self.adapters) or 'none'}")
        return values


def read_parameters(function: Callable[..., Any], *, bound: bool, owner: type | None, context: type) -> Parameters:
    """Read a function's signature and docstring.

    `bound`: its first parameter (`self`) is given. `owner`: the class whose body it was written in, where names of
    types are looked up before those of its module. Parameters of the type `context` are to be filled in. Raises
    TypeError, which says where the function is, for a parameter that an LLM cannot be told of.
    """
    where = located(function)
    summary, told = _documented(function)
    filled, adapters, required = [], {}, []
    definitions = Definitions(where)
    properties: dict[str, Any] = {}
    for parameter in list(inspect.signature(function).parameters.values())[1 if bound else 0 :]:
        name = parameter.name
        annotation = _annotation(function, parameter, owner, context)
        if _is_context(annotation, context):
            filled.append(name)
            continue
        adapters[name], schema = _adapter(annotation, where, name)
        properties[name] = {**flattened(schema, definitions), **told.get(name, {}), **_default(parameter)}
        if parameter.default is parameter.empty:
            required.append(name)
    whole: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    whole["additionalProperties"] = False
    if definitions.kept:
        whole["$defs"] = definitions.kept
    return Parameters(summary, whole, tuple(filled), adapters)


def located(function: Any) -> str:
    """Where a function is, for errors: "shop.Receptionist.book"."""
    return f"{function.__module__}.{function.__qualname__}"


class _Generator(GenerateJsonSchema):
    """Leaves out defaults that are not JSON, without a warning: the function has them all the same."""

    def emit_warning(self, kind: JsonSchemaWarningKind, detail: str) -> None:
        """Says nothing of them."""
        if kind != "non-serializable-default":
            super().emit_warning(kind, detail)


def _documented(function: Callable[..., Any]) -> tuple[str, dict[str, dict[str, str]]]:
    """The docstring's text, and the description of each parameter."""
    text = inspect.getdoc(function) or ""
    try:
        parsed = docstring_parser.parse(text)
    except docstring_parser.ParseError:
        return text, {}  # in no known style: all of it is the function's description
    told = {each.arg_name: " ".join((each.description or "").split()) for each in parsed.params}
    return (parsed.description or "").strip(), {name: {"description": words} for name, words in told.items() if words}


def _annotation(
    function: Callable[..., Any], parameter: inspect.Parameter, owner: type | None, context: type
) -> object:
    """The parameter's type, evaluated."""
    _check(function, parameter)
    where, name = located(function), parameter.name
    # CallContext is known by its name alone, too: linters move an import that only annotations use to TYPE_CHECKING.
    names = {context.__name__: context, **getattr(inspect.unwrap(function), "__globals__", {})}
    nested = {key: value for key, value in vars(owner).items() if _is_type(value)} if owner else {}
    holder = types.SimpleNamespace(__annotations__={name: parameter.annotation})
    try:
        annotation: object = typing.get_type_hints(holder, names, nested, include_extras=True)[name]
    except NameError as error:
        raise TypeError(
            f"{where}: the annotation {parameter.annotation!r} of the parameter {name!r} names {error.name!r}, which "
            "is neither in its module nor in its class: define it there, and not in a function or `if TYPE_CHECKING:`"
        ) from error
    except Exception as error:
        raise TypeError(
            f"{where}: the annotation {parameter.annotation!r} of the parameter {name!r} is no type: {error}"
        ) from error
    # `size: str = None`, as it was once written for `str | None`.
    return typing.Optional[annotation] if parameter.default is None else annotation  # noqa: UP045


def _is_type(value: object) -> bool:
    return isinstance(value, type) or typing.get_origin(value) is not None


def _check(function: Callable[..., Any], parameter: inspect.Parameter) -> None:
    """Raise TypeError for a parameter that cannot be given by name, or says nothing of its type."""
    where, name = located(function), parameter.name
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise TypeError(
            f"{where}: an LLM cannot be told of *{name}: give each parameter a name, or take a list or dict"
        )
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise TypeError(f"{where}: the parameter {name!r} cannot be given by name: remove the / after it")
    if parameter.annotation is parameter.empty:
        hint = "give the method of an instance" if name == "self" else f"annotate it, as in `{name}: str`"
        raise TypeError(f"{where}: the parameter {name!r} has no annotation: {hint}")
    if isinstance(parameter.default, FieldInfo):
        raise TypeError(f"{where}: the default of {name!r} is a Field: write {name}: Annotated[…, Field(…)] = …")


def _adapter(annotation: object, where: str, name: str) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    """What reads an argument of this type, and the type's JSON schema."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(cast(Any, annotation))
        return adapter, adapter.json_schema(schema_generator=_Generator)
    except Exception as error:  # pydantic's own errors, TypeErrors of its constraints, what a user's type raises
        why = str(getattr(error, "message", error)).partition("\n")[0]
        raise TypeError(f"{where}: an LLM cannot give the parameter {name!r} its type: {why}") from error


def _is_context(annotation: object, context: type) -> bool:
    """Whether the type is that of the context; `CallContext | None` and Annotated count."""
    return annotation is context or any(_is_context(part, context) for part in _alternatives(annotation))


def _alternatives(annotation: object) -> tuple[object, ...]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return typing.get_args(annotation)[:1]
    return typing.get_args(annotation) if origin in (typing.Union, types.UnionType) else ()


def _default(parameter: inspect.Parameter) -> dict[str, Any]:
    """The default as JSON, if it can be that."""
    if parameter.default is parameter.empty:
        return {}
    try:
        return {"default": from_json(to_json(parameter.default, inf_nan_mode="strings"))}
    except ValueError:
        return {}  # an object of the user's own: the function has it, the LLM need not know it


def _object(arguments_json: str) -> dict[str, Any]:
    """The JSON object that the text holds."""
    try:
        given = from_json(arguments_json) if arguments_json.strip() else {}
    except (ValueError, TypeError) as error:  # TypeError: the text is not valid Unicode
        raise _wrong([f"they are not JSON ({error})"], "Write one JSON object") from None
    if not isinstance(given, dict):
        raise _wrong([f"they are {_shown(given)}, which is no JSON object"], "Write one JSON object")
    return given


def _wrong(problems: list[str], remedy: str) -> InvalidArguments:
    listed = "; ".join(problems[:_MAX_PROBLEMS])
    more = len(problems) - _MAX_PROBLEMS
    listed += f"; and {more} more" if more > 0 else ""
    return InvalidArguments(f"The function was not called: its arguments are wrong: {listed}. {remedy}.")


def _problem(name: str, details: ErrorDetails) -> str:
    """What is wrong with an argument, or with a part of it, in words for the LLM."""
    path = ".".join(str(part) for part in (name, *details["loc"]))
    if details["type"] == "missing":
        return f"{path} is missing"
    message = details["msg"]
    return f"{path} is {_shown(details['input'])}: {message[:1].lower()}{message[1:]}"


def _shown(value: object) -> str:
    """A value as JSON, shortened."""
    text = to_json(value, fallback=repr).decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"

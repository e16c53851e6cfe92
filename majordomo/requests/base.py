"""The base class of requests, and what follows from the declaration of their fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from typing import Any, ClassVar, Self, get_args

from majordomo.errors import InvalidRequestError
from majordomo.requests.fields import Field, shorten
from majordomo.settings import Limits


class BaseRequest:
    """A request: content in its first field, and settings with a default in all others.

    Its subclasses are frozen dataclasses.
    """

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def __post_init__(self) -> None:
        for name, default, convert in declaration(type(self)).conversions:
            value = getattr(self, name)
            if value is not default:
                object.__setattr__(self, name, convert(name, value))

    def apply(self, *options: Callable[[Self], Self]) -> Self:
        """Return the request changed by each option in turn."""
        request = self
        for option in options:
            request = option(request)
        return request

    def override(self, **changes: Any) -> Self:
        """Return a copy with these fields set; None resets a field to its default.

        Setting one of several fields that exclude each other unsets the others.

        Raises:
            TypeError: A keyword is not a field of the request.
        """
        if not changes:
            return self
        declared = declaration(type(self))
        values = {
            name: declared.defaults.get(name) if value is None else value
            for name, value in changes.items()
        }
        return replace(self, **declared.with_excluded_unset(values))

    def with_defaults(self, options: Sequence[Callable[[Self], Self]]) -> Self:
        """Return this request with the options of the model as defaults.

        Fields that this request sets override what the options set. An option may change the
        content.
        """
        if not options:
            return self
        declared = declaration(type(self))
        # Only the subclasses have fields.
        blank = type(self)(getattr(self, declared.content))  # type: ignore[call-arg]
        own_values = {name: getattr(self, name) for name in fields_set(self)}
        return replace(blank.apply(*options), **declared.with_excluded_unset(own_values))

    def to_dict(self) -> dict[str, Any]:
        """Return the content and the fields that are set as JSON values.

        Images and files are included as base64. A tool keeps its name, description and parameters,
        not its function, and a type for structured output becomes its JSON schema.
        """
        declared = declaration(type(self))
        return {
            name: declared.fields[name].to_json(getattr(self, name))
            for name in (declared.content, *fields_set(self))
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Create a request from the values that `to_dict` returned.

        Raises:
            InvalidRequestError: A name is not that of a field, or a value does not have the form
                that `to_dict` returns. Ranges are checked when the request is sent.
        """
        declared, defaults = declaration(cls).fields, declaration(cls).defaults
        loaded: dict[str, Any] = {}
        for name in declared:
            if defaults[name] is MISSING and name not in values:
                raise InvalidRequestError(f"the request has no {name}", field=name)
        for name, value in values.items():
            if name not in declared:
                raise InvalidRequestError(
                    f"a request has no field {shorten(name)}; use {', '.join(declared)}",
                    field=str(name)[:80],
                )
            try:
                loaded[name] = declared[name].from_json(value)
            except InvalidRequestError as error:
                raise InvalidRequestError(
                    f"{name}: {error.message}", field=name, code=error.code
                ) from None
            except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
                raise InvalidRequestError(
                    f"{name} must have the form that to_dict returns; reading it failed with"
                    f" {type(error).__name__}",
                    field=name,
                ) from None
        return cls(**loaded)


class Declaration:
    """What the fields of a class of requests declare.

    Args:
        kind: The class, a dataclass with a `Field` in the annotation of each field.
    """

    __slots__ = (
        *("checks", "content", "conversions", "defaults", "exclusions", "fields", "settings"),
    )

    def __init__(self, kind: type[BaseRequest]) -> None:
        self.fields: dict[str, Field] = {}
        self.defaults: dict[str, Any] = {}
        for item in fields(kind):
            for metadata in get_args(item.type)[1:]:
                if isinstance(metadata, Field):
                    self.fields[item.name] = metadata
                    self.defaults[item.name] = (
                        item.default if item.default_factory is MISSING else item.default_factory()
                    )
        self.content: str = next(iter(self.fields))
        # Lists of what the hot path reads: names with defaults and methods.
        self.settings: list[tuple[str, Any]] = list(self.defaults.items())[1:]
        self.conversions: list[tuple[str, Any, Callable[[str, Any], Any]]] = [
            (name, self.defaults[name], field.convert)
            for name, field in self.fields.items()
            if type(field).convert is not Field.convert
        ]
        self.checks: list[tuple[str, Any, Callable[[str, Any, Limits], None]]] = [
            (name, self.defaults[name], field.check)
            for name, field in self.fields.items()
            if type(field).check is not Field.check
        ]
        self.exclusions: list[tuple[str, tuple[str, ...]]] = [
            (name, field.excludes) for name, field in self.fields.items() if field.excludes
        ]

    def with_excluded_unset(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return these values, and the defaults of the other fields that they exclude."""
        if not self.exclusions:
            return values
        unset = {
            other: self.defaults[other]
            for name, others in self.exclusions
            if values.get(name)
            for other in others
        }
        return {**unset, **values} if unset else values


_DECLARATIONS: dict[type, Declaration] = {}


def declaration(kind: type[BaseRequest]) -> Declaration:
    """Return what the fields of a class of requests declare; read at its first use."""
    known = _DECLARATIONS.get(kind)
    if known is None:
        known = _DECLARATIONS[kind] = Declaration(kind)
    return known


def fields_set(request: BaseRequest) -> tuple[str, ...]:
    """Return the names of the fields, other than the content, that are not at their default."""
    return tuple(
        name
        for name, default in declaration(type(request)).settings
        if getattr(request, name) != default
    )


def check_fields(request: BaseRequest, limits: Limits) -> None:
    """Raise InvalidRequestError for the first field whose value no backend can accept."""
    for name, default, check in declaration(type(request)).checks:
        value = getattr(request, name)
        if value is not default:
            check(name, value, limits)

"""The base class of requests, and what follows from the declaration of their fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Self, get_args

from majordomo.requests.fields import Field
from majordomo.settings import Limits


@dataclass(frozen=True, slots=True)
class BaseRequest:
    """A request: content in its first field, and settings with a default in all others."""

    def __post_init__(self) -> None:
        for name, convert in declaration(type(self)).conversions:
            object.__setattr__(self, name, convert(name, getattr(self, name)))

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
        blank = type(self)(getattr(self, declared.content))  # type: ignore[call-arg]  # its subclasses have fields
        own_values = {name: getattr(self, name) for name in fields_set(self)}
        return replace(blank.apply(*options), **declared.with_excluded_unset(own_values))


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the fields of a class of requests declare."""

    content: str
    """Name of the first field."""
    fields: Mapping[str, Field]
    """The fields by name, in their order."""
    defaults: Mapping[str, Any]
    """The defaults of all fields but the content."""
    conversions: Sequence[tuple[str, Callable[[str, Any], Any]]]
    """The fields that are converted when a request is created."""
    checks: Sequence[tuple[str, Any, Callable[[str, Any, Limits], None]]]
    """Name, default and check of the fields that are checked before a request is sent."""
    exclusions: Sequence[tuple[str, tuple[str, ...]]]
    """The fields that exclude others."""

    def with_excluded_unset(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return these values, and the defaults of the other fields that they exclude."""
        unset = {
            other: self.defaults[other]
            for name, others in self.exclusions
            if values.get(name)
            for other in others
        }
        return {**unset, **values} if unset else values

    def optional(self) -> Iterable[str]:
        """Return the names of the fields that a backend may lack."""
        return (name for name, item in self.fields.items() if not item.universal)


_DECLARATIONS: dict[type, Declaration] = {}


def declaration(kind: type[BaseRequest]) -> Declaration:
    """Return what the fields of a class of requests declare."""
    known = _DECLARATIONS.get(kind)
    if known is None:
        known = _DECLARATIONS[kind] = _read_declaration(kind)
    return known


def _read_declaration(kind: type[BaseRequest]) -> Declaration:
    declared = {
        item.name: (metadata, item)
        for item in fields(kind)
        for metadata in get_args(item.type)[1:]
        if isinstance(metadata, Field)
    }
    defaults = {
        name: item.default if item.default_factory is MISSING else item.default_factory()
        for name, (_, item) in declared.items()
    }
    content, *_ = declared
    return Declaration(
        content,
        {name: metadata for name, (metadata, _) in declared.items()},
        {name: default for name, default in defaults.items() if name != content},
        [
            (name, metadata.convert)
            for name, (metadata, _) in declared.items()
            if type(metadata).convert is not Field.convert
        ],
        [
            (name, defaults[name], metadata.check)
            for name, (metadata, _) in declared.items()
            if type(metadata).check is not Field.check
        ],
        [
            (name, metadata.excludes)
            for name, (metadata, _) in declared.items()
            if metadata.excludes
        ],
    )


def fields_set(request: BaseRequest) -> tuple[str, ...]:
    """Return the names of the fields, other than the content, that are not at their default."""
    defaults = declaration(type(request)).defaults
    return tuple(name for name, default in defaults.items() if getattr(request, name) != default)


def check_fields(request: BaseRequest, limits: Limits) -> None:
    """Raise InvalidRequestError for the first field whose value no backend can accept."""
    for name, default, check in declaration(type(request)).checks:
        value = getattr(request, name)
        if value is not default:
            check(name, value, limits)

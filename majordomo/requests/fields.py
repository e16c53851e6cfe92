"""Declarations of request fields.

The annotation of each field of a request holds one `Field`:

```python
steps: Annotated[int | None, Integer(1, 1000, example=24)] = None
```

From this line and the documentation below it follow the check, the value that observers receive,
the JSON form, the keyword and the option function (`scripts/request-options` writes both), the row
of the support tables, and the warning of every codec that does not name the field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict, Unpack

from majordomo.errors import InvalidRequestError
from majordomo.settings import Limits
from majordomo.validation import as_extra, check_number, check_text, check_user_id

Observed = Literal["value", "count", "presence", "no"]

if TYPE_CHECKING:
    Bound = float | Callable[[Limits], float]

    class Settings(TypedDict, total=False):
        """The arguments of `Field`."""

        observed: Observed
        universal: bool
        excludes: tuple[str, ...]
        option: str
        example: Any


class Field:
    """How one field of a request behaves. Subclasses check and convert its values.

    A field at its default is neither checked nor sent.

    Args:
        observed: What observers receive of a set field: its value, its length, True, or nothing.
            By default, what suits the kind of field; never text of users.
        universal: Whether all codecs handle the field, or refuse it. Any other field is dropped,
            with a warning, by each codec that does not name it.
        excludes: Fields that setting this one unsets.
        option: Name of the option function after `with_`, if it is not that of the field.
        example: A value that backends accept, for tables and tests. None if there is none that fits
            on a line.
    """

    # Not a dataclass: creating one takes half a millisecond of the time to import the package.
    __slots__ = ("example", "excludes", "observed", "option", "universal")

    def __init__(
        self,
        *,
        observed: Observed | None = None,
        universal: bool = False,
        excludes: tuple[str, ...] = (),
        option: str = "",
        example: Any = None,
    ) -> None:
        self.observed: Observed = observed or self.usually_observed
        self.universal: bool = universal
        self.excludes: tuple[str, ...] = excludes
        self.option: str = option
        self.example: Any = example

    usually_observed: ClassVar[Observed] = "value"
    """What observers receive if the declaration does not say it."""
    keyword_type: ClassVar[str] = ""
    """Type of the keyword, if it accepts more than the type of the field."""
    item_type: ClassVar[str] = ""
    """Type of one item, if the option function accepts any number of them."""

    def convert(self, name: str, value: Any) -> Any:
        """Return the value to store in a new request. Raises InvalidRequestError."""
        return value

    def check(self, name: str, value: Any, limits: Limits) -> None:
        """Raise InvalidRequestError if no backend can accept the value."""

    def to_json(self, value: Any) -> Any:
        """Return a set value as JSON values."""
        return value

    def from_json(self, value: Any) -> Any:
        """Return the value whose JSON form this is; anything may be raised for another value."""
        return value


class Number(Field):
    """A finite number from `low` to `high`, which may depend on the limits, or None."""

    __slots__ = ("high", "low")

    integer: ClassVar[bool] = False

    def __init__(self, low: Bound, high: Bound, **settings: Unpack[Settings]) -> None:
        super().__init__(**settings)
        self.low: Bound = low
        self.high: Bound = high

    def check(self, name: str, value: Any, limits: Limits) -> None:
        """Check that the value is a number between the bounds."""
        low, high = self.bounds(limits)
        check_number(name, value, low, high, integer=self.integer)

    def bounds(self, limits: Limits) -> tuple[float, float]:
        """Return the smallest and the largest value."""
        low, high = self.low, self.high
        return low(limits) if callable(low) else low, high(limits) if callable(high) else high


class Integer(Number):
    """An integer between two bounds, or None."""

    __slots__ = ()

    integer: ClassVar[bool] = True


class Prose(Field):
    """Text of up to `Limits.max_prompt_characters` characters."""

    __slots__ = ()

    usually_observed: ClassVar[Observed] = "no"

    def check(self, name: str, value: Any, limits: Limits) -> None:
        """Check the length, and that the text can be encoded."""
        check_text(value, name, limits.max_prompt_characters)


class Name(Field):
    """A name that backends define: up to 100 printable characters."""

    __slots__ = ()

    max_characters: ClassVar[int] = 100

    def check(self, name: str, value: Any, limits: Limits) -> None:
        """Check the length and the characters."""
        check_text(value, name, self.max_characters)
        if not value.isprintable():
            raise InvalidRequestError(f"{name} must not contain control characters", field=name)


class Choice(Field):
    """One of a few texts; "" is none of them."""

    __slots__ = ("values",)

    def __init__(self, values: tuple[str, ...], **settings: Unpack[Settings]) -> None:
        super().__init__(**settings)
        self.values: tuple[str, ...] = values

    def check(self, name: str, value: Any, limits: Limits) -> None:
        """Check that the value is one of the texts."""
        if value not in ("", *self.values):
            raise InvalidRequestError(
                f"{name} must be one of {', '.join(self.values)}; got {shorten(value)}", field=name
            )


class Extra(Field):
    """Values merged into the request body. Their names are checked when a request is created."""

    __slots__ = ()

    usually_observed: ClassVar[Observed] = "no"

    def convert(self, name: str, value: Any) -> Any:
        """Return the mapping if all its keys are str."""
        return as_extra(value)

    def to_json(self, value: Any) -> dict[str, Any]:
        """Return a copy."""
        return dict(value)


class UserId(Field):
    """The end-user id, which is never sent to a backend."""

    __slots__ = ()

    usually_observed: ClassVar[Observed] = "no"

    def check(self, name: str, value: Any, limits: Limits) -> None:
        """Check the length and the characters."""
        check_user_id(value)


def shorten(value: object) -> str:
    """Return the repr of a value, cut to a length that suits an error message."""
    return repr(value)[:80]

from __future__ import annotations

import linecache
import warnings
from collections.abc import Callable

import pytest

from majordomo.errors import MajordomoDeprecationWarning, warn_deprecated

MESSAGE = (
    "old_name() is deprecated since majordomo 0.2.0 and will be removed in 0.4.0; "
    "use new_name() instead"
)


def old_name() -> None:
    warn_deprecated("old_name()", since="0.2.0", removed_in="0.4.0", instead="new_name()")


def old_name_with_helper() -> None:
    def warn() -> None:
        warn_deprecated(
            "old_name()", since="0.2.0", removed_in="0.4.0", instead="new_name()", stacklevel=3
        )

    warn()


def test_the_message_names_the_versions_and_the_replacement() -> None:
    with pytest.warns(MajordomoDeprecationWarning) as caught:
        old_name()
    assert [str(warning.message) for warning in caught] == [MESSAGE]


def test_the_category_is_a_deprecation_warning() -> None:
    assert issubclass(MajordomoDeprecationWarning, DeprecationWarning)


@pytest.mark.parametrize("deprecated", [old_name, old_name_with_helper])
def test_the_warning_points_at_the_line_that_used_the_name(
    deprecated: Callable[[], None],
) -> None:
    with pytest.warns(MajordomoDeprecationWarning) as caught:
        deprecated()
    (warning,) = caught
    assert warning.filename == __file__
    assert linecache.getline(__file__, warning.lineno).strip() == "deprecated()"


def test_the_category_can_be_turned_into_an_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", MajordomoDeprecationWarning)
        with pytest.raises(MajordomoDeprecationWarning, match="use new_name"):
            old_name()

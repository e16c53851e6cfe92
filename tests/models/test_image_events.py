from __future__ import annotations

import pytest

import majordomo as md
from majordomo.imagegen import ImageEvent, Loading, Preview, Queued, Step
from majordomo.models.image_model import EventOrderFilter

IMAGE = md.ImagePart.from_base64(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
CASES: dict[str, tuple[list[ImageEvent], list[ImageEvent]]] = {
    "in order": (
        [Queued(2), Queued(1), Loading("a"), Step(1, 3), Preview(IMAGE), Step(3, 3)],
        [Queued(2), Queued(1), Loading("a"), Step(1, 3), Preview(IMAGE), Step(3, 3)],
    ),
    "late events": ([Step(1, 3), Queued(1), Loading(), Step(2, 3)], [Step(1, 3), Step(2, 3)]),
    "a queue position after loading": (
        [Loading("a"), Queued(1), Loading("b")],
        [Loading("a"), Loading("b")],
    ),
    "repeated events": ([Queued(1), Queued(1), Step(1, 3), Step(1, 3)], [Queued(1), Step(1, 3)]),
    "steps that go back": ([Step(5, 9), Step(2, 9), Step(6, 9)], [Step(5, 9), Step(6, 9)]),
}


@pytest.mark.parametrize(("emitted", "expected"), CASES.values(), ids=CASES.keys())
def test_events_are_emitted_in_the_common_order(
    emitted: list[ImageEvent], expected: list[ImageEvent]
) -> None:
    received: list[ImageEvent] = []
    emit = EventOrderFilter(received.append)
    for event in emitted:
        emit(event)
    assert received == expected

"""Drawing functions for animals and people.

Coordinates and sizes are multiples of the subject's height; see `Placement.at`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from majordomo.offline.renderer.palette import RGB, lighter, mix
from majordomo.offline.renderer.placement import Placement, oval


def whale(placement: Placement) -> None:
    """Draw the back, tail and spout of a whale above the water."""
    body = placement.lit(placement.color or (62, 84, 116))
    arc = [(0.9 * math.cos(math.pi * t / 14), 0.42 * math.sin(math.pi * t / 14)) for t in range(15)]
    placement.block(placement.at(*arc), body)
    placement.flat(
        placement.at(
            (-1.0, 0.0),
            (-1.02, 0.34),
            (-1.3, 0.62),
            (-1.05, 0.56),
            (-0.92, 0.66),
            (-0.9, 0.36),
            (-0.84, 0.0),
        ),
        body,
    )
    placement.disc(0.6, 0.14, 0.03, 0.03, (10, 12, 18))
    for dx in (-0.12, -0.05, 0.05, 0.12):
        placement.stroke(
            placement.at((0.3, 0.42), (0.3 + dx * 0.6, 0.72), (0.3 + dx * 1.6, 0.78)),
            lighter(placement.stage.palette.sky[3], 0.4),
            0.02,
        )
    for index in range(4):
        placement.disc(
            -0.05,
            -0.03 - 0.04 * index,
            1.1 - 0.2 * index,
            0.014,
            lighter(body, 0.25),
            120 - 22 * index,
        )


def bird(placement: Placement) -> None:
    """Draw the two wings of a distant bird."""
    ink = placement.color or mix(placement.stage.palette.near, placement.stage.palette.sky[1], 0.2)
    flap = placement.rng.uniform(0.25, 0.6)
    for side in (-1, 1):
        wing = [
            (0, 0.0),
            (side * 0.45, flap),
            (side * 1.0, flap * 0.45),
            (side * 0.5, flap * 0.55),
            (0, -0.14),
        ]
        placement.flat(placement.at(*wing), ink)


def cat(placement: Placement) -> None:
    """Draw a sitting cat that looks at the viewer."""
    fur = placement.lit(
        placement.color or placement.rng.choice([(60, 56, 62), (220, 140, 70), (150, 140, 136)])
    )
    placement.stroke(placement.at((0.22, 0.08), (0.42, 0.1), (0.46, 0.3), (0.4, 0.4)), fur, 0.07)
    placement.block(
        [
            (placement.x + dx * placement.size, placement.y - dy * placement.size)
            for dx, dy in oval(0, 0.28, 0.25, 0.32)
        ],
        fur,
    )
    placement.block(placement.at(*oval(0, 0.7, 0.19, 0.165)), lighter(fur, 0.05))
    for side in (-1, 1):
        placement.flat(
            placement.at((side * 0.17, 0.76), (side * 0.16, 0.97), (side * 0.03, 0.84)), fur
        )
        placement.disc(side * 0.075, 0.715, 0.032, 0.036, (196, 214, 110))
        placement.disc(side * 0.075, 0.715, 0.012, 0.032, (14, 14, 18))
        placement.disc(side * 0.09, 0.02, 0.08, 0.04, lighter(fur, 0.12))
        for tilt in (-0.02, 0.02):
            placement.stroke(
                placement.at((side * 0.05, 0.64), (side * 0.26, 0.64 + tilt)),
                lighter(fur, 0.5),
                0.006,
            )
    placement.flat(placement.at((-0.022, 0.665), (0.022, 0.665), (0, 0.64)), (220, 130, 140))


def four_legged(fur: RGB, neck: float, ears: str, tail: str) -> Callable[[Placement], None]:
    """Return a function that draws a four-legged animal looking right.

    Args:
        fur: Color used when the prompt names none.
        neck: Length of the neck, in heights of the animal.
        ears: "soft", "mane" or "antlers".
        tail: "bushy", "long" or "short".
    """

    def draw(placement: Placement) -> None:
        coat = placement.lit(placement.color or fur)
        dark = mix(coat, placement.stage.palette.near, 0.35)
        head = 0.6 + neck
        for dx, shade in ((-0.27, dark), (0.2, dark), (-0.2, coat), (0.27, coat)):
            placement.flat(
                placement.at((dx - 0.035, 0), (dx - 0.05, 0.45), (dx + 0.05, 0.45), (dx + 0.03, 0)),
                shade,
            )
        if tail == "bushy":
            placement.flat(
                placement.at((-0.3, 0.5), (-0.62, 0.36), (-0.74, 0.16), (-0.5, 0.26), (-0.32, 0.4)),
                coat,
            )
        elif tail == "long":
            placement.stroke(placement.at((-0.34, 0.58), (-0.46, 0.5), (-0.47, 0.22)), dark, 0.06)
        else:
            placement.disc(-0.37, 0.54, 0.06, 0.06, lighter(coat, 0.2))
        placement.block(placement.at(*oval(0, 0.5, 0.38, 0.17)), coat)
        placement.block(
            placement.at((0.16, 0.5), (0.3, head + 0.05), (0.44, head), (0.37, 0.42)), coat
        )
        placement.block(placement.at(*oval(0.43, head, 0.15, 0.085)), coat)
        placement.disc(0.44, head + 0.025, 0.014, 0.014, (10, 10, 12))
        placement.disc(0.56, head - 0.01, 0.022, 0.02, (20, 18, 20))
        for dx in (0.31, 0.38):
            placement.flat(
                placement.at(
                    (dx - 0.035, head + 0.04), (dx - 0.02, head + 0.18), (dx + 0.05, head + 0.05)
                ),
                dark,
            )
        if ears == "antlers":
            for lean in (-0.12, 0.12):
                for fork in (0.0, 0.1):
                    placement.stroke(
                        placement.at(
                            (0.36, head + 0.06),
                            (0.36 + lean, head + 0.26),
                            (0.36 + lean * 1.6 + fork, head + 0.42),
                        ),
                        dark,
                        0.018,
                    )
        elif ears == "mane":
            placement.flat(
                placement.at((0.12, 0.56), (0.26, head + 0.12), (0.34, head + 0.06), (0.24, 0.58)),
                dark,
            )

    return draw


def sheep(placement: Placement) -> None:
    """Draw a sheep as a ball of wool on four legs."""
    wool, dark = placement.lit(placement.color or (244, 240, 230)), placement.lit((60, 54, 54))
    for dx in (-0.22, -0.1, 0.14, 0.26):
        placement.stroke(placement.at((dx, 0), (dx, 0.35)), dark, 0.06)
    for index in range(12):
        turn = index * math.pi / 6
        placement.disc(
            0.3 * math.cos(turn),
            0.5 + 0.17 * math.sin(turn),
            0.15,
            0.15,
            lighter(wool, -0.1 if math.sin(turn) < 0 else 0.05),
        )
    placement.disc(0, 0.5, 0.32, 0.2, wool)
    placement.disc(0.45, 0.62, 0.12, 0.16, dark)
    placement.disc(0.36, 0.72, 0.07, 0.03, dark)


def rabbit(placement: Placement) -> None:
    """Draw a sitting rabbit that looks right."""
    fur = placement.lit(placement.color or (178, 150, 126))
    for dx in (-0.07, 0.05):
        placement.flat(placement.at(*oval(dx + 0.12, 0.86, 0.045, 0.17)), lighter(fur, -0.1))
        placement.flat(placement.at(*oval(dx + 0.12, 0.85, 0.02, 0.12)), (226, 168, 166))
    placement.block(placement.at(*oval(-0.05, 0.26, 0.32, 0.27)), fur)
    placement.block(placement.at(*oval(0.14, 0.6, 0.17, 0.15)), fur)
    placement.disc(-0.36, 0.2, 0.085, 0.085, lighter(fur, 0.5))
    placement.disc(0.2, 0.63, 0.022, 0.026, (14, 12, 14))
    placement.disc(0.18, 0.04, 0.15, 0.05, fur)


def person(placement: Placement) -> None:
    """Draw a standing person in a coat."""
    coat, dark = (
        placement.lit(placement.color or placement.stage.palette.accent),
        mix(placement.stage.palette.near, (40, 36, 44), 0.4),
    )
    for dx in (-0.06, 0.06):
        placement.flat(
            placement.at((dx - 0.045, 0), (dx - 0.04, 0.46), (dx + 0.04, 0.46), (dx + 0.045, 0)),
            dark,
        )
    placement.block(placement.at((-0.16, 0.32), (-0.11, 0.8), (0.11, 0.8), (0.16, 0.32)), coat)
    for side in (-1, 1):
        placement.stroke(
            placement.at((side * 0.1, 0.77), (side * 0.19, 0.58), (side * 0.17, 0.42)),
            lighter(coat, -0.2),
            0.06,
        )
    placement.disc(0, 0.9, 0.085, 0.1, placement.lit((224, 180, 150)))
    placement.disc(0, 0.94, 0.09, 0.07, dark)

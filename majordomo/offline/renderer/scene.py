"""Prompt parsing: time of day, weather, season, location, subjects and colors from known words.

Nothing here draws.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from majordomo.offline.renderer.palette import (
    PALETTES,
    RGB,
    Palette,
    find_color,
    lighter,
    mix,
    rng_for,
    rotate_hue,
    tint,
)

# Words after this are not parsed. The hash of the prompt always covers its full length.
MAX_READ_CHARS = 20_000


def _words(table: str) -> dict[str, str]:
    """Parse lines of the form "meaning: synonym synonym" into a map from each word to its meaning.

    A meaning is also a word for itself.
    """
    rows = (line.split(":") for line in table.strip().splitlines())
    return {
        word: meaning.strip()
        for meaning, words in rows
        for word in (meaning.strip(), *words.split())
    }


TIMES = _words("""
    dawn: sunrise daybreak
    morning: breakfast
    day: noon midday daytime daylight sunny
    golden: afternoon warm
    sunset: sundown
    dusk: twilight evening gloaming
    night: midnight nighttime nocturnal moonlit moonlight starry dark
""")
WEATHER = _words("""
    rain: rainy raining drizzle wet
    snow: snowy snowing blizzard snowfall
    fog: foggy mist misty haze hazy
    storm: stormy thunder thunderstorm lightning tempest
    clouds: cloud cloudy overcast
    clear: cloudless
""")
SEASONS = _words("""
    spring: blossom april
    summer: july august
    autumn: fall october november autumnal
    winter: december january ice icy frozen
""")
LOCATIONS = _words("""
    sea: ocean coast coastal shore bay harbour harbor seaside wave waves
    sea: island cliff cliffs water seascape
    beach: lagoon tropical
    lake: river pond fjord
    mountains: mountain peak peaks alps alpine summit volcano
    hills: hill valley countryside landscape farm field meadow garden park village prairie
    forest: woods wood jungle woodland
    desert: dune dunes sahara sand
    city: skyline downtown town street metropolis cyberpunk skyscraper
    space: galaxy cosmos nebula universe planetary outer
    abstract: geometric pattern bauhaus cubist cubism
    abstract: minimal minimalist composition shapes
""")
SUBJECTS = _words("""
    lighthouse: beacon
    house: cottage home cabin hut farmhouse barn
    castle: fortress palace
    windmill: mill
    tower: campanile chapel church temple
    tree: oak apple maple birch
    pine: fir spruce conifer christmas
    palm: coconut
    cactus: saguaro
    boat: sailboat yacht sailing
    ship: steamer ferry vessel
    whale: orca
    bird: gull seagull swallow crow raven
    cat: kitten kitty
    dog: puppy wolf
    fox: vixen
    horse: pony
    deer: stag elk moose
    sheep: lamb
    rabbit: bunny hare
    person: man woman girl boy child human knight astronaut traveller robot
    flower: rose tulip poppy daisy sunflower wildflower
    balloon: airship
    rocket: spaceship spacecraft
    tent: camp camping
    mushroom: toadstool
    bridge: viaduct
    planet: saturn jupiter
    moon: lunar crescent
    sun: sunshine
    star: stars
    rainbow: rainbows
""")
# The location that a subject implies when the prompt names none.
DEFAULT_LOCATIONS = {
    "lighthouse": "sea",
    "boat": "sea",
    "ship": "sea",
    "whale": "sea",
    "palm": "beach",
    "cactus": "desert",
    "bridge": "lake",
}
DEFAULT_LOCATIONS |= {
    "castle": "mountains",
    "pine": "mountains",
    "tent": "mountains",
    "deer": "forest",
    "fox": "forest",
    "mushroom": "forest",
}
DEFAULT_LOCATIONS |= {"rocket": "space", "planet": "space"}
FILLERS = frozenset(
    (
        "a",
        "an",
        "the",
        "at",
        "in",
        "on",
        "of",
        "and",
        "or",
        "with",
        "by",
        "to",
        "from",
        "over",
        "under",
        "near",
        "some",
        "very",
    )
)


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that the prompt names and the image shows."""

    name: str
    """A key of `DRAWABLES`, or "sun", "moon" or "star"."""
    color: RGB | None = None
    """The color named directly before the subject."""
    many: bool = False
    """Whether the prompt uses the plural."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A parsed prompt. What the prompt leaves open was decided by random numbers seeded from it."""

    hour: str
    """A key of `PALETTES`, such as "dusk"."""
    weather: str
    """A value of `WEATHER`, or "fair"."""
    season: str
    """A value of `SEASONS`."""
    location: str
    """A value of `LOCATIONS`."""
    subjects: tuple[Subject, ...]
    """Subjects in the order in which the prompt names them, at most 8."""
    colors: tuple[RGB, ...]
    """Colors that belong to no subject and tint the entire image, at most 3."""
    excluded: frozenset[str]
    """Meanings that the negative prompt excludes."""
    palette: Palette
    """The colors of the scene."""

    def has(self, name: str) -> bool:
        """Return whether the scene has a subject with this name."""
        return any(subject.name == name for subject in self.subjects)


def read_scene(
    prompt: str, negative: str, seed: int, background: str = "", guidance: float = 1.0
) -> Scene:
    """Parse a prompt.

    Args:
        prompt: What to draw.
        negative: What to exclude.
        seed: Decides, with the prompt, what the prompt leaves open.
        background: A color name, "#rrggbb", or any other text, whose hash gives the color. Empty,
            "auto", "opaque" and "transparent" have no effect on the palette.
        guidance: Strength of the prompt, 1 for the default cfg_scale. The lower it is, the more
            the colors follow the hash of the words instead of their meaning.
    """
    words = _split_words(prompt)
    unwanted = _split_words(negative)
    excluded = frozenset(
        meaning
        for word in unwanted
        for table in (TIMES, WEATHER, LOCATIONS, SUBJECTS)
        if (meaning := _look_up(table, word))
    )
    # Every decision uses its own generator, so that excluding one thing does not change the others.
    subjects = _find_subjects(words, excluded)
    colors = _scene_colors(words)
    named = [subject.name for subject in _find_subjects(words, frozenset())]
    location = _first_match(LOCATIONS, words, excluded) or next(
        (
            DEFAULT_LOCATIONS[name]
            for name in named
            if DEFAULT_LOCATIONS.get(name, "") not in ("", *excluded)
        ),
        "",
    )
    if not location:
        locations = (
            ["hills", "mountains", "lake"]
            if named
            else ["hills", "mountains", "lake", "forest", "abstract", "sea"]
        )
        location = _pick("place", locations, excluded, prompt, seed)
    hour = _first_match(TIMES, words, excluded)
    if not hour and (
        location == "space" or any(subject.name in ("moon", "star") for subject in subjects)
    ):
        hour = "night"
    hour = hour or _pick(
        "hour", ["dawn", "morning", "day", "golden", "sunset", "dusk"], excluded, prompt, seed
    )
    weather = _first_match(WEATHER, words, excluded) or (
        "clear"
        if "clouds" in excluded
        else _pick("weather", ["fair", "fair", "clouds"], excluded, prompt, seed)
    )
    season = _first_match(SEASONS, words, excluded) or ("winter" if weather == "snow" else "summer")
    palette = _palette(hour, weather, season, location, colors, words, unwanted, seed, guidance)
    tone = find_color(background.lower().strip())
    if tone is None and background.lower() not in ("", "auto", "opaque", "transparent"):
        tone = rotate_hue((90, 140, 200), rng_for("background", background).uniform(0, 360))
    if tone is not None:
        palette = palette.map_colors(lambda color: mix(color, tone, 0.12))
        palette = replace(
            palette,
            sky=(tone, mix(tone, palette.sky[1], 0.1), lighter(tone, 0.12), lighter(tone, 0.25)),
        )
    return Scene(hour, weather, season, location, subjects, tuple(colors), excluded, palette)


def _pick(what: str, choices: list[str], excluded: frozenset[str], prompt: str, seed: int) -> str:
    return rng_for(what, prompt, seed).choice(
        [choice for choice in choices if choice not in excluded] or choices
    )


def _split_words(text: str) -> list[str]:
    return re.findall(r"#[0-9a-f]{6}|[^\W_]+", text[:MAX_READ_CHARS].lower())


def _look_up(table: Mapping[str, str], word: str) -> str:
    for form in (
        word,
        word.removesuffix("s"),
        word.removesuffix("es"),
        word.removesuffix("ies") + "y",
    ):
        if form in table:
            return table[form]
    return ""


def _first_match(table: Mapping[str, str], words: list[str], excluded: frozenset[str]) -> str:
    return next(
        (
            meaning
            for word in words
            if (meaning := _look_up(table, word)) and meaning not in excluded
        ),
        "",
    )


def _find_subjects(words: list[str], excluded: frozenset[str]) -> tuple[Subject, ...]:
    subjects: dict[str, Subject] = {}
    for index, word in enumerate(words):
        name = _look_up(SUBJECTS, word)
        if name and name not in excluded:
            color = find_color(words[index - 1]) if index else None
            subjects.setdefault(
                name, Subject(name, color, many=word.endswith("s") and word not in SUBJECTS)
            )
    return tuple(subjects.values())[:8]


def _scene_colors(words: list[str]) -> list[RGB]:
    """Return the first three colors that belong to no subject."""
    scene_colors = []
    for index, word in enumerate(words):
        color = find_color(word)
        follower = words[index + 1] if index + 1 < len(words) else ""
        if (
            color is not None
            and not _look_up(SUBJECTS, follower)
            and word not in SUBJECTS
            and word not in TIMES
        ):
            scene_colors.append(color)
    return scene_colors[:3]


def _palette(
    hour: str,
    weather: str,
    season: str,
    location: str,
    colors: list[RGB],
    words: list[str],
    unwanted: list[str],
    seed: int,
    guidance: float,
) -> Palette:
    palette = PALETTES[hour]
    palette = _apply_season(palette, season, location)
    if weather in ("rain", "storm", "fog"):
        gray = (70, 76, 88) if weather == "storm" else (150, 158, 168)
        share = {"rain": 0.45, "storm": 0.55, "fog": 0.5}[weather]
        light = 0.35 + 0.65 * palette.daylight
        palette = palette.map_colors(
            lambda color: mix(rotate_hue(color, 0, 0.6), lighter(gray, light - 1), share)
        )
    if colors:
        # Several colors alternate, because mixed they would give a muddy gray.
        color_cycle = itertools.cycle(colors)
        palette = palette.map_colors(
            lambda own: tint(own, next(color_cycle), min(0.85, 0.15 + 0.45 * guidance))
        )
    known = (TIMES, WEATHER, SEASONS, LOCATIONS, SUBJECTS)
    unknown = [
        word
        for word in words
        if word not in FILLERS
        and find_color(word) is None
        and not any(_look_up(t, word) for t in known)
    ]
    drift = 0.0
    if unknown:
        drift += rng_for("drift", *unknown).uniform(-24, 24)
    # A negative prompt shifts the hue in a direction that depends on its words.
    if unwanted:
        drift += rng_for("away", *unwanted).choice([-1, 1]) * rng_for("far", *unwanted).uniform(
            7, 13
        )
    drift += rng_for("hue", seed).uniform(-9, 9)
    drift += (1 - min(1.0, guidance)) * rng_for("loose", *words, seed).uniform(-70, 70)
    # Accents keep most of their hue: a red stripe should not turn brown.
    accent = rotate_hue(palette.accent, drift / 4)
    palette = replace(palette.map_colors(lambda color: rotate_hue(color, drift)), accent=accent)
    for word in unwanted:
        if (color := find_color(word)) is not None:
            palette = palette.map_colors(partial(_remove_hue, color))
    return palette


def _apply_season(palette: Palette, season: str, location: str) -> Palette:
    tints: dict[str, tuple[RGB, float]] = {
        "spring": ((128, 190, 92), 0.3),
        "autumn": ((188, 104, 40), 0.55),
        "winter": ((226, 234, 244), 0.72),
        "desert": ((222, 170, 104), 0.8),
        "beach": ((232, 206, 152), 0.65),
    }
    key = location if location in tints and season != "winter" else season
    if key not in tints:
        return palette
    season_color, share = tints[key]
    light = 0.32 + 0.68 * palette.daylight
    land = mix(
        palette.land, mix(mix(palette.near, palette.sky[2], 0.35), season_color, light), share
    )
    near = mix(palette.near, lighter(land, -0.55), 0.6)
    return replace(palette, land=land, near=near)


def _remove_hue(unwanted: RGB, own: RGB) -> RGB:
    """Return a color without the hue of `unwanted`, turned away from it and less saturated."""
    mean = sum(unwanted) / 3
    lean = [channel - mean for channel in unwanted]
    size = sum(value * value for value in lean)
    # Black, gray and white have no hue: change the lightness instead.
    if size < 100:
        return lighter(own, -0.25) if mean > 128 else lighter(own, 0.25)
    middle = sum(own) / 3
    share = sum((channel - middle) * value for channel, value in zip(own, lean, strict=True)) / size
    if share <= 0.05:
        return own
    red, green, blue = (
        round(min(255, max(0, channel - 1.4 * share * value)))
        for channel, value in zip(own, lean, strict=True)
    )
    return red, green, blue

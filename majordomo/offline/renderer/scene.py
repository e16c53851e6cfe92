"""What a prompt asks for, as far as plain words tell: hour, weather, season, place, things and colours. Nothing here draws."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from majordomo.offline.renderer.palette import (
    HOURS,
    RGB,
    Palette,
    color_named,
    dice,
    lighter,
    mix,
    tinted,
    turned,
)

READ = 20_000  # characters; a longer prompt steers by hash with its whole length, by words with this much


def _words(table: str) -> dict[str, str]:
    """Lines "meaning: word word" as word -> meaning; the meaning is one of its own words."""
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
PLACES = _words("""
    sea: ocean coast coastal shore bay harbour harbor seaside wave waves island cliff cliffs water seascape
    beach: lagoon tropical
    lake: river pond fjord
    mountains: mountain peak peaks alps alpine summit volcano
    hills: hill valley countryside landscape farm field meadow garden park village prairie
    forest: woods wood jungle woodland
    desert: dune dunes sahara sand
    city: skyline downtown town street metropolis cyberpunk skyscraper
    space: galaxy cosmos nebula universe planetary outer
    abstract: geometric pattern bauhaus cubist cubism minimal minimalist composition shapes
""")
THINGS = _words("""
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
# Where a thing is at home when the prompt names no place.
HOMES = {
    "lighthouse": "sea",
    "boat": "sea",
    "ship": "sea",
    "whale": "sea",
    "palm": "beach",
    "cactus": "desert",
    "bridge": "lake",
}
HOMES |= {
    "castle": "mountains",
    "pine": "mountains",
    "tent": "mountains",
    "deer": "forest",
    "fox": "forest",
    "mushroom": "forest",
}
HOMES |= {"rocket": "space", "planet": "space"}
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
class Thing:
    """Something to be seen in the picture, with the colour said just before it; `many` for a plural."""

    name: str
    color: RGB | None = None
    many: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """One reading of a prompt, complete: whatever it did not say has been decided by chance from its words."""

    hour: str
    weather: str
    season: str
    place: str
    things: tuple[Thing, ...]  # in the order named
    colors: tuple[RGB, ...]  # named for the picture as a whole
    absent: frozenset[str]  # meanings the negative prompt rules out
    palette: Palette

    def has(self, name: str) -> bool:
        """Whether such a thing is to be seen."""
        return any(thing.name == name for thing in self.things)


def read_scene(
    prompt: str, negative: str, seed: int, background: str = "", literal: float = 1.0
) -> Scene:
    """Read a prompt. The less `literal`, the more the colours follow the hash of the words instead of their meaning."""
    words = _split(prompt)
    unwanted = _split(negative)
    absent = frozenset(
        meaning
        for word in unwanted
        for table in (TIMES, WEATHER, PLACES, THINGS)
        if (meaning := _look_up(table, word))
    )
    # every decision rolls its own dice, so that ruling one thing out leaves the others as they were
    things = _things(words, absent)
    colors = _loose_colors(words)
    named = [thing.name for thing in _things(words, frozenset())]
    place = _first(PLACES, words, absent) or next(
        (HOMES[name] for name in named if HOMES.get(name, "") not in ("", *absent)), ""
    )
    if not place:
        places = (
            ["hills", "mountains", "lake"]
            if named
            else ["hills", "mountains", "lake", "forest", "abstract", "sea"]
        )
        place = _pick("place", places, absent, prompt, seed)
    hour = _first(TIMES, words, absent)
    if not hour and (place == "space" or any(thing.name in ("moon", "star") for thing in things)):
        hour = "night"
    hour = hour or _pick(
        "hour", ["dawn", "morning", "day", "golden", "sunset", "dusk"], absent, prompt, seed
    )
    weather = _first(WEATHER, words, absent) or (
        "clear"
        if "clouds" in absent
        else _pick("weather", ["fair", "fair", "clouds"], absent, prompt, seed)
    )
    season = _first(SEASONS, words, absent) or ("winter" if weather == "snow" else "summer")
    palette = _palette(hour, weather, season, place, colors, words, unwanted, seed, literal)
    tone = color_named(background.lower().strip())
    if tone is None and background.lower() not in ("", "auto", "opaque", "transparent"):
        tone = turned((90, 140, 200), dice("background", background).uniform(0, 360))
    if tone is not None:
        palette = palette.mapped(lambda colour: mix(colour, tone, 0.12))
        palette = replace(
            palette,
            sky=(tone, mix(tone, palette.sky[1], 0.1), lighter(tone, 0.12), lighter(tone, 0.25)),
        )
    return Scene(hour, weather, season, place, things, tuple(colors), absent, palette)


def _pick(what: str, choices: list[str], absent: frozenset[str], prompt: str, seed: int) -> str:
    return dice(what, prompt, seed).choice(
        [choice for choice in choices if choice not in absent] or choices
    )


def _split(text: str) -> list[str]:
    return re.findall(r"#[0-9a-f]{6}|[^\W_]+", text[:READ].lower())


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


def _first(table: Mapping[str, str], words: list[str], absent: frozenset[str]) -> str:
    return next(
        (meaning for word in words if (meaning := _look_up(table, word)) and meaning not in absent),
        "",
    )


def _things(words: list[str], absent: frozenset[str]) -> tuple[Thing, ...]:
    found: dict[str, Thing] = {}
    for index, word in enumerate(words):
        name = _look_up(THINGS, word)
        if name and name not in absent:
            color = color_named(words[index - 1]) if index else None
            found.setdefault(
                name, Thing(name, color, many=word.endswith("s") and word not in THINGS)
            )
    return tuple(found.values())[:8]


def _loose_colors(words: list[str]) -> list[RGB]:
    """Colours that belong to no thing colour the whole picture."""
    found = []
    for index, word in enumerate(words):
        color = color_named(word)
        follower = words[index + 1] if index + 1 < len(words) else ""
        if (
            color is not None
            and not _look_up(THINGS, follower)
            and word not in THINGS
            and word not in TIMES
        ):
            found.append(color)
    return found[:3]


def _palette(
    hour: str,
    weather: str,
    season: str,
    place: str,
    colors: list[RGB],
    words: list[str],
    unwanted: list[str],
    seed: int,
    literal: float,
) -> Palette:
    palette = HOURS[hour]
    palette = _seasoned(palette, season, place)
    if weather in ("rain", "storm", "fog"):
        gray = (70, 76, 88) if weather == "storm" else (150, 158, 168)
        share = {"rain": 0.45, "storm": 0.55, "fog": 0.5}[weather]
        light = 0.35 + 0.65 * palette.daylight
        palette = palette.mapped(
            lambda colour: mix(turned(colour, 0, 0.6), lighter(gray, light - 1), share)
        )
    if colors:
        turn = itertools.cycle(colors)  # several colours share the picture instead of mixing to mud
        palette = palette.mapped(
            lambda own: tinted(own, next(turn), min(0.85, 0.15 + 0.45 * literal))
        )
    known = (TIMES, WEATHER, SEASONS, PLACES, THINGS)
    unknown = [
        word
        for word in words
        if word not in FILLERS
        and color_named(word) is None
        and not any(_look_up(t, word) for t in known)
    ]
    drift = 0.0
    if unknown:
        drift += dice("drift", *unknown).uniform(-24, 24)
    if unwanted:  # away from what is not wanted, in a direction of its own
        drift += dice("away", *unwanted).choice([-1, 1]) * dice("far", *unwanted).uniform(7, 13)
    drift += dice("hue", seed).uniform(-9, 9)
    drift += (1 - min(1.0, literal)) * dice("loose", *words, seed).uniform(-70, 70)
    accent = turned(
        palette.accent, drift / 4
    )  # what stands out should stay what it is: a red stripe does not turn brown
    palette = replace(palette.mapped(lambda colour: turned(colour, drift)), accent=accent)
    for word in unwanted:
        if (color := color_named(word)) is not None:
            palette = palette.mapped(partial(_without, color))
    return palette


def _seasoned(palette: Palette, season: str, place: str) -> Palette:
    tints: dict[str, tuple[RGB, float]] = {
        "spring": ((128, 190, 92), 0.3),
        "autumn": ((188, 104, 40), 0.55),
        "winter": ((226, 234, 244), 0.72),
        "desert": ((222, 170, 104), 0.8),
        "beach": ((232, 206, 152), 0.65),
    }
    key = place if place in tints and season != "winter" else season
    if key not in tints:
        return palette
    tint, share = tints[key]
    light = 0.32 + 0.68 * palette.daylight
    land = mix(palette.land, mix(mix(palette.near, palette.sky[2], 0.35), tint, light), share)
    near = mix(palette.near, lighter(land, -0.55), 0.6)
    return replace(palette, land=land, near=near)


def _without(unwanted: RGB, own: RGB) -> RGB:
    """A colour that no longer leans the unwanted way: what the two share in hue is turned away and greyed."""
    mean = sum(unwanted) / 3
    lean = [channel - mean for channel in unwanted]
    size = sum(value * value for value in lean)
    if size < 100:  # black, grey, white: move the lightness instead
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

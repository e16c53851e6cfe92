"""What can be said about an image, and what its stored text claims."""

import io

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from majordomo.errors import InvalidRequestError
from majordomo.imagegen import Request
from majordomo.imaging import embed_parameters
from majordomo.media.image_part import ImagePart
from majordomo.offline.image_analysis import analyze
from majordomo.offline.renderer.palette import NAMED
from majordomo.offline.renderer.renderer import Renderer


def plain(color: str | tuple[int, ...], mode: str = "RGB") -> ImagePart:
    return ImagePart.from_pil(Image.new(mode, (40, 30), color))


def told(parameters: str) -> ImagePart:
    """An image that holds this text."""
    notes, held = PngInfo(), io.BytesIO()
    notes.add_text("parameters", parameters)
    Image.new("RGB", (2, 2)).save(held, "PNG", pnginfo=notes)
    return ImagePart(held.getvalue())


@pytest.mark.parametrize("name", sorted(NAMED))
def test_it_names_a_plain_color(name: str) -> None:
    look = analyze(plain(NAMED[name]))
    assert look.palette == ((name, 1.0),)
    assert look.contrast == 0
    assert look.mood.endswith(f"all {name}")


def test_it_measures_black_and_white() -> None:
    black, white = analyze(plain("black")), analyze(plain("white"))
    assert (black.brightness, white.brightness) == (0.0, 1.0)
    assert black.mood == "calm and dark, all black"
    assert white.mood == "calm and bright, all white"


def test_it_feels_warm_and_cold_colors() -> None:
    assert analyze(plain("orange")).warmth > 0.5
    assert analyze(plain("navy")).warmth < -0.5
    assert analyze(plain("gray")).warmth == 0


def test_it_lists_colors_by_their_share() -> None:
    image = Image.new("RGB", (40, 40), NAMED["navy"])
    image.paste(NAMED["gold"], (0, 0, 10, 40))
    look = analyze(ImagePart.from_pil(image))
    assert look.palette == (("navy", 0.75), ("gold", 0.25))
    assert look.mood.endswith("mostly navy")
    assert look.contrast > 0.4


def test_it_lists_five_colors_at_most() -> None:
    image = Image.new("RGB", (64, 32))
    for index, name in enumerate(
        ("red", "green", "navy", "gold", "white", "teal", "pink", "brown")
    ):
        image.paste(NAMED[name], (8 * index, 0, 8 * index + 8, 32))
    assert len(analyze(ImagePart.from_pil(image)).palette) == 5


def test_it_looks_only_at_what_can_be_seen() -> None:
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    image.paste((*NAMED["navy"], 255), (0, 0, 20, 40))
    look = analyze(ImagePart.from_pil(image))
    assert look.transparent
    assert look.palette == (("navy", 1.0),)


def test_it_sees_nothing_in_a_wholly_transparent_image() -> None:
    look = analyze(plain((200, 20, 20, 0), "RGBA"))
    assert (look.transparent, look.palette, look.brightness) == (True, (), 0.0)
    assert look.mood == "nothing to see, wholly transparent"


def test_it_does_not_call_an_opaque_alpha_channel_transparent() -> None:
    assert not analyze(plain((200, 20, 20, 255), "RGBA")).transparent


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_it_reads_every_kind_of_image(kind: str) -> None:
    look = analyze(ImagePart.from_pil(Image.new("RGB", (90, 20), NAMED["teal"]), kind))
    assert (look.width, look.height, look.mime) == (90, 20, f"image/{kind.lower()}")
    assert look.palette[0][0] == "teal"
    assert look.prompt is None


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16"])
def test_it_reads_every_mode_of_pixels(mode: str) -> None:
    assert analyze(ImagePart.from_pil(Image.new(mode, (9, 9)))).brightness == 0


def test_it_finds_prompt_and_seed_in_a_drawn_image() -> None:
    request = Request(
        "a lighthouse\nat dusk",
        negative_prompt="boats,\nwhales",
        sampler='odd, "sampler": 1',
        cfg_scale=4.5,
    )
    look = analyze(Renderer(request, seed=2**63 - 1, size=(64, 48), steps=3).finish())
    assert (look.prompt, look.negative_prompt, look.seed) == (
        "a lighthouse\nat dusk",
        "boats,\nwhales",
        2**63 - 1,
    )
    assert look.parameters["Sampler"] == 'odd, "sampler": 1'
    assert look.parameters["CFG scale"] == "4.5"
    assert "no neural network" in look.texts["Software"]


def test_it_reads_prompts_in_any_script() -> None:
    drawn = Renderer(Request("夕暮れの灯台 🙂"), seed=1, size=(8, 8), steps=1).finish()
    assert analyze(drawn).prompt == "夕暮れの灯台 🙂"


def test_it_reads_what_other_programs_write() -> None:
    text = (
        "a cat,\n(masterpiece:1.2), <lora:x:1>\nNegative prompt: ugly, 3 hands\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, "
        'CFG scale: 7, Seed: 123, Size: 512x768, Lora hashes: "x: 0a1b, y: 2c3d", Version: v1.10.1'
    )
    seen = analyze(told(text))
    assert seen.prompt == "a cat,\n(masterpiece:1.2), <lora:x:1>"
    assert seen.negative_prompt == "ugly, 3 hands"
    found = seen.parameters
    assert found["Lora hashes"] == "x: 0a1b, y: 2c3d"
    assert (found["Seed"], found["Sampler"], found["Version"]) == ("123", "DPM++ 2M", "v1.10.1")


GARBAGE = {
    "empty": ("", ""),
    "spaces": (" \n \t", ""),
    "one word": ("hello", "hello"),
    "only colons": (":::::", ":::::"),
    "a pair, but no settings": ("mood: calm", "mood: calm"),
    "an open quote": ('x\nSteps: 20, Sampler: "eul', "x"),
    "no prompt": ("Steps: 20, Seed: 5", ""),
    "only the negative": ("Negative prompt: boats", ""),
    "commas": (",,,,", ",,,,"),
    "long and hopeless": ("a: b, " * 20_000 + "\x01", ("a: b, " * 20_000).strip() + " \x01"),
    "JSON": ('{"prompt": "x", "seed": 1}', '{"prompt": "x", "seed": 1}'),
}


@pytest.mark.parametrize(("text", "prompt"), GARBAGE.values(), ids=GARBAGE.keys())
def test_it_survives_any_stored_text(text: str, prompt: str) -> None:
    assert analyze(told(text)).prompt == prompt


@pytest.mark.parametrize("seed", ["-1", "seven", "", "1e9", "9" * 400, "٧"])
def test_it_believes_no_seed_that_is_no_number(seed: str) -> None:
    assert analyze(told(f"x\nSteps: 1, Seed: {seed}")).seed is None


def test_it_finds_no_parameters_where_there_are_none() -> None:
    assert analyze(plain("red")).parameters == {}
    assert analyze(ImagePart.from_pil(Image.new("RGB", (3, 3)), "JPEG")).parameters == {}


def test_it_refuses_what_cannot_be_decoded() -> None:
    whole = plain("red").data
    with pytest.raises(InvalidRequestError):
        analyze(ImagePart(whole[: whole.index(b"IDAT") + 6]))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_it_reads_what_a_file_without_text_chunks_was_made_with(kind: str) -> None:
    given = embed_parameters(
        ImagePart.from_pil(Image.new("RGB", (9, 9)), kind), {"prompt": "a fox", "seed": 5}
    )
    assert (analyze(given).prompt, analyze(given).seed) == ("a fox", 5)
    assert analyze(given).parameters["Seed"] == "5"

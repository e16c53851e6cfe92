"""The commands of `majordomo`; draw, chat and models are here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from majordomo import imagegen, llm
from majordomo.cli.doctor import doctor
from majordomo.cli.edit import edit
from majordomo.cli.generation import (
    FORMATS,
    closing,
    generate_and_save,
    model_from_string,
    plain_console,
    print_warnings,
    read_images,
    targets,
    with_seed_option,
)
from majordomo.cli.imagine import imagine
from majordomo.cli.info import info
from majordomo.cli.process import process
from majordomo.concurrency import portal
from majordomo.errors import UnsupportedError
from majordomo.media.image_part import ImagePart
from majordomo.routing import registry
from majordomo.routing.config import load
from majordomo.routing.resolve import members, resolve

app: typer.Typer = typer.Typer(
    name="majordomo",
    help="Draw images and chat, on any backend; from a brief to finished files.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _command in (doctor, imagine, edit, process, info):
    app.command()(_command)


@app.command()
def draw(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Model string; else MAJORDOMO_IMAGE_MODEL, else the configured default, else offline."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write; the suffix chooses the format."),
    ] = None,
    n: Annotated[int, typer.Option(help="How many images.")] = 0,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels.")] = "",
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    cfg: Annotated[float | None, typer.Option(help="How strongly the prompt rules.")] = None,
    negative: Annotated[str, typer.Option(help="What not to draw.")] = "",
    sampler: Annotated[
        str, typer.Option(help="Sampler, by any common name: euler_a, dpmpp_2m, 'DPM++ 2M'.")
    ] = "",
    scheduler: Annotated[str, typer.Option(help="Scheduler: normal, karras, simple...")] = "",
    aspect: Annotated[str, typer.Option(help="Shape instead of a size: 16:9.")] = "",
    image: Annotated[
        list[Path] | None, typer.Option(help="Image to begin with; more of them are references.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Grayscale, white = repaint.")] = None,
    strength: Annotated[
        float | None, typer.Option(help="How much of the image may change, 0 to 1.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed; random when not given.")] = None,
    ask: Annotated[
        str | None, typer.Option(help="A question about the image, for a chat model.")
    ] = None,
    chat_model: Annotated[
        str | None,
        typer.Option(
            help="Model string; else MAJORDOMO_CHAT_MODEL, else the configured default, else offline."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
) -> None:
    """Draw an image, and ask a question about it."""
    console = plain_console()
    name, why = model_from_string(model, "image")
    image_model = registry.image_model(name)
    places = targets(output, max(n, 1), force)
    request = imagegen.Request(
        prompt,
        n=n,
        size=size,
        steps=steps,
        cfg_scale=cfg,
        negative_prompt=negative,
        sampler=sampler,
        scheduler=scheduler,
        aspect=aspect,
        images=tuple(ImagePart.from_file(path) for path in image or ()),
        mask=ImagePart.from_file(mask) if mask else None,
        strength=strength,
        seed=with_seed_option(seed),
        output_format=FORMATS.get(output.suffix.lower(), "") if output else "",
        previews=read_images(console),
    )
    with closing(image_model):
        result = generate_and_save(
            console, image_model, request, why, places, "-".join(prompt.split()[:6]).lower(), force
        )
    if ask is not None:
        _answer(console, chat_model, [llm.user(ask, *result.images)])


def _answer(console: Console, chat_model: str | None, messages: list[llm.Message]) -> llm.Reply:
    """The answer, printed while it arrives."""
    name, why = model_from_string(chat_model, "chat")
    model = registry.model(name)
    with closing(model):
        console.print(f"asking {model.provider}/{model.id}{why}", style="dim", markup=False)
        with model.stream_sync(messages) as stream:
            for event in stream:
                match event:
                    case llm.TextDelta():
                        console.print(event.text, end="", markup=False)
                    case llm.ThinkingDelta():
                        console.print(event.text, end="", markup=False, style="dim")
                    case llm.Loading():
                        console.print("the model loads", style="dim")
                    case _:
                        pass
        console.print()
    print_warnings(console, stream.reply.warnings)
    return stream.reply


@app.command()
def chat(
    text: Annotated[
        str | None,
        typer.Argument(help="What to say; without it, lines are read until end of file."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model string; else MAJORDOMO_CHAT_MODEL, else the configured default, else offline."
        ),
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="An image to talk about; may be given several times.")
    ] = None,
) -> None:
    """Talk to a chat model."""
    console = plain_console()
    images = [ImagePart.from_file(path) for path in image or []]
    messages: list[llm.Message] = []
    for line in [text] if text is not None else _lines(console):
        messages.append(llm.user(line, *(images if not messages else [])))
        messages.append(_answer(console, model, messages).message)


def _lines(console: Console) -> Iterator[str]:
    """Each line of a terminal; all of a pipe at once."""
    if not sys.stdin.isatty():
        yield sys.stdin.read()
        return
    while True:
        try:
            line = console.input("> ")
        except EOFError:
            return
        if line.strip():
            yield line


@app.command()
def models(
    provider: Annotated[
        str | None,
        typer.Argument(
            help="A provider, such as llamaswap or a DSN's address; else that of the default model."
        ),
    ] = None,
) -> None:
    """List the models of a provider, and what is loaded."""
    console = plain_console()
    name = provider or model_from_string(None, "chat")[0]
    owner = registry.provider(name)
    shown = members(resolve(load(), name, "chat"))[0].table or owner.name
    try:
        if not hasattr(owner, "models_sync"):
            raise UnsupportedError(f"{owner.name} lists no models")
        found = owner.models_sync()
    finally:
        portal.run(owner.aclose)
    table = Table("model", "can", "state", "about", box=None, pad_edge=False)
    for model in found:
        told = (
            f"{shown}/{model.id}",
            " ".join(sorted(model.capabilities)) or "?",
            model.state or "?",
            model.description,
        )
        table.add_row(*map(Text, told))  # texts, not markup: a backend chose these words
    console.print(table)

"""The `majordomo` application, and its commands draw, chat and models."""

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
    CHAT_MODEL_HELP,
    FORMATS,
    IMAGE_MODEL_HELP,
    closing,
    generate_and_save,
    output_paths,
    plain_console,
    preview_count,
    print_warnings,
    seed_or_random,
    select_model,
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
    help="Generate images and chat with any backend, and turn a brief into finished files.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _command in (doctor, imagine, edit, process, info):
    app.command()(_command)


@app.command()
def draw(
    prompt: Annotated[str, typer.Argument(help="Prompt: what the image should show.")],
    model: Annotated[str | None, typer.Option(help=IMAGE_MODEL_HELP)] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Output file; its suffix selects the format."),
    ] = None,
    n: Annotated[
        int, typer.Option(help="Number of images, 1 to 16; 0 uses the backend's default.")
    ] = 0,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels.")] = "",
    steps: Annotated[int | None, typer.Option(help="Number of denoising steps, 1 to 1000.")] = None,
    cfg: Annotated[float | None, typer.Option(help="Guidance scale (CFG), 0 to 1000.")] = None,
    negative: Annotated[str, typer.Option(help="Negative prompt.")] = "",
    sampler: Annotated[
        str,
        typer.Option(help="Sampler, by any common name, such as euler_a, dpmpp_2m or 'DPM++ 2M'."),
    ] = "",
    scheduler: Annotated[
        str, typer.Option(help="Scheduler, such as normal, karras or simple.")
    ] = "",
    aspect: Annotated[str, typer.Option(help="Aspect ratio instead of a size, such as 16:9.")] = "",
    image: Annotated[
        list[Path] | None,
        typer.Option(
            help="Input image (repeatable; the first is the start, the others are references)."
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Grayscale mask; white areas are repainted.")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="How much the input image may change, from 0 (not at all) to 1."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed; random by default.")] = None,
    ask: Annotated[
        str | None, typer.Option(help="Question about the image for the chat model.")
    ] = None,
    chat_model: Annotated[str | None, typer.Option(help=CHAT_MODEL_HELP)] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite output files that exist.")
    ] = False,
) -> None:
    """Generate images from a prompt, and optionally ask a question about them.

    Without -o, the files get a free name made from the prompt, in the current folder. An
    option without a stated default is not sent: the backend's own default applies.
    """
    console = plain_console()
    model_string, source = select_model(model, "image")
    image_model = registry.image_model(model_string)
    paths = output_paths(output, max(n, 1), force)
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
        seed=seed_or_random(seed),
        output_format=FORMATS.get(output.suffix.lower(), "") if output else "",
        previews=preview_count(console),
    )
    stem = "-".join(prompt.split()[:6]).lower()
    with closing(image_model):
        result = generate_and_save(console, image_model, request, source, paths, stem, force)
    if ask is not None:
        _print_answer(console, chat_model, [llm.user(ask, *result.images)])


def _print_answer(
    console: Console, chat_model: str | None, messages: list[llm.Message]
) -> llm.Reply:
    """Print the answer while it arrives, and return the reply."""
    model_string, source = select_model(chat_model, "chat")
    model = registry.model(model_string)
    with closing(model):
        console.print(f"asking {model.provider}/{model.id}{source}", style="dim", markup=False)
        with model.stream_sync(messages) as stream:
            for event in stream:
                match event:
                    case llm.TextDelta():
                        console.print(event.text, end="", markup=False)
                    case llm.ThinkingDelta():
                        console.print(event.text, end="", markup=False, style="dim")
                    case llm.Loading():
                        console.print("loading the model", style="dim")
                    case _:
                        pass
        console.print()
    print_warnings(console, stream.reply.warnings)
    return stream.reply


@app.command()
def chat(
    text: Annotated[
        str | None,
        typer.Argument(help="Message; without it, messages are read from standard input."),
    ] = None,
    model: Annotated[str | None, typer.Option(help=CHAT_MODEL_HELP)] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="Image for the first message (repeatable).")
    ] = None,
) -> None:
    """Chat with a model.

    In a terminal, each line is a message, until end of file. A pipe is one message.
    """
    console = plain_console()
    images = [ImagePart.from_file(path) for path in image or []]
    messages: list[llm.Message] = []
    for line in [text] if text is not None else _input_messages(console):
        messages.append(llm.user(line, *(images if not messages else [])))
        messages.append(_print_answer(console, model, messages).message)


def _input_messages(console: Console) -> Iterator[str]:
    """Yield each non-empty line of a terminal, or all of a pipe at once."""
    if not sys.stdin.isatty():
        yield _read_pipe()
        return
    while True:
        try:
            line = console.input("> ")
        except EOFError:
            return
        if line.strip():
            yield line


def _read_pipe() -> str:
    """Return standard input: UTF-8, which Windows does not assume, or the system's encoding."""
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode(sys.stdin.encoding, errors="replace")


@app.command()
def models(
    provider: Annotated[
        str | None,
        typer.Argument(
            help="Provider name such as llamaswap, or a model URL; by default, the provider of "
            "the default chat model."
        ),
    ] = None,
) -> None:
    """List the models of a provider, with their capabilities and state."""
    console = plain_console()
    model_string = provider or select_model(None, "chat")[0]
    instance = registry.provider(model_string)
    prefix = members(resolve(load(), model_string, "chat"))[0].table or instance.name
    try:
        if not hasattr(instance, "models_sync"):
            raise UnsupportedError(f"{instance.name} cannot list its models")
        infos = instance.models_sync()
    finally:
        portal.run(instance.aclose)
    table = Table("model", "capabilities", "state", "description", box=None, pad_edge=False)
    for model in infos:
        cells = (
            f"{prefix}/{model.id}",
            " ".join(sorted(model.capabilities)) or "?",
            model.state or "?",
            model.description,
        )
        # Plain text, because backends choose these strings and they may look like markup.
        table.add_row(*map(Text, cells))
    console.print(table)

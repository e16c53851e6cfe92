"""draw, chat, models, doctor."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from majordomo import imagegen, llm
from majordomo.cli.doctor import doctor
from majordomo.cli.preview import half_blocks
from majordomo.errors import CallWarning, UnsupportedError
from majordomo.flows import portal
from majordomo.media import ImagePart
from majordomo.options import SAFE_SEEDS
from majordomo.routing import registry
from majordomo.routing.config import load
from majordomo.routing.resolve import VARIABLES, default, members, resolve

app = typer.Typer(
    name="majordomo",
    help="Draw pictures and chat, on any backend.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(doctor)
FORMATS = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".png": ""}


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def _named(given: str | None, kind: str) -> tuple[str | None, str]:
    """The model string to use, None for the default of a variable or the configuration, and where it came from."""
    if given:
        return given, ""
    if (found := default(load(), kind)) is not None:
        return None, f" (from {found[1]})"
    return "offline", f" (no --model and no {VARIABLES[kind]})"


@contextmanager
def _closing(model: Any) -> Iterator[None]:
    try:
        yield
    finally:
        portal.run(model.aclose)


@app.command()
def draw(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    model: Annotated[
        str | None, typer.Option(help="Model string; else MAJORDOMO_IMAGE_MODEL, else the configured default, else offline.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write; the suffix chooses the format.")] = None,
    n: Annotated[int, typer.Option(help="How many pictures.")] = 0,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels.")] = "",
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    cfg: Annotated[float | None, typer.Option(help="How strongly the prompt rules.")] = None,
    negative: Annotated[str, typer.Option(help="What not to draw.")] = "",
    sampler: Annotated[str, typer.Option(help="Sampler, by any common name: euler_a, dpmpp_2m, 'DPM++ 2M'.")] = "",
    scheduler: Annotated[str, typer.Option(help="Scheduler: normal, karras, simple...")] = "",
    aspect: Annotated[str, typer.Option(help="Shape instead of a size: 16:9.")] = "",
    image: Annotated[list[Path] | None, typer.Option(help="Picture to begin with; more of them are references.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Greyscale, white = repaint.")] = None,
    strength: Annotated[float | None, typer.Option(help="How much of the picture may change, 0 to 1.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed; random when not given.")] = None,
    ask: Annotated[str | None, typer.Option(help="A question about the picture, for a chat model.")] = None,
    chat_model: Annotated[
        str | None, typer.Option(help="Model string; else MAJORDOMO_CHAT_MODEL, else the configured default, else offline.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
) -> None:
    """Draw a picture, and ask a question about it."""
    console = _console()
    name, why = _named(model, "image")
    painter = registry.image_model(name)
    targets = _targets(output, max(n, 1), force)
    # 31 bits: every backend takes them
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
        seed=seed if seed is not None else secrets.randbelow(SAFE_SEEDS),
        output_format=FORMATS.get(output.suffix.lower(), "") if output else "",
        previews=8 if console.is_terminal and console.color_system == "truecolor" else 0,
    )
    with _closing(painter):
        console.print(f"drawing with {painter.provider}/{painter.id}{why}, seed {request.seed}", style="dim")
        result = _watched(console, painter, request)
    for index, drawn in enumerate(result.images):
        written = _write(drawn, targets[index] if index < len(targets) else None, prompt, force)
        told = result.details[index].seed
        console.print(f"{written}  {drawn.width}x{drawn.height}, seed {told if told is not None else 'unknown'}")
    _warn(console, [warning for warning in result.warnings if warning.field != "previews"])
    if isinstance(result.raw, dict) and result.raw.get("neural_network") is False:
        console.print(str(result.raw["note"]), style="dim")
    if ask is not None:
        _answer(console, chat_model, [llm.user(ask, *result.images)])


def _watched(console: Console, painter: imagegen.Model, request: imagegen.Request) -> imagegen.Result:
    """The result, with a bar while it is drawn and a preview where the terminal shows colours."""
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"), TimeElapsedColumn(), console=console
    )
    task: TaskID = progress.add_task("waiting", total=None, count="")
    with painter.stream_sync(request) as stream, Live(progress, console=console, transient=True, refresh_per_second=8) as live:
        for event in stream:
            match event:
                case imagegen.Step():
                    progress.update(
                        task, description="drawing", completed=event.step, total=event.total, count=f"{event.step}/{event.total}"
                    )
                case imagegen.Queued():
                    progress.update(task, description="queued" + (f", number {event.position}" if event.position else ""))
                case imagegen.Loading():
                    progress.update(task, description="the model loads")
                case imagegen.Preview():
                    live.update(Group(progress, half_blocks(event.image, min(console.width, 48))))
                case _:
                    pass
    assert stream.result is not None
    return stream.result


def _targets(output: Path | None, count: int, force: bool) -> list[Path]:
    """Where the pictures go; said before drawing when a file is in the way."""
    if output is None:
        return []
    if output.suffix and output.suffix.lower() not in FORMATS:
        raise typer.BadParameter(f"the suffix is one of {', '.join(FORMATS)}", param_hint="--output")
    if not output.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {output.parent}", param_hint="--output")
    names = [output if number == 1 else output.with_name(f"{output.stem}-{number}{output.suffix}") for number in range(1, count + 1)]
    if not force and (taken := [name for name in names if name.exists()]):
        raise typer.BadParameter(f"{taken[0]} exists; use --force to overwrite it", param_hint="--output")
    return names


def _write(image: ImagePart, target: Path | None, prompt: str, force: bool) -> Path:
    if target is not None:
        return image.save(target, overwrite=force)
    return image.save_in(".", "-".join(prompt.split()[:6]).lower() or "picture")


def _warn(console: Console, warnings: list[CallWarning] | tuple[CallWarning, ...]) -> None:
    for warning in warnings:
        console.print(f"warning: {warning.message}", style="yellow", markup=False)


def _answer(console: Console, chat_model: str | None, messages: list[llm.Message]) -> llm.Reply:
    """The answer, printed while it arrives."""
    name, why = _named(chat_model, "chat")
    model = registry.model(name)
    with _closing(model):
        console.print(f"asking {model.provider}/{model.id}{why}", style="dim")
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
    _warn(console, stream.reply.warnings)
    return stream.reply


@app.command()
def chat(
    text: Annotated[str | None, typer.Argument(help="What to say; without it, lines are read until end of file.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Model string; else MAJORDOMO_CHAT_MODEL, else the configured default, else offline.")
    ] = None,
    image: Annotated[list[Path] | None, typer.Option(help="A picture to talk about; may be given several times.")] = None,
) -> None:
    """Talk to a chat model."""
    console = _console()
    pictures = [ImagePart.from_file(path) for path in image or []]
    messages: list[llm.Message] = []
    for line in [text] if text is not None else _lines(console):
        messages.append(llm.user(line, *(pictures if not messages else [])))
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
        str | None, typer.Argument(help="A provider, such as llamaswap or a DSN's address; else that of the default model.")
    ] = None,
) -> None:
    """List the models of a provider, and what is loaded."""
    console = _console()
    name = provider or _named(None, "chat")[0]
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
        table.add_row(f"{shown}/{model.id}", " ".join(sorted(model.capabilities)) or "?", model.state or "?", model.description)
    console.print(table)

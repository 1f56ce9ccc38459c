"""What the sub-commands share on the screen: errors, warnings and progress bars, all on standard error.

Nothing here reads rich's markup: prompts, names and paths have brackets of their own.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from tav_sdk.cli.field_options import option_of
from tav_sdk.cli.interrupts import received, what_is_left
from tav_sdk.cli.unforeseen import DEBUG, show_trace
from tav_sdk.errors import InputError, OutputError, TavError
from tav_sdk.files import forget_written
from tav_sdk.paths import given_path
from tav_sdk.progress import StepProgress
from tav_sdk.words import is_unsafe, printable, printable_lines

P = ParamSpec("P")
R = TypeVar("R")

PATHS_AS_TEXT = ("base", "clip", "control", "folder", "path")
"""Parameters of sub-commands that are a path or a name."""

console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False, markup=False)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn this package's errors, and Ctrl-C, into one message and an exit code.

    Others pass: see :mod:`tav_sdk.cli.unforeseen`. ``TAV_DEBUG=1`` shows the trace of every error.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        forget_written()
        try:
            for name, value in kwargs.items():
                if isinstance(value, Path) or (isinstance(value, str) and name in PATHS_AS_TEXT):
                    given_path("path", value)
            with _warnings_as_messages(), _logs_as_messages():
                result = command(*args, **kwargs)
            with _writing():
                sys.stdout.flush()
            return result
        except TavError as error:
            if os.environ.get(DEBUG):
                show_trace(error)
            say(_in_options(error), mark="error:", style="bold red")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as interrupt:
            # A command that keeps something for later says so in the interrupt's message.
            say(str(interrupt) or what_is_left(), mark="interrupted;", style="bold red")
            raise typer.Exit(2) from None
        except BrokenPipeError:
            sys.stderr.close()
            raise typer.Exit(1) from None

    return run


def _in_options(error: TavError) -> str:
    """An error's message with the option's name for the field that is wrong."""
    return error.named(option_of(error.field)) if isinstance(error, InputError) and error.field else str(error)


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Standard output is written in this block, and nothing else.

    Raises:
        OutputError: it cannot be, as on a full disk.
        BrokenPipeError: its reader has gone.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        with contextlib.suppress(OSError):  # or Python would try again when it ends, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(f"standard output cannot be written: {error.strerror or error}") from error


def say(message: object, *, mark: str = "", style: str = "green") -> None:
    """One message for the person at the terminal.

    Args:
        message: as text; what is not printable is escaped.
        mark: our own word before it, such as ``written``.
        style: of the mark, as rich has it.
    """
    console.print(Text.assemble((mark, style), " " if mark and str(message) else "", printable(message)))


def cell(value: object, style: str = "") -> Text:
    """A value as text for a table or a line, with what is not printable escaped."""
    return Text(printable(value), style=style)


class _Screen(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        with _writing():
            super().print(*objects, **options)


def screen(**options: Any) -> Console:
    """Standard output, for tables and texts that were made with :func:`cell`."""
    return _Screen(highlight=False, emoji=False, markup=False, **options)


def write(text: str) -> None:
    """Lines for people on standard output, as wide as they are; what is not printable is escaped."""
    with _writing():
        typer.echo(printable_lines(text))


def write_json(values: Any, *, indent: int | None = 2) -> None:
    """Values on standard output as JSON, in which what is not printable is escaped as JSON does."""
    try:
        "ä€".encode(getattr(sys.stdout, "encoding", None) or "utf-8")
        is_ascii = False
    except (UnicodeEncodeError, LookupError):
        is_ascii = True
    text = json.dumps(values, indent=indent, ensure_ascii=is_ascii)
    with _writing():
        typer.echo("".join(_json_escaped(one) if one != "\n" and is_unsafe(one) else one for one in text))


def _json_escaped(character: str) -> str:
    return json.dumps(character)[1:-1]


@contextlib.contextmanager
def stages(*, hidden: bool = False) -> Iterator[Callable[[StepProgress], None]]:
    """One progress bar per stage; yields a callback for everything that reports steps."""
    columns = (
        TextColumn("{task.description:<12}", markup=False),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", markup=False),
    )
    progress = Progress(*columns, console=console, disable=hidden)
    tasks: dict[str, TaskID] = {}
    finished: set[str] = set()

    def bar(name: str, total: int, completed: float) -> TaskID:
        """The bar of a stage; a stage that begins again gets a new one."""
        if name not in tasks or name in finished:
            finished.discard(name)
            tasks[name] = progress.add_task(name, total=total, completed=int(completed), speed="", note="")
        return tasks[name]

    def update(step: StepProgress) -> None:
        if received:  # and the interrupt went no further than a library, such as TensorRT, which only prints it
            raise KeyboardInterrupt
        progress.start()  # not before the first step: a message before it stands alone
        name, completed, total, note = _shown(step)
        note = printable(note)
        # Steps of an interrupted call took none of the time that is counted here.
        task = bar(name, total, completed if step.resumed else max(completed - 1, 0))
        progress.update(task, completed=completed, total=total, note=note)
        if completed == total:
            finished.add(name)
        speed = progress.tasks[progress.task_ids.index(task)].speed
        is_graph = step.item is not None and step.item.kind == "graph"  # graphs are too unlike for a rate
        if speed and step.part is None and not is_graph:
            progress.update(task, speed=f"{speed:.2f} it/s" if speed >= 1 else f"{1 / speed:.2f} s/it")

    try:
        yield update
    finally:
        if tasks:
            progress.stop()


def _shown(step: StepProgress) -> tuple[str, float, int, str]:
    """What a bar shows of a step: its name, how much is done, of how much, and a note."""
    completed: float = step.step if step.part is None else step.step - 1 + step.part.index / step.part.count
    if step.item is not None and step.item.kind == "window":
        # One bar for all windows of a stream: inversion is the first half of each, sampling the second.
        within = (completed / step.total + (step.stage == "sampling")) / 2
        return "stream", step.item.index - 1 + within, step.item.count, f"{step.stage} {step.step}/{step.total}"
    return _name(step), completed, step.total, _note(step)


def _name(step: StepProgress) -> str:
    if step.item is None or step.item.kind in ("graph", "window"):
        return step.stage
    if step.item.kind == "reconstruction":
        return f"{step.stage} source"
    return f"{step.stage} {step.item.index}/{step.item.count}"


def _note(step: StepProgress) -> str:
    if step.part is not None:
        return f"window {step.part.index}/{step.part.count}"
    if step.loss is not None:
        return f"loss {step.loss:.4f}"
    if step.resumed is not None:
        return {"cache": "from the cache", "interrupted": "from an interrupted one"}[step.resumed]
    return step.item.name if step.item is not None and step.item.kind == "graph" else ""


@contextlib.contextmanager
def _warnings_as_messages() -> Iterator[None]:
    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if category.__module__.startswith("tav_sdk"):
            say(message, mark="warning:", style="yellow")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        yield


class _Messages(logging.Handler):
    """What the package logs, for the person at the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            say(record.getMessage(), mark="warning:", style="yellow")
        else:
            console.print(cell(record.getMessage(), "dim"))


@contextlib.contextmanager
def _logs_as_messages() -> Iterator[None]:
    logger, handler = logging.getLogger("tav_sdk"), _Messages(logging.INFO)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]

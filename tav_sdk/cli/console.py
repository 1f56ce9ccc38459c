"""What the sub-commands share on the screen: errors, warnings and progress bars, all on standard error."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tav_sdk.cli.field_options import option_of
from tav_sdk.cli.interrupts import what_is_left
from tav_sdk.errors import InputError, TavError
from tav_sdk.files import forget_written
from tav_sdk.progress import StepProgress

P = ParamSpec("P")
R = TypeVar("R")

console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn this package's errors, and Ctrl-C, into one message and an exit code; others are bugs and keep a trace.

    ``TAV_DEBUG=1`` shows the trace of every error.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        forget_written()
        try:
            with _warnings_as_messages(), _logs_as_messages():
                return command(*args, **kwargs)
        except TavError as error:
            if os.environ.get("TAV_DEBUG"):
                traceback.print_exc()
            say(f"[bold red]error:[/] {_escaped(_in_options(error))}")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as interrupt:
            # A command that keeps something for later says so in the interrupt's message.
            say(f"[bold red]interrupted[/]; {_escaped(str(interrupt) or what_is_left())}")
            raise typer.Exit(2) from None
        except BrokenPipeError:
            sys.stderr.close()
            raise typer.Exit(1) from None

    return run


def _in_options(error: TavError) -> str:
    """An error's message with the option's name for the field that is wrong."""
    return error.named(option_of(error.field)) if isinstance(error, InputError) and error.field else str(error)


def say(message: str) -> None:
    """One message for the person at the terminal, in rich's markup."""
    console.print(message)


@contextlib.contextmanager
def stages(*, hidden: bool = False) -> Iterator[Callable[[StepProgress], None]]:
    """One progress bar per stage; yields a callback for everything that reports steps."""
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
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
        progress.start()  # not before the first step: a message before it stands alone
        name, completed, total, note = _shown(step)
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
            say(f"[yellow]warning:[/] {_escaped(message)}")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        yield


class _Messages(logging.Handler):
    """What the package logs, for the person at the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        text = _escaped(record.getMessage())
        say(f"[yellow]warning:[/] {text}" if record.levelno >= logging.WARNING else f"[dim]{text}[/]")


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


def _escaped(message: object) -> str:
    """Brackets in a message are text, not rich's markup."""
    return escape(str(message))

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

from tav_sdk.errors import TavError
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
        try:
            with _warnings_as_messages(), _logs_as_messages():
                return command(*args, **kwargs)
        except TavError as error:
            if os.environ.get("TAV_DEBUG"):
                traceback.print_exc()
            say(f"[bold red]error:[/] {_escaped(error)}")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as interrupt:
            # A command that keeps something for later says so in the interrupt's message.
            say(f"[bold red]interrupted[/]; {_escaped(interrupt) or 'nothing was written'}")
            raise typer.Exit(2) from None
        except BrokenPipeError:
            sys.stderr.close()
            raise typer.Exit(1) from None

    return run


def say(message: str) -> None:
    """One message for the person at the terminal, in rich's markup."""
    console.print(message)


@contextlib.contextmanager
def stages(*, hidden: bool = False) -> Iterator[Callable[[StepProgress], None]]:
    """A progress bar a stage; yields a callback for everything that reports steps."""
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
    done: dict[str, int] = {}

    def update_window(step: StepProgress) -> None:
        """A window is a part of a step of another stage, whose bar moves on by as much."""
        stage = step.stage.replace("windows", step.metrics["of"], 1)
        if stage not in tasks:
            tasks[stage] = progress.add_task(stage, total=step.metrics["steps"], speed="", note="")
        completed = done.get(stage, 0) + step.step / step.total
        progress.update(
            tasks[stage], completed=completed, note=f"{step.metrics.get('part', 'window')} {step.step}/{step.total}"
        )

    try:

        def update(step: StepProgress) -> None:
            progress.start()  # not before the first step: a message before it stands alone
            if "of" in step.metrics:
                update_window(step)
                return
            if step.stage not in tasks or (step.step == 1 and step.stage in done):
                # Steps of an interrupted call took none of the time that is counted here.
                before = step.step - 1 if "from" not in step.metrics else step.step
                tasks[step.stage] = progress.add_task(step.stage, total=step.total, completed=before, speed="", note="")
            done[step.stage] = 0 if step.step == step.total else step.step
            task = tasks[step.stage]
            progress.update(task, completed=step.step, total=step.total, note=_note(step.metrics))
            speed = progress.tasks[progress.task_ids.index(task)].speed
            if speed and "graph" not in step.metrics:  # graphs are too unlike for a rate
                progress.update(task, speed=f"{speed:.2f} it/s" if speed >= 1 else f"{1 / speed:.2f} s/it")

        yield update
    finally:
        if tasks:
            progress.stop()


def _note(metrics: dict[str, Any]) -> str:
    if "loss" in metrics:
        return f"loss {metrics['loss']:.4f}"
    if "from" in metrics:
        return f"from {metrics['from']}"
    return str(metrics.get("graph", ""))


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

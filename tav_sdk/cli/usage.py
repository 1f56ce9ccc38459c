"""Arguments that are refused before any sub-command runs, and how such refusals are shown."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from tav_sdk.words import is_utf8, printable


class Commands(TyperGroup):
    """Sub-commands whose arguments are text, and whose refusals are safe to print."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse arguments that are not UTF-8, which could be neither shown nor recorded; read this group's options."""
        with _printable_refusals():
            for argument in args:
                if not is_utf8(argument):
                    raise typer.BadParameter(
                        f"{argument} is not text in UTF-8; give texts in UTF-8, and rename files that are named so"
                    )
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Read a sub-command's options, and run it."""
        with _printable_refusals():
            return super().invoke(ctx)


@contextlib.contextmanager
def _printable_refusals() -> Iterator[None]:
    """Escape what a refusal repeats of the arguments; other exceptions pass as they are."""
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message"):  # what all refusals of the parser have, and nothing else has
            vars(error)["message"] = printable(getattr(error, "message", ""))
        raise

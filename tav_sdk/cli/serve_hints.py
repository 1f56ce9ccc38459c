"""What ``tav serve`` says when it has started: where it is, and a command that makes a video."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STYLE = "pixel art style"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,_'-]*")
"""Values that mean themselves in ``curl -F``; it has words of its own for ``@``, ``<`` and ``;``."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server listens, and what it asks for.

    Attributes:
        url: without a path.
        has_tokens: whether requests need one.
        default_model: the model of requests that name none.
        takes_tunings: whether clips can be tuned.
    """

    url: str
    has_tokens: bool = False
    default_model: str | None = None
    takes_tunings: bool = True


def hints(address: Address, models: Sequence[Mapping[str, Any]], *, bundles: Path) -> list[str]:
    """Lines on how to try a server: a first video if there is a model, else how to get one.

    Args:
        address: where it is.
        models: as the server lists them.
        bundles: the folder of bundles.
    """
    key = ' -H "Authorization: Bearer $TOKEN"' if address.has_tokens else ""
    if not models:
        lines = [f"there are no models yet; put bundles into {bundles}, each with its clip beside it as NAME.mp4"]
        if address.takes_tunings:
            lines.append(
                "or tune on a clip: "
                f'curl -F video=@clip.mp4 -F prompt="what the clip shows"{key} {address.url}/v1/tunings'
            )
        return lines
    named = [model for model in models if model["id"] == address.default_model]
    model = (named or [one for one in models if one["source"]] or list(models))[0]
    fields = [("prompt", f"{model['prompt']}, {STYLE}")]
    if address.default_model is not None or len(models) > 1:
        fields.append(("model", model["id"]))
    sent = " ".join(_field(name, value) for name, value in fields)
    return [
        f"try it: curl {sent}{key} {address.url}/v1/videos/sync -o edit.mp4",
        f"all there is: curl{key} {address.url}/openapi.json",
    ]


def _field(name: str, value: str) -> str:
    option = "-F" if _PLAIN.fullmatch(value) else "--form-string"
    return f"{option} {shlex.quote(f'{name}={value}')}"

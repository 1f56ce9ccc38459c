"""Reading models that others wrote: nothing of the libraries on the screen, and one kind of error."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from tav_sdk.errors import BaseModelError

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
"""Suffixes of weights whose reading can run code."""


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Keep the libraries quiet, and raise ``BaseModelError`` ("the ... cannot be read") for what they raise."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        raise BaseModelError(f"{what} cannot be read: {first_line(error)}") from error
    finally:
        transformers_logging.set_verbosity(level)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__

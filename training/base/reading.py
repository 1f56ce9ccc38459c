"""Reading models that others wrote: nothing of the libraries on the screen, and one kind of error."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from transformers.utils import logging as transformers_logging

from tav_sdk.errors import BaseModelError, TavError

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
"""Suffixes of weights whose reading can run code."""


@contextlib.contextmanager
def reading(what: str, error_type: type[TavError] = BaseModelError) -> Iterator[None]:
    """Keep the libraries quiet, and raise ``error_type`` ("the ... cannot be read") for what they raise."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except TavError:
        raise
    except Exception as error:  # for a damaged file the libraries raise anything
        raise error_type(f"{what} cannot be read: {first_line(error)}") from error
    finally:
        transformers_logging.set_verbosity(level)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where it has none."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__

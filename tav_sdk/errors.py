"""Every error that tav-sdk raises on purpose.

One tree under :class:`TavError`. A message says what was expected, what came, and what to do next. The command
line prints the message alone and leaves with :attr:`TavError.exit_code`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tav_sdk.words import printable_lines


class TavError(Exception):
    """Base of all errors of this package; catch it to catch them all.

    Its text is safe to print: see :func:`tav_sdk.words.printable_lines`.
    """

    exit_code = 2

    def __str__(self) -> str:
        return printable_lines(super().__str__())


class InputError(TavError, ValueError):
    """An argument has a value, shape or dtype that the call cannot take.

    Args:
        message: what was expected, what came, what to do. With a ``field`` it goes on where the field's name ends
            (``must be at least 1, got 0``), so that every caller can name the field in words of its own.
        field: the argument that is wrong, by its place in a request, such as ``sample.guidance_scale``.

    Attributes:
        field: as given.
        reason: the message without the field's name.
    """

    def __init__(self, message: str = "", *, field: str | None = None) -> None:
        super().__init__(message)
        self.reason = message
        self.field = field

    def __str__(self) -> str:
        """The message as Python says it: the argument's name first."""
        return self.named(self.field.rpartition(".")[2] if self.field else "")

    def named(self, name: str) -> str:
        """The message with another name for the field, such as an option of the command line."""
        return printable_lines(f"{name} {self.reason}" if self.field else self.reason)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled with its field, so that it comes whole from another process."""
        return _rebuilt, (type(self), self.reason, self.field)


class ConfigError(InputError):
    """A configuration has an unknown key or a value out of range."""


class VideoError(TavError):
    """A video file cannot be read or written as asked."""


class VideoNotFoundError(VideoError, FileNotFoundError):
    """There is no file at the given path."""


class NotAVideoError(VideoError):
    """The file is no video, or a container without a video stream."""


class NotEnoughFramesError(VideoError):
    """The clip has fewer frames than were asked for."""


class TruncatedVideoError(VideoError):
    """The file ends, or its data break off, before the frames that were asked for."""


class SizeError(InputError):
    """Height or width is not one that the base model can take."""


class PromptError(InputError):
    """There is no prompt, or it cannot be used."""


class BaseModelError(TavError):
    """A base model folder is incomplete or of a kind that cannot be inflated."""


class PickledWeightsError(BaseModelError):
    """The base has only pickled weights, and reading them was not allowed."""


class NotInCacheError(BaseModelError):
    """A model of the Hugging Face hub is not in its cache, and nothing may be fetched."""


class CheckpointError(TavError):
    """A run folder or its tuned weights are incomplete, damaged, or do not fit the model."""


class NonFiniteLossError(TavError):
    """The loss became NaN or infinite while tuning."""


class OutputError(TavError):
    """An output cannot be written where it was asked for.

    Attributes:
        kept: where the finished work lies, if all was done but the last rename.
    """

    kept: Path | None = None


class BundleError(TavError):
    """A bundle is incomplete, damaged, or not of a format that this version reads."""


class BundleVersionError(BundleError):
    """The bundle was written in a newer format."""


class ParityError(TavError):
    """An exported graph does not reproduce the model that it was traced from."""


class QualityError(ParityError):
    """A bundle in low precision does not edit as well as the float32 model does."""


class EngineError(TavError):
    """An engine cannot be made or run on this machine."""


class NonFiniteOutputError(EngineError):
    """An engine returned NaN or infinity."""


class MissingExtraError(TavError, ImportError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, feature: str, extra: str, module: str) -> None:
        super().__init__(
            f"{feature} needs the module '{module}', which is not installed. "
            + (f'Install it with: pip install "tav-sdk[{extra}]"' if extra else "Install it with: pip install tav-sdk")
        )
        self.extra = extra


class ServerError(TavError):
    """A server refused a request, or its answer cannot be read.

    Attributes:
        message: what was expected, what came, what to do; the server's words where it said some.
        status: of HTTP; ``None`` where there was no answer, or it is not about a request.
        code: for programs, one of the wire contract's, such as ``queue_full``; ``None`` if the server gave none.
        param: the field of the request that is wrong, such as ``guidance_scale``, if there is one.
        passes: whether the same request may go well later.
        retry_after: in how many seconds, if the server said so.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        passes: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.code, self.param = message, status, code, param
        self.passes, self.retry_after = passes, retry_after


class ServerUnreachableError(ServerError):
    """No server answered: none listens there, or the connection broke, each time that it was tried."""


class JobFailedError(ServerError):
    """A job ended without a result; ``code`` and ``message`` say why, ``cancelled`` included.

    Attributes:
        job: the job as it ended, a ``Video`` or a ``Tuning`` of :mod:`tav_sdk.client`.
    """

    def __init__(self, message: str, *, code: str | None, job: Any) -> None:
        super().__init__(message, code=code)
        self.job = job


class CancelledError(TavError):
    """A callback asked to stop."""


def _rebuilt(kind: type[InputError], reason: str, field: str | None) -> InputError:
    return kind(reason, field=field)

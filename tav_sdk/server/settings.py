"""What a server is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tav_sdk.errors import InputError
from tav_sdk.request.frames import check_whole
from tav_sdk.words import brief

LOG_FORMATS = ("text", "json")
_WHOLE = {
    "port": (0, 65535),
    "workers": (1, 64),
    "max_bases": (1, 16),
    "max_upload_bytes": (1, 10_000 << 20),
    "max_frames": (1, 100_000),
    "max_queue": (1, 100_000),
    "max_queue_per_token": (1, 100_000),
    "max_connections": (1, 100_000),
    "max_attempts": (1, 100),
}
"""Least and greatest value of each whole number."""
_NUMBERS = {
    "rate": (0.01, 1e6),
    "cancel_grace_s": (0.0, 3600.0),
    "job_timeout_s": (0.001, 1e6),
    "sync_timeout_s": (0.001, 1e6),
    "drain_s": (0.0, 1e5),
    "keep_days": (0.0, 1e5),
    "head_timeout_s": (0.001, 3600.0),
    "body_timeout_s": (0.001, 3600.0),
    "keep_alive_s": (0.0, 3600.0),
}
"""Least and greatest value of each of the others."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The options of ``tav serve``, checked; names and defaults are the command line's.

    Attributes:
        bundles: the folder of bundles; clips lie beside them as ``ID.mp4`` or likewise.
        state: the folder of jobs, clips and videos.
        host: the address to listen on.
        port: likewise; 0 takes a free one.
        tokens: file of hashed bearer tokens, ``NAME:SHA256`` a line; none: no tokens.
        insecure: listen beyond loopback without tokens.
        allow_origins: origins of pages that may call, besides the server's own.
        engine: what runs the bundles, as in :func:`tav_sdk.load`.
        workers: how many worker processes; each has one device and one job at a time.
        max_bases: how many bases a worker keeps open.
        default_model: the model of requests that name none.
        tunings: whether clips may be tuned.
        bases: names of bases that tunings may start from.
        max_upload_bytes: largest multipart body.
        max_frames: longest video, in frames.
        max_queue: how many jobs may wait.
        max_queue_per_token: how many of one token.
        max_connections: how many connections at once.
        rate: POSTs per minute of one token; none: any number.
        max_attempts: how often a job is begun before it fails for good.
        cancel_grace_s: seconds until a worker that does not stop is killed.
        job_timeout_s: longest time of one job, in seconds.
        sync_timeout_s: longest wait of ``POST /v1/videos/sync``, in seconds.
        drain_s: seconds that running jobs have when the server is stopped.
        keep_days: after so many days files of ended jobs go; 0: never.
        head_timeout_s: seconds until the head of a request must have come.
        body_timeout_s: longest pause within a body, in seconds.
        keep_alive_s: seconds until an idle connection is closed.
        quiet_s: seconds after which a stream of events without one has a comment, so that proxies keep it.
        log_format: ``text`` or ``json``.

    Raises:
        InputError: an option is out of range; its field says which.
    """

    bundles: Path
    state: Path
    host: str = "127.0.0.1"
    port: int = 8000
    tokens: Path | None = None
    insecure: bool = False
    allow_origins: tuple[str, ...] = ()
    engine: str = "auto"
    workers: int = 1
    max_bases: int = 1
    default_model: str | None = None
    tunings: bool = True
    bases: tuple[str, ...] = ("pocket",)
    max_upload_bytes: int = 200 << 20
    max_frames: int = 512
    max_queue: int = 64
    max_queue_per_token: int = 32
    max_connections: int = 1000
    rate: float | None = None
    max_attempts: int = 3
    cancel_grace_s: float = 30.0
    job_timeout_s: float = 3600.0
    sync_timeout_s: float = 600.0
    drain_s: float = 30.0
    keep_days: float = 0.0
    head_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    keep_alive_s: float = 10.0
    quiet_s: float = 15.0
    log_format: str = "text"

    def __post_init__(self) -> None:
        for field, (least, most) in _WHOLE.items():
            check_whole(field, getattr(self, field), least, most)
        for field, (lowest, highest) in _NUMBERS.items():
            value = getattr(self, field)
            if field == "rate" and value is None:
                continue
            # NaN is not within any bounds.
            if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
                raise InputError(f"must be a number from {lowest:g} to {highest:g}, got {brief(value)}", field=field)
        if self.log_format not in LOG_FORMATS:
            raise InputError(f"must be {' or '.join(LOG_FORMATS)}, got {brief(self.log_format)}", field="log_format")

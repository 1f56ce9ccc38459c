"""What the fields of a request are called on the command line, for messages."""

from __future__ import annotations

OPTIONS = {
    "prompts": "--prompt",
    "frames.num_frames": "--frames",
    "num_frames": "--frames",
    "invert.prompt": "--inversion-prompt",
    "invert.posterior_seed": "--seed",
    "control.video": "--control",
    "control.scale": "--control-scale",
    "control.inversion": "--control-inversion",
    "file_format": "--format",
    "clip": "--video",
    "path": "the path",
    "max_upload_bytes": "--max-upload-mb",
    **{
        f"{name}_s": f"--{name.replace('_', '-')}"
        for name in (
            "cancel_grace",
            "job_timeout",
            "sync_timeout",
            "drain",
            "head_timeout",
            "body_timeout",
            "keep_alive",
        )
    },
    "base_url": "--server",
    "token": "the token",
    "job": "JOB",
}
"""What a field of a request is called on the command line, where that is not its own name."""


def option_of(field: str) -> str:
    """The option that sets a field of a request."""
    return OPTIONS.get(field) or f"--{field.rpartition('.')[2].replace('_', '-')}"

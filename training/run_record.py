"""What ``run.json`` holds, typed: everything that decided a run's tuned weights. Read without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from tav_sdk.errors import CheckpointError, ConfigError, PromptError
from tav_sdk.reading import MAX_CONFIG_BYTES, read_json, validated
from tav_sdk.training.base.lora_file import MAX_SCALE
from tav_sdk.training.config import BY_THE_BASE, TuneConfig
from tav_sdk.training.config_checks import MAX_LORAS, WHOLE
from tav_sdk.words import brief

FORMAT_VERSION = 2
HASH_OF_FORMAT_1 = "delta_sha256"
"""The record's key of the tuned weights' hash."""

Text = Annotated[str, Field(max_length=10_000)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)


class LoraRecord(_Record):
    """A LoRA that was fused into the base."""

    name: Text
    sha256: Sha256
    scale: Annotated[float, Field(ge=-MAX_SCALE, le=MAX_SCALE)]


class BaseRecord(_Record):
    """The base."""

    name: Text
    sha256: Sha256
    revision: Text | None = None
    loras: Annotated[list[LoraRecord], Field(max_length=MAX_LORAS)] = []


class ClipRecord(_Record):
    """The clip; name and hash are none where an imported checkpoint's clip is not there."""

    name: Text | None = None
    sha256: Text | None = None
    num_frames: Annotated[int, Field(ge=1, le=WHOLE["num_frames"][1])] | None = None
    height: Annotated[int, Field(ge=1, le=WHOLE["height"][1])] | None = None
    width: Annotated[int, Field(ge=1, le=WHOLE["width"][1])] | None = None
    fps: Annotated[float, Field(gt=0, le=1e6)]


class StartedRecord(_Record):
    """A run's record from its start."""

    format_version: Annotated[int, Field(ge=1)]
    prompt: Text | None = None
    config: dict[str, Any]
    base: BaseRecord
    clip: ClipRecord
    versions: dict[Text, Text] = {}


class RunRecord(StartedRecord):
    """A finished run's record."""

    tuned_sha256: Sha256


def read_record(path: Path, *, finished: bool = True) -> dict[str, Any]:
    """A record as it stands in the file, with the keys of the newest format.

    Args:
        path: the file.
        finished: whether the run is; an unfinished one has no tuned weights yet.

    Raises:
        CheckpointError: it cannot be read, is of a newer format, or a value is of another type or out of range.
    """
    advice = "tune again" if finished else "start anew with overwrite"
    record = read_json(path, max_bytes=MAX_CONFIG_BYTES, error=CheckpointError, advice=advice)
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} is not valid: expected keys and values, got {brief(record)}; {advice}")
    version = record.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path.parent} has run format {brief(version)}, this version reads up to {FORMAT_VERSION}; update tav-sdk"
        )
    if version == 1 and HASH_OF_FORMAT_1 in record:
        record["tuned_sha256"] = record.pop(HASH_OF_FORMAT_1)
    kind = RunRecord if finished else StartedRecord
    validated(kind, record, what=str(path), error=CheckpointError, advice=advice)
    config = record["config"]
    if lacking := [name for name in (*BY_THE_BASE, "inflation") if config.get(name) is None]:
        raise CheckpointError(f"{path} is not valid: its config lacks {', '.join(lacking)}; {advice}")
    try:
        TuneConfig.from_dict(config)
    except (ConfigError, PromptError) as error:
        raise CheckpointError(f"{path} is not valid: of its config, {error}; {advice}") from error
    return record

"""Options of several sub-commands: which base model, how it is inflated, and what tuning computes in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BASE_HELP = (
    "The base model: a diffusers folder, a single-file .safetensors checkpoint, a Hugging Face id, or pocket: the one "
    "in the package."
)
INFLATION = ("preset", "temporal_mask", "group_norm", "attention", "temporal")
"""The parameters that are fields of :class:`~tav_sdk.training.InflationOptions`."""

Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        help="FILE or FILE:SCALE, a LoRA to fuse into the base; a folder stands for its "
        "pytorch_lora_weights.safetensors. May be given several times.",
    ),
]
LorasOfRun = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        help="FILE:SCALE or FOLDER:SCALE, a LoRA of the base, if it is no longer where it was; give all, in the same "
        "order.",
    ),
]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Read a base's .bin weights, tensors only, if it has nothing else.")
]
TokenizerFolder = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer", help="Folder of a CLIP tokenizer, for a single file that has none beside it.", show_default=False
    ),
]
PredictionType = Annotated[
    str | None,
    typer.Option(help="epsilon or v_prediction, where the base does not say it.", show_default="the base's"),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hugging Face id.", show_default="main")]
LocalFilesOnly = Annotated[
    bool | None, typer.Option("--local-files-only", help="Take a Hugging Face id from the cache; download nothing.")
]

Preset = Annotated[
    str | None, typer.Option(help="default, or original: as the released code computes.", show_default="default")
]
TemporalMask = Annotated[
    str | None, typer.Option(help="Temporal attention: causal or none.", show_default="the preset's")
]
GroupNorm = Annotated[
    str | None, typer.Option(help="Statistics per frame or over the video.", show_default="the preset's")
]
Attention = Annotated[
    str | None,
    typer.Option(
        help="Spatial attention: sparse_causal, spatial, first, causal or full.", show_default="sparse_causal"
    ),
]
Temporal = Annotated[bool | None, typer.Option("--temporal/--no-temporal", help="Whether to add temporal attention.")]
MixedPrecision = Annotated[
    str | None,
    typer.Option(
        help="Mixed precision of tuning: no, fp16 or bf16.",
        show_default="on a GPU bf16, or fp16 if it has no bf16; no on a CPU",
    ),
]

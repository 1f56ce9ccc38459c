"""The options that say which base model: the same of every sub-command that takes one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BASE_HELP = (
    "The base model: a diffusers folder, a single-file .safetensors checkpoint, a Hugging Face id, or pocket: the one "
    "in the package."
)
MIXED_PRECISION_DEFAULT = "on a GPU bf16, or fp16 if it has no bf16; no on a CPU"

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
    bool | None, typer.Option("--local-files-only", help="Of a Hugging Face id, take only what is in the cache.")
]

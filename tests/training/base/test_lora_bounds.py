"""LoRAs whose numbers are out of bounds, fused into one layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tav_sdk.errors import BaseModelError
from tav_sdk.training.base.lora import fuse
from tav_sdk.training.base.lora_file import LoraFile

DOWN, UP = "unet.a.lora_A.weight", "unet.a.lora_B.weight"


def fused(path: Path, tensors: dict[str, torch.Tensor], metadata: Any = None, scale: float = 1.0) -> torch.Tensor:
    model = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False)})
    texts = {} if metadata is None else {"lora_adapter_metadata": json.dumps(metadata)}
    save_file({DOWN: torch.ones(2, 4), UP: torch.ones(4, 2), **tensors}, path, texts)
    fuse(model, "unet", [LoraFile(path, scale)], {}, allow_pickle=False)
    return model["a"].get_parameter("weight")


def test_a_layer_takes_its_factors(tmp_path: Path) -> None:
    before = fused(tmp_path / "l.safetensors", {DOWN: torch.zeros(2, 4)})
    assert before.isfinite().all()


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({DOWN: torch.ones(())}, r"is damaged: unet\.a\.lora_A\.weight has the shape \(\), expected a factor"),
        ({UP: torch.ones(4)}, r"is damaged: unet\.a\.lora_B\.weight has the shape \(4,\), expected a factor"),
        ({DOWN: torch.ones(0, 4), UP: torch.ones(4, 0)}, r"has the shape \((0, 4|4, 0)\), expected a factor"),
        ({DOWN: torch.full((2, 4), 1e30), UP: torch.full((4, 2), 1e30)}, r"makes unet\.a infinite: .* give a smaller"),
        ({DOWN: torch.full((2, 4), float("nan"))}, r"has values that are not finite: unet\.a\.lora_A\.weight"),
        ({DOWN: torch.ones(3, 4)}, r"expected factors of a weight \(4, 4\), got \(4, 2\) and \(3, 4\)"),
    ],
)
def test_factors_out_of_bounds_are_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], said: str) -> None:
    with pytest.raises(BaseModelError, match=said):
        fused(tmp_path / "l.safetensors", tensors)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"unet.alpha_pattern": {"(a+)+$": 1}}, r"the metadata of the LoRA .* is a regular expression"),
        ({"unet.lora_alpha": None}, None),
        ({"unet.lora_alpha": {}}, r"unet\.lora_alpha: Input should be a valid number"),
        ([], "is not valid"),
        ({"unet.use_dora": True}, "is of the kind DoRA"),
    ],
)
def test_metadata_of_other_types_is_refused(tmp_path: Path, metadata: Any, said: str | None) -> None:
    if said is None:
        assert fused(tmp_path / "l.safetensors", {}, metadata).isfinite().all()
        return
    with pytest.raises(BaseModelError, match=said):
        fused(tmp_path / "l.safetensors", {}, metadata)

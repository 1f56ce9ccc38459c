"""What a single-file checkpoint of Stable Diffusion is, read from its header alone. Without PyTorch.

Names and shapes of the tensors give the configurations of all parts; what they do not give (heads, activations, the
schedule) is that of Stable Diffusion 1.x or 2.x. :mod:`.single_file_parts` loads the parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tav_sdk.errors import BaseModelError, PickledWeightsError
from tav_sdk.training.base.part_configs import KINDS, check_part_config
from tav_sdk.training.tensor_file import read_header

ADVICE = "a base is a folder in the diffusers layout, a single-file checkpoint, or a Hugging Face id"
SUFFIX = ".safetensors"
PICKLED_CHECKPOINTS = (".ckpt", ".pt", ".pth", ".bin")
UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
"""Prefixes of the parts; the text encoder of 1.x is OpenAI's CLIP, that of 2.x OpenCLIP's."""
CLIP_TEXT = f"{CLIP}text_model."
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""The scheduler of all of Stable Diffusion 1.x and 2.x, but for ``prediction_type``."""
NUM_GROUPS = 32
HEADS, HEAD_WIDTH = 8, 64
"""1.x has eight heads at every level; in 2.x, and in CLIP, every head is 64 wide."""
SIZES = {"epsilon": 64, "v_prediction": 96}
"""Latents along one side that 2.x was trained at, by what it predicts: 512 and 768 pixels."""
METADATA = "modelspec.prediction_type"
_PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}

OTHER_MODELS = (
    ("conditioner.embedders.", "a checkpoint of SDXL, whose U-Net takes the size and a second text encoder's states"),
    (f"{UNET}label_emb.", "a checkpoint whose U-Net takes a class or a size, as SDXL and unCLIP have"),
    (f"{UNET}joint_blocks.", "a checkpoint of SD 3: a transformer, which has no U-Net to inflate"),
    ("joint_blocks.", "a checkpoint of SD 3: a transformer, which has no U-Net to inflate"),
    (f"{UNET}double_blocks.", "a checkpoint of Flux: a transformer, which has no U-Net to inflate"),
    ("double_blocks.", "a checkpoint of Flux: a transformer, which has no U-Net to inflate"),
    ("control_model.", "a ControlNet"),
    ("lora_unet_", "a LoRA, which is given in loras, beside a base"),
    ("unet.down_blocks.", "a LoRA, which is given in loras, beside a base"),
    ("down_blocks.", "one part of a model in the diffusers layout; give the folder that holds all parts"),
)
"""By the beginning of a key, what else a file can be."""


class SingleFile:
    """A ``.safetensors`` checkpoint as Stable Diffusion's own code writes it.

    Args:
        path: the file.
        prediction_type: ``epsilon`` or ``v_prediction``; needed for 2.x, whose tensors do not tell.

    Raises:
        PickledWeightsError: the file is a pickle.
        BaseModelError: it cannot be read, or is of another kind than Stable Diffusion 1.x or 2.x.
    """

    def __init__(self, path: Path, prediction_type: str | None = None) -> None:
        self.path = path
        if path.suffix in PICKLED_CHECKPOINTS:
            raise PickledWeightsError(
                f"{path} is a pickled checkpoint, and reading a pickle can run code; give its .safetensors file, or "
                "convert it to one or to a diffusers folder"
            )
        header = read_header(path, error=BaseModelError, advice=ADVICE, feature="a single-file checkpoint")
        self.shapes, self._metadata = header.shapes, header.metadata
        self._check_kind()
        self.prediction_type = prediction_type or self._prediction_type()

    @property
    def is_v2(self) -> bool:
        """Whether it is of Stable Diffusion 2.x."""
        return any(key.startswith(OPEN_CLIP) for key in self.shapes)

    @property
    def pad_token(self) -> str:
        """The token that pads prompts."""
        return "!" if self.is_v2 else "<|endoftext|>"

    @cached_property
    def configs(self) -> dict[str, dict[str, Any]]:
        """What ``unet``, ``vae``, ``text_encoder``, ``tokenizer`` and ``scheduler`` are, in diffusers' words.

        Raises:
            BaseModelError: tensors that they are read from are missing, or of shapes that no such model has.
        """
        try:
            scheduler: dict[str, Any] = {**SCHEDULER, "prediction_type": self.prediction_type}
            if "ztsnr" in self.shapes:
                scheduler["rescale_betas_zero_snr"] = True
            found = {
                "unet": self._unet(_below(self.shapes, UNET)),
                "vae": self._vae(_below(self.shapes, VAE)),
                "text_encoder": self._open_clip(_below(self.shapes, OPEN_CLIP))
                if self.is_v2
                else self._clip(_below(self.shapes, CLIP)),
                "tokenizer": {"model_max_length": 77, "pad_token": self.pad_token},
                "scheduler": scheduler,
            }
        except KeyError as error:
            raise BaseModelError(
                f"the checkpoint {self.path} is incomplete: it lacks {error.args[0]}, which Stable Diffusion "
                f"{'2.x' if self.is_v2 else '1.x'} has"
            ) from error
        except (IndexError, ValueError) as error:  # a tensor has fewer or more sides
            raise BaseModelError(
                f"the checkpoint {self.path} is damaged: a tensor has another number of dimensions than Stable "
                "Diffusion's; download it again"
            ) from error
        for part, config in found.items():
            check_part_config(config, KINDS[part], f"the {part} of the checkpoint {self.path}")
        return found

    def _check_kind(self) -> None:
        for mark, kind in OTHER_MODELS:
            if any(key.startswith(mark) for key in self.shapes):
                raise BaseModelError(f"{self.path} is {kind}; Stable Diffusion 1.x and 2.x are supported")
        parts = {"U-Net": (UNET,), "VAE": (VAE,), "text encoder": (CLIP, OPEN_CLIP)}
        lacking = {
            name: prefixes
            for name, prefixes in parts.items()
            if not any(key.startswith(prefixes) for key in self.shapes)
        }
        if lacking:
            what = ", ".join(f"{name} ({' or '.join(prefixes)}*)" for name, prefixes in lacking.items())
            raise BaseModelError(
                f"the checkpoint {self.path} has no {what}; give a whole checkpoint of Stable Diffusion 1.x or 2.x, or "
                "a folder in the diffusers layout"
            )

    def _prediction_type(self) -> str:
        told = _PREDICTIONS.get(self._metadata.get(METADATA, ""))
        if told or "v_pred" in self.shapes:
            return told or "v_prediction"
        if self.is_v2:
            raise BaseModelError(
                f"the checkpoint {self.path} is of Stable Diffusion 2.x, and does not say what its U-Net predicts; say "
                "it with prediction_type: v_prediction for models of 768 pixels, epsilon for those of 512"
            )
        return "epsilon"

    def _unet(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        widths, attention, layers = [], [], [0]
        for index in range(1, _count(shapes, "input_blocks")):
            block = f"input_blocks.{index}"
            if f"{block}.0.op.weight" in shapes:
                layers.append(0)
                continue
            layers[-1] += 1
            if layers[-1] == 1:
                widths.append(shapes[f"{block}.0.out_layers.3.weight"][0])
                attention.append(f"{block}.1.norm.weight" in shapes)
        keys = [key for key in shapes if key.endswith("attn2.to_k.weight")]
        if not keys:
            raise KeyError(f"{UNET}*.attn2.to_k.weight")
        return {
            "_class_name": "UNet2DConditionModel",
            "sample_size": SIZES[self.prediction_type] if self.is_v2 else SIZES["epsilon"],
            "in_channels": shapes["input_blocks.0.0.weight"][1],
            "out_channels": shapes["out.2.weight"][0],
            "layers_per_block": layers[0],
            "block_out_channels": widths,
            "down_block_types": ["CrossAttnDownBlock2D" if found else "DownBlock2D" for found in attention],
            "up_block_types": ["CrossAttnUpBlock2D" if found else "UpBlock2D" for found in reversed(attention)],
            "cross_attention_dim": shapes[keys[0]][1],
            "attention_head_dim": [max(width // HEAD_WIDTH, 1) for width in widths] if self.is_v2 else HEADS,
            "use_linear_projection": len(shapes["middle_block.1.proj_in.weight"]) == 2,
            "upcast_attention": self.is_v2,  # 2.1's attention overflows in float16
            "norm_num_groups": NUM_GROUPS,
        }

    def _vae(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        levels = _count(shapes, "encoder.down")
        widths = [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)]
        return {
            "_class_name": "AutoencoderKL",
            "in_channels": shapes["encoder.conv_in.weight"][1],
            "out_channels": shapes["decoder.conv_out.weight"][0],
            "latent_channels": shapes["post_quant_conv.weight"][0],
            "layers_per_block": _count(shapes, "encoder.down.0.block"),
            "block_out_channels": widths,
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "norm_num_groups": NUM_GROUPS,
            "sample_size": 8 * SIZES[self.prediction_type],
            "scaling_factor": 0.18215,
        }

    def _clip(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        # Some files leave `text_model.` out.
        shapes = {key.removeprefix("text_model."): shape for key, shape in shapes.items()}
        return _text_config(
            embedding=shapes["embeddings.token_embedding.weight"],
            positions=shapes["embeddings.position_embedding.weight"][0],
            intermediate=shapes["encoder.layers.0.mlp.fc1.weight"][0],
            layers=_count(shapes, "encoder.layers"),
            activation="quick_gelu",
        )

    def _open_clip(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        return _text_config(
            embedding=shapes["token_embedding.weight"],
            positions=shapes["positional_embedding"][0],
            intermediate=shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
            layers=_count(shapes, "transformer.resblocks") - 1,  # 2.x takes the last but one layer's states
            activation="gelu",
        )


def _text_config(
    *, embedding: tuple[int, ...], positions: int, intermediate: int, layers: int, activation: str
) -> dict[str, Any]:
    vocabulary, width = embedding
    return {
        "architectures": ["CLIPTextModel"],
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": max(width // HEAD_WIDTH, 1),
        "max_position_embeddings": positions,
        "hidden_act": activation,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }


def _below(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> dict[str, tuple[int, ...]]:
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}


def _count(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    """How many numbered things there are below a prefix."""
    places = prefix.count(".") + 1
    numbers = {key.split(".")[places] for key in shapes if key.startswith(f"{prefix}.")}
    if not numbers:
        raise KeyError(f"{prefix}.*")
    return len(numbers)

"""Random bases with the configurations of the real ones scaled down, single files, and LoRAs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

HIDDEN = {"sd1": "quick_gelu", "sd2": "gelu"}
PREDICTIONS = {"sd1": "epsilon", "sd2": "v_prediction"}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


@pytest.fixture(scope="session")
def family(made_once, tiny_base) -> Callable[[str], Path]:
    """``family("sd1")``, ``family("sd2")``: a random base of that configuration; do not write into it."""

    def get(name: str) -> Path:
        return made_once(f"base-{name}", lambda path: _write_base(path, name, tiny_base))

    return get


@pytest.fixture(scope="session")
def single_file(made_once, family) -> Callable[[str], Path]:
    """``single_file("sd1")``: the same as one file, in a folder without a tokenizer; do not write into it."""

    def get(name: str) -> Path:
        def make(path: Path) -> None:
            from safetensors.torch import save_file

            path.mkdir()
            save_file(ldm_state(family(name)), path / f"{name}.safetensors")

        return made_once(f"single-{name}", make) / f"{name}.safetensors"

    return get


@pytest.fixture(scope="session")
def names_of_stable_diffusion() -> Callable[..., dict[str, Any]]:
    """``names(unet, vae, text_encoder)``: their tensors as Stable Diffusion's own code calls them."""
    return ldm_names


@pytest.fixture
def copy_of(tmp_path) -> Callable[[Path], Path]:
    """``copy_of(base)``: a copy of a folder that a test may damage."""
    return lambda folder: shutil.copytree(folder, tmp_path / f"copy-{folder.name}")


@pytest.fixture(scope="session")
def make_lora(family) -> Callable[..., Path]:
    """``make_lora(path, rank=2, alpha=1.0)``: a LoRA in kohya's format for ``family("sd1")``, text encoder included."""
    import torch
    from safetensors.torch import save_file

    from tav_sdk.training import PretrainedBase

    def make(path: Path, *, base: str = "sd1", rank: int = 2, alpha: float | None = 1.0, seed: int = 0) -> Path:
        generator = torch.Generator().manual_seed(seed)
        model = PretrainedBase(family(base))
        tensors: dict[str, Any] = {}
        ends = {
            "unet": ("to_q", "to_out.0", "ff.net.0.proj", "proj_in", "conv1", "time_emb_proj"),
            "te": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        }
        for part, loaded in (("unet", model.load_unet()), ("te", model.load_text_encoder())):
            for name, module in loaded.named_modules():
                if not name.endswith(ends[part]) or "mid_block" in name:
                    continue
                weight = module.weight
                assert isinstance(weight, torch.Tensor)
                full = name if part == "unet" or name.startswith("text_model.") else f"text_model.{name}"
                key = f"lora_{part}_{full.replace('.', '_')}"
                down, up = (rank, *weight.shape[1:]), (weight.shape[0], rank, *(1,) * (weight.ndim - 2))
                tensors[f"{key}.lora_down.weight"] = 0.2 * torch.randn(down, generator=generator)
                tensors[f"{key}.lora_up.weight"] = 0.2 * torch.randn(up, generator=generator)
                if alpha is not None:
                    tensors[f"{key}.alpha"] = torch.tensor(alpha)
        save_file(tensors, path)
        return path

    return make


def _write_base(path: Path, name: str, tiny_base: Path) -> None:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    shutil.copytree(tiny_base, path)
    vocabulary = len(json.loads((path / "tokenizer" / "vocab.json").read_text(encoding="utf-8")))
    more: dict[str, Any] = {"attention_head_dim": 8}
    if name == "sd2":
        more = {"attention_head_dim": [1, 2], "use_linear_projection": True, "upcast_attention": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        UNet2DConditionModel(
            sample_size={"sd1": 64, "sd2": 96}[name],
            layers_per_block=1,
            block_out_channels=(64, 128),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=64,
            **more,
        ).save_pretrained(path / "unet")
        AutoencoderKL(
            block_out_channels=(32, 64),  # pyright: ignore[reportArgumentType]
            down_block_types=("DownEncoderBlock2D",) * 2,  # pyright: ignore[reportArgumentType]
            up_block_types=("UpDecoderBlock2D",) * 2,  # pyright: ignore[reportArgumentType]
            sample_size={"sd1": 512, "sd2": 768}[name],
        ).save_pretrained(path / "vae")
        CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=64,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=1,
                hidden_act=HIDDEN[name],
                bos_token_id=vocabulary - 2,
                eos_token_id=vocabulary - 1,
                pad_token_id=vocabulary - 1,
            )
        ).save_pretrained(path / "text_encoder")
    config = path / "scheduler" / "scheduler_config.json"
    values = json.loads(config.read_text()) | {"prediction_type": PREDICTIONS[name]}
    config.write_text(json.dumps(values))
    config = path / "tokenizer" / "tokenizer_config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"pad_token": {"sd2": "!"}.get(name, "<|endoftext|>")})
    )


# --- names of Stable Diffusion's own code ---------------------------------------------------------------------------


def ldm_state(base: Path) -> dict[str, Any]:
    """A base's tensors under the names of Stable Diffusion's own code."""
    import torch

    from tav_sdk.training import PretrainedBase

    model = PretrainedBase(base)
    state = ldm_names(model.load_unet(), model.load_vae(), model.load_text_encoder())
    state["betas"] = torch.zeros(1000)
    state["model_ema.decay"] = torch.tensor(0.9999)
    return {name: tensor.contiguous().clone() for name, tensor in state.items()}


def ldm_names(unet: Any, vae: Any, text_encoder: Any) -> dict[str, Any]:
    """The tensors of three models under the names of Stable Diffusion's own code."""
    import torch

    layers, levels = unet.config.layers_per_block, len(vae.config.block_out_channels)
    tensors = unet.state_dict()
    state = {f"model.diffusion_model.{_unet_name(name, layers, tensors)}": tensors[name] for name in tensors}
    for name, tensor in vae.state_dict().items():
        convolution = "attentions" in name and name.endswith("weight") and tensor.ndim == 2
        state[f"first_stage_model.{_vae_name(name, levels)}"] = tensor[:, :, None, None] if convolution else tensor
    text = {n.removeprefix("text_model."): t for n, t in text_encoder.state_dict().items()}
    if text_encoder.config.hidden_act == "gelu":
        state |= {f"cond_stage_model.model.{name}": tensor for name, tensor in _open_clip(text).items()}
    else:
        state |= {f"cond_stage_model.transformer.text_model.{name}": tensor for name, tensor in text.items()}
        state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return state


def _unet_name(name: str, layers: int, names: Collection[str]) -> str:
    for ours, theirs in UNET_ENDS.items():
        if name.startswith(f"{ours}."):
            return theirs + _inner(name.removeprefix(ours))
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(\..*)", name)
    assert found is not None
    side, block, kind, index, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    place = block * (layers + 1) + index
    if side == "down":
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0{rest.replace('.conv', '.op')}"
        return f"input_blocks.{place + 1}.{int(kind == 'attentions')}{_inner(rest)}"
    if kind == "upsamplers":
        behind = any(other.startswith(f"up_blocks.{block}.attentions.") for other in names)
        return f"output_blocks.{block * (layers + 1) + layers}.{1 + behind}{rest}"
    return f"output_blocks.{place}.{int(kind == 'attentions')}{_inner(rest)}"


def _inner(rest: str) -> str:
    for ours, theirs in RESNET.items():
        if rest.startswith(f".{ours}."):
            return f".{theirs}{rest.removeprefix(f'.{ours}')}"
    return rest


def _vae_name(name: str, levels: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    if ".mid_block.attentions.0." in name:
        head, tail = name.split(".mid_block.attentions.0.")
        part, kind = tail.rsplit(".", 1)
        return f"{head}.mid.attn_1.{VAE_ATTENTION[part]}.{kind}"
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda found: f"up.{levels - 1 - int(found[1])}.block", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{levels - 1 - int(found[1])}.upsample", name)


def _open_clip(text: dict[str, Any]) -> dict[str, Any]:
    import torch

    state = {
        "token_embedding.weight": text["embeddings.token_embedding.weight"],
        "positional_embedding": text["embeddings.position_embedding.weight"],
        "ln_final.weight": text["final_layer_norm.weight"],
        "ln_final.bias": text["final_layer_norm.bias"],
        "text_projection": torch.eye(len(text["final_layer_norm.bias"])),
        "logit_scale": torch.tensor(1.0),
    }
    count = len({name.split(".")[2] for name in text if name.startswith("encoder.layers.")})
    for layer in range(count + 1):  # the last one is in the files, and is not used
        source = f"encoder.layers.{min(layer, count - 1)}."
        target = f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            for ours, theirs in OPEN_CLIP.items():
                state[f"{target}{theirs}.{kind}"] = text[f"{source}{ours}.{kind}"]
            parts = [text[f"{source}self_attn.{side}_proj.{kind}"] for side in "qkv"]
            state[f"{target}attn.in_proj_{kind}"] = torch.cat(parts)
    return state


@pytest.fixture
def config(tiny_base, clip_path, tmp_path):
    """A short tuning of ``tiny_base`` into ``tmp_path / "run"``, with snapshots after steps 2 and 4."""
    from tav_sdk.training import TuneConfig

    return TuneConfig(
        base=tiny_base,
        video=clip_path,
        prompt="a red square is moving",
        out=tmp_path / "run",
        num_frames=4,
        height=32,
        width=32,
        num_train_steps=5,
        learning_rate=1e-3,
        checkpointing_steps=2,
    )

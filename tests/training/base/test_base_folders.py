"""Base folders of Stable Diffusion 1.x and 2.x, written by old and new versions of diffusers."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from tav_sdk.diffusion.schedule import DDIMSchedule
from tav_sdk.errors import BaseModelError, InputError, PickledWeightsError
from tav_sdk.training import InflationOptions, PretrainedBase, TuneConfig, inflate, tune

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def rewrite(path, change):
    state = load_file(path)
    save_file(dict(change(state)), path)


def edit_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def same(got, expected, rounded=False):
    theirs = expected.state_dict()
    return all(
        torch.equal(tensor, theirs[key].half().float() if rounded else theirs[key])
        for key, tensor in got.state_dict().items()
    )


@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_each_family_is_tuned(family, clip_path, tmp_path, name):
    config = TuneConfig(base=family(name), video=clip_path, prompt="a red square", out=tmp_path / "run", num_frames=2)
    run = tune(config.replace(height=16, width=16, num_train_steps=2, mixed_precision="bf16"))
    assert run.record["schedule"]["prediction_type"] == {"sd1": "epsilon", "sd2": "v_prediction"}[name]
    assert (config.height, config.width) == {"sd1": (128, 128), "sd2": (192, 192)}[name]


def test_temporal_attention_has_the_heads_of_its_level(family):
    model = inflate(PretrainedBase(family("sd2")).load_unet(), InflationOptions(), 2)
    heads = [(name, module.heads) for name, module in model.named_modules() if name.endswith("attn_temp")]
    assert dict(heads) == {
        "down_blocks.0.attentions.0.transformer_blocks.0.attn_temp": 1,
        "mid_block.attentions.0.transformer_blocks.0.attn_temp": 2,
        "up_blocks.1.attentions.0.transformer_blocks.0.attn_temp": 1,
        "up_blocks.1.attentions.1.transformer_blocks.0.attn_temp": 1,
    }


def test_an_inflated_2x_model_starts_as_the_image_model(family):
    base, sample, states = PretrainedBase(family("sd2")), torch.randn(1, 4, 2, 8, 8), torch.randn(1, 77, 64)
    with torch.no_grad():
        expected = base.load_unet()(sample[:, :, 0], 500, states).sample
        got = inflate(base.load_unet(), InflationOptions(), 2)(sample, 500, states)[:, :, 0]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_a_folder_of_the_first_diffusers_loads(family, copy_of):
    folder = copy_of(family("sd1"))
    known = ("sample_size", "in_channels", "out_channels", "center_input_sample", "flip_sin_to_cos", "freq_shift")
    known += ("down_block_types", "up_block_types", "block_out_channels", "layers_per_block", "downsample_padding")
    known += ("mid_block_scale_factor", "act_fn", "norm_num_groups", "norm_eps", "cross_attention_dim")

    def keep(values):
        for key in [key for key in values if key not in (*known, "attention_head_dim")]:
            del values[key]
        values |= {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.2.2"}

    edit_json(folder / "unet" / "config.json", keep)
    edit_json(folder / "vae" / "config.json", lambda values: values.pop("scaling_factor"))
    edit_json(folder / "scheduler" / "scheduler_config.json", lambda values: values.pop("prediction_type"))

    def old_names(state):
        for key, tensor in state.items():
            for new, old in OLD_ATTENTION.items():
                key = re.sub(rf"(mid_block\.attentions\.0\.){re.escape(new)}\.", rf"\1{old}.", key)
            yield key, tensor

    rewrite(folder / VAE, old_names)
    rewrite(
        folder / TEXT,
        lambda state: {
            **{f"text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in state.items()},
            "text_model.embeddings.position_ids": torch.arange(77)[None],
        },
    )
    base, expected = PretrainedBase(folder), PretrainedBase(family("sd1"))
    assert base.scaling_factor == 0.18215
    assert base.schedule.prediction_type == "epsilon"
    for part in ("load_unet", "load_vae", "load_text_encoder"):
        assert same(getattr(base, part)(), getattr(expected, part)()), part


@pytest.mark.parametrize("mid_block_type", ["UNetMidBlock2DCrossAttn", None])
def test_the_middle_block_may_be_spelt_out_or_not(family, copy_of, mid_block_type):
    folder = copy_of(family("sd1"))
    edit_json(
        folder / "unet" / "config.json",
        lambda values: values.update(mid_block_type=mid_block_type) if mid_block_type else values.pop("mid_block_type"),
    )
    assert same(PretrainedBase(folder).load_unet(), PretrainedBase(family("sd1")).load_unet())


def test_further_parts_are_left_alone(family, copy_of):
    folder = copy_of(family("sd1"))
    for part in ("safety_checker", "feature_extractor"):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text("{}")
    (folder / "safety_checker" / "pytorch_model.bin").write_bytes(b"")
    assert PretrainedBase(folder).sha256 == PretrainedBase(family("sd1")).sha256


def test_half_precision_variants_load_in_float32(family, copy_of):
    folder, expected = copy_of(family("sd1")), PretrainedBase(family("sd1"))
    for part in (UNET, VAE, TEXT):
        rewrite(folder / part, lambda state: {key: tensor.half() for key, tensor in state.items()})
        (folder / part).rename(folder / part.replace(".safetensors", ".fp16.safetensors"))
    base = PretrainedBase(folder)
    for part in ("load_unet", "load_vae", "load_text_encoder"):
        model = getattr(base, part)()
        assert same(model, getattr(expected, part)(), rounded=True), part
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_plain_weights_come_before_variants(family, copy_of):
    folder = copy_of(family("sd1"))
    for name in ("fp16.safetensors", "non_ema.safetensors", "bin"):
        (folder / "unet" / f"diffusion_pytorch_model.{name}").write_bytes(b"not read")
    base = PretrainedBase(folder)
    assert same(base.load_unet(), PretrainedBase(family("sd1")).load_unet())
    assert base.sha256 == PretrainedBase(family("sd1")).sha256  # what is not read is no part of the identity


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_sharded_weights_load(family, copy_of, variant):
    folder, expected = copy_of(family("sd1")), PretrainedBase(family("sd1"))
    for part, load in (("unet", expected.load_unet), ("text_encoder", expected.load_text_encoder)):
        for path in (folder / part).glob("*.safetensors"):
            path.unlink()
        options = {"variant": variant} if variant else {}
        load().save_pretrained(folder / part, max_shard_size="150KB", **options)
        assert len(list((folder / part).glob("*.safetensors"))) > 1
    base = PretrainedBase(folder)
    assert same(base.load_unet(), expected.load_unet())
    assert same(base.load_text_encoder(), expected.load_text_encoder())


def test_a_missing_shard_is_named(family, copy_of):
    folder = copy_of(family("sd1"))
    (folder / UNET).unlink()
    PretrainedBase(family("sd1")).load_unet().save_pretrained(folder / "unet", max_shard_size="1MB")
    shard = sorted((folder / "unet").glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(BaseModelError, match=rf"names shards that are not there: {shard.name}; download the model"):
        PretrainedBase(folder)


def test_missing_and_extra_tensors_are_listed_with_their_count(family, copy_of):
    folder = copy_of(family("sd1"))

    def damage(state):
        state.pop("conv_in.bias")
        return state | {f"motion.{index:02}": torch.zeros(1) for index in range(12)}

    rewrite(folder / UNET, damage)
    with pytest.raises(BaseModelError) as refused:
        PretrainedBase(folder).load_unet()
    text = str(refused.value)
    assert "do not fit its config.json (13 differences):\n  missing conv_in.bias\n  unexpected motion.00\n" in text
    assert "motion.08" in text
    assert "motion.09" not in text  # ten are shown
    assert "\n  and 3 more\nDownload the model again" in text


def test_tensors_of_another_shape_are_refused(family, copy_of):
    folder = copy_of(family("sd1"))
    rewrite(folder / UNET, lambda state: state | {"conv_in.bias": torch.zeros(3)})
    with pytest.raises(BaseModelError, match=r"the unet of the base model .* (cannot be read|do not fit)"):
        PretrainedBase(folder).load_unet()


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ({"_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["t", "C"]}, r"as SDXL's does"),
        ({"_class_name": "StableDiffusion3Pipeline", "transformer": ["d", "T"]}, r"so there is no U-Net to inflate"),
    ],
)
def test_pipelines_of_other_kinds_are_refused_with_the_reason(family, copy_of, index, reason):
    folder = copy_of(family("sd1"))
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(BaseModelError, match=rf"\({index['_class_name']}\) cannot be inflated: .*{reason}"):
        PretrainedBase(folder)


def test_a_unet_of_sdxl_is_refused_with_the_reason(family, copy_of):
    folder = copy_of(family("sd1"))
    unet = PretrainedBase(folder).load_unet()
    unet.register_to_config(addition_embed_type="text_time")
    with pytest.raises(BaseModelError, match=r"takes additional conditions .*, as SDXL and DeepFloyd do"):
        inflate(unet)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 2816},
            "takes additional conditions (addition_embed_type='text_time'), as SDXL and DeepFloyd do",
        ),
        ({"num_class_embeds": 1000}, "takes a class (num_class_embeds=1000), as upscalers and unCLIP do"),
        ({"only_cross_attention": [True, False]}, "has no plain self-attention (only_cross_attention=[True, False])"),
        (
            {
                "down_block_types": ["DownBlock2D"] * 2,
                "up_block_types": ["UpBlock2D"] * 2,
                "mid_block_type": "UNetMidBlock2D",
            },
            "has no transformer block with attention, so there is nothing to tune",
        ),
        (
            {"_class_name": "UNet3DConditionModel"},
            "is a UNet3DConditionModel, a video model already; tav import-original takes those of the released code",
        ),
        ({"_class_name": "UNetMotionModel"}, "is a UNetMotionModel, expected a UNet2DConditionModel"),
    ],
)
def test_what_a_unets_configuration_tells_is_refused_alike_everywhere(
    tav, family, copy_of, clip_path, tmp_path, changes, reason
):
    folder = copy_of(family("sd1"))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    edit_json(folder / "unet" / "config.json", lambda values: values.update(changes))
    text = f"error: the U-Net of the base model {folder} {reason}; Stable Diffusion 1.x and 2.x are supported\n"
    tune = ("tune", "--base", folder, "--video", clip_path, "--prompt", "a", "--out", tmp_path / "run")
    for command in (tune, ("plan", "--base", folder), ("info", folder)):
        result = tav(*command)
        assert (result.exit_code, result.stderr) == (2, text)


@pytest.mark.parametrize("command", ["plan", "info"])
def test_a_flow_matching_base_is_refused_before_anything_is_read(tav, family, copy_of, command):
    folder = copy_of(family("sd1"))
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    result = tav(*{"plan": ("plan", "--base", folder), "info": ("info", folder)}[command])
    assert result.exit_code == 2
    assert "error: FlowMatchEulerDiscreteScheduler is a flow-matching scheduler" in result.stderr


def test_an_upscaler_is_refused_with_the_reason(family):
    unet = PretrainedBase(family("sd1")).load_unet()
    unet.register_to_config(num_class_embeds=1000)
    with pytest.raises(BaseModelError, match=r"takes a class .*, as upscalers and unCLIP do"):
        inflate(unet)


def test_an_inpainting_model_is_refused_with_the_reason(family, copy_of):
    folder = copy_of(family("sd1"))
    edit_json(folder / "unet" / "config.json", lambda values: values.update(in_channels=9))
    with pytest.raises(BaseModelError, match=r"takes 9 channels, its VAE gives 4: models for inpainting"):
        PretrainedBase(folder)


def test_pickled_variants_are_refused_and_read_when_allowed(family, copy_of):
    folder = copy_of(family("sd1"))
    state = load_file(folder / UNET)
    (folder / UNET).unlink()
    torch.save(state, folder / "unet" / "diffusion_pytorch_model.fp16.bin")
    with pytest.raises(PickledWeightsError, match=r"only pickled weights \(diffusion_pytorch_model.fp16.bin\)"):
        PretrainedBase(folder)
    assert same(PretrainedBase(folder, allow_pickle=True).load_unet(), PretrainedBase(family("sd1")).load_unet())


def test_a_prediction_type_can_be_set_right(family):
    plain, other = PretrainedBase(family("sd1")), PretrainedBase(family("sd1"), prediction_type="v_prediction")
    assert other.schedule.prediction_type == "v_prediction"
    assert other.sha256 != plain.sha256
    assert PretrainedBase(family("sd1"), prediction_type="epsilon").sha256 == plain.sha256


def test_a_base_of_zero_terminal_snr_is_sampled_as_diffusers_does(family, copy_of):
    from diffusers import DDIMScheduler

    folder = copy_of(family("sd2"))
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    edit_json(folder / "scheduler" / "scheduler_config.json", lambda values: values.update(zero))
    ours, theirs = PretrainedBase(folder).schedule, DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    assert ours.alphas_cumprod[-1] == 0.0
    assert isinstance(theirs, DDIMScheduler)
    theirs.set_timesteps(10)
    latents, velocity = torch.randn(2, 1, 4, 2, 4, 4)
    for timestep in theirs.timesteps.tolist():  # the first is 999, where there is nothing but noise
        expected = theirs.step(velocity, timestep, latents).prev_sample  # pyright: ignore[reportAttributeAccessIssue]
        got = torch.from_numpy(ours.step(velocity.numpy(), timestep, latents.numpy(), 10))
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_predicting_noise_out_of_noise_alone_is_refused(family):
    config = PretrainedBase(family("sd1")).configs["scheduler"]
    schedule = DDIMSchedule.from_config(config | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"})
    latents = torch.randn(1, 4, 2, 4, 4).numpy()
    with pytest.raises(
        InputError, match=r"says nothing about the sample where there is nothing but noise; set rescale"
    ):
        schedule.step(latents, 999, latents, 10)


def test_a_tokenizer_of_the_first_diffusers_gives_the_same_ids(family, copy_of):
    folder = copy_of(family("sd1"))

    def old(values):
        for name in ("bos_token", "eos_token", "unk_token"):
            flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
            values[name] = {"__type": "AddedToken", "content": values[name], **flags}
        values |= {"add_prefix_space": False, "name_or_path": "openai/clip-vit-large-patch14"}
        values |= {"special_tokens_map_file": "./special_tokens_map.json"}

    edit_json(folder / "tokenizer" / "tokenizer_config.json", old)
    special = dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    (folder / "tokenizer" / "special_tokens_map.json").write_text(
        json.dumps({"bos_token": "<|startoftext|>"} | special)
    )
    got, expected = (PretrainedBase(base).load_tokenizer() for base in (folder, family("sd1")))
    assert (got("A man, skiing!") == expected("A man, skiing!")).all()
    assert got.pad_token == "<|endoftext|>"

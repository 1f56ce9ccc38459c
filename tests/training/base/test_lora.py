"""LoRA files fused into a base, against diffusers with peft."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tav_sdk.errors import BaseModelError, ConfigError, PickledWeightsError
from tav_sdk.training import PretrainedBase, TuneConfig, base_of_run, load_run, tune
from tav_sdk.training.base.lora_file import LoraFile

PEFT = {
    "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q": (128, 128),
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": (64, 64),
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0": (64, 64),
    "text_encoder.text_model.encoder.layers.1.self_attn.v_proj": (64, 64),
}


def pairs(names, template, rank=4, seed=1):
    """Factors for each name, under ``template % (side, name)``."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (out, into) in names.items():
        tensors[template["down"].format(name)] = 0.2 * torch.randn(rank, into, generator=generator)
        tensors[template["up"].format(name)] = 0.2 * torch.randn(out, rank, generator=generator)
    return tensors


def peft_format(path, metadata=None):
    tensors = pairs(PEFT, {"down": "{}.lora_A.weight", "up": "{}.lora_B.weight"})
    save_file(tensors, path, metadata=metadata)
    return path


def kohya_format(path, make_lora):
    return make_lora(path, rank=3, alpha=1.5)


def first_format(path):
    """A LoRA of the U-Net's attention alone, without a prefix."""
    names = {
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q": (64, 64),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out": (64, 64),
    }
    save_file(pairs(names, {"down": "{}_lora.down.weight", "up": "{}_lora.up.weight"}), path)
    return path


def expected_weights(base, files):
    """What diffusers fuses with peft: the state of the U-Net and that of the text encoder."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    for path, scale in files:
        pipe.load_lora_weights(str(path.parent), weight_name=path.name)
        pipe.fuse_lora(lora_scale=scale)
        pipe.unload_lora_weights()
    return pipe.unet.state_dict(), pipe.text_encoder.state_dict()


def check(base, loras, expected):
    model = PretrainedBase(base, loras=loras)
    for got, wanted in ((model.load_unet(), expected[0]), (model.load_text_encoder(), expected[1])):
        own = got.state_dict()
        wanted = {key.replace(".base_layer.", "."): tensor for key, tensor in wanted.items() if "lora_" not in key}
        assert own.keys() == wanted.keys()
        for key, tensor in wanted.items():
            torch.testing.assert_close(own[key], tensor, atol=1e-6, rtol=1e-5, msg=key)
    return model


@pytest.mark.parametrize("form", ["peft", "kohya"])
def test_fusing_equals_diffusers(family, make_lora, tmp_path, form):
    path = tmp_path / "lora.safetensors"
    peft_format(path) if form == "peft" else kohya_format(path, make_lora)
    model = check(family("sd1"), [f"{path}:0.7"], expected_weights(family("sd1"), [(path, 0.7)]))
    plain = PretrainedBase(family("sd1"))
    for part in ("load_unet", "load_text_encoder"):
        before = getattr(plain, part)().state_dict()
        assert any(not torch.equal(tensor, before[key]) for key, tensor in getattr(model, part)().state_dict().items())


def test_several_are_fused_one_after_the_other(family, make_lora, tmp_path):
    first, second = kohya_format(tmp_path / "a.safetensors", make_lora), peft_format(tmp_path / "b.safetensors")
    expected = expected_weights(family("sd1"), [(first, 0.5), (second, -1.0)])
    check(family("sd1"), [f"{first}:0.5", f"{second}:-1"], expected)


def test_the_first_format_is_of_the_unet_alone(family, tmp_path):
    path = first_format(tmp_path / "lora.safetensors")
    tensors = load_file(path)
    block = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    before = PretrainedBase(family("sd1")).load_unet().get_submodule(block)
    after = PretrainedBase(family("sd1"), loras=[path]).load_unet().get_submodule(block)
    for name, theirs in (("to_q.weight", "to_q"), ("to_out.0.weight", "to_out")):
        ours = after.get_parameter(name) - before.get_parameter(name)
        key = f"{block}.processor.{theirs}_lora"
        torch.testing.assert_close(
            ours, tensors[f"{key}.up.weight"] @ tensors[f"{key}.down.weight"], atol=1e-6, rtol=1e-4
        )


def test_the_alpha_of_a_files_metadata_counts(family, tmp_path):
    metadata = {"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {"to_k": 2}, "text_encoder.lora_alpha": 4}
    plain = peft_format(tmp_path / "plain.safetensors")
    path = peft_format(tmp_path / "lora.safetensors", {"lora_adapter_metadata": json.dumps(metadata)})
    before = PretrainedBase(family("sd1")).load_unet()
    one, other = (PretrainedBase(family("sd1"), loras=[lora]).load_unet() for lora in (plain, path))
    for name, factor in (("mid_block.attentions.0.transformer_blocks.0.attn1.to_q", 2.0),
                         ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", 0.5)):  # fmt: skip
        weight = before.get_parameter(f"{name}.weight")
        expected = factor * (one.get_parameter(f"{name}.weight") - weight)
        torch.testing.assert_close(other.get_parameter(f"{name}.weight") - weight, expected, atol=1e-6, rtol=1e-4)


def test_a_linear_projection_takes_the_factors_of_a_convolution(family, make_lora, tmp_path):
    # SD 1.x's proj_in is a 1x1 convolution, SD 2.x's a linear layer.
    path = make_lora(tmp_path / "lora.safetensors", base="sd2")
    state = load_file(path)
    save_file({k: t[..., None, None] if "proj_in" in k and t.ndim == 2 else t for k, t in state.items()}, path)
    PretrainedBase(family("sd2"), loras=[path]).load_unet()


def test_the_scale_and_the_file_are_part_of_the_identity(family, make_lora, tmp_path):
    a, b = (make_lora(tmp_path / f"{seed}.safetensors", seed=seed) for seed in (0, 1))
    moved = Path(shutil.copy(a, tmp_path / "moved.safetensors"))
    given = [[], [a], [f"{a}:0.5"], [b], [a, b], [b, a]]
    assert len({PretrainedBase(family("sd1"), loras=loras).sha256 for loras in given}) == len(given)
    assert (
        PretrainedBase(family("sd1"), loras=[moved]).sha256 == PretrainedBase(family("sd1"), loras=[f"{a}:1.0"]).sha256
    )


@pytest.mark.parametrize(
    ("text", "path", "scale"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        ("C:\\lora.safetensors", "C:\\lora.safetensors", 1.0),
    ],
)
def test_how_a_lora_is_given(text, path, scale):
    assert LoraFile.parse(text) == LoraFile(Path(path), scale)


def test_a_scale_that_is_no_number_is_refused():
    with pytest.raises(ConfigError, match=r"must be a number from -1000 to 1000, as in FILE:0.8; got 'a:nan'"):
        TuneConfig(loras=("a:nan",), video="v", prompt="p", out="o")


@pytest.mark.parametrize("scale", ["abc", "", "nan", "inf"])
def test_a_scale_that_is_no_number_is_refused_behind_a_file(tmp_path, scale):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match=rf"must be a number from -1000 to 1000, as in .*; got '{path}:{scale}'"):
        LoraFile.parse(f"{path}:{scale}")


def test_a_folder_stands_for_the_file_that_diffusers_writes_into_one(tmp_path):
    expected = LoraFile(tmp_path / "pytorch_lora_weights.safetensors", 0.5)
    assert LoraFile.parse(f"{tmp_path}:0.5") == expected


# --- bad files ------------------------------------------------------------------------------------------------------


def test_keys_that_match_nothing_are_listed_with_their_count(family, make_lora, tmp_path):
    path = make_lora(tmp_path / "lora.safetensors")
    state = load_file(path)
    for index in range(12):
        for side, shape in (("down", (2, 64)), ("up", (64, 2))):
            state[f"lora_unet_down_blocks_7_attentions_{index}_proj_in.lora_{side}.weight"] = torch.zeros(shape)
    save_file(state, path)
    with pytest.raises(BaseModelError) as refused:
        PretrainedBase(family("sd1"), loras=[path])
    text = str(refused.value)
    assert f"the LoRA {path} does not fit the base model (12 of its" in text
    assert text.count("\n  unexpected unet.down_blocks.7.attentions.") == 10
    assert "\n  and 2 more\n" in text
    assert max(map(len, text.splitlines()[1:])) <= 120
    assert "It was made for another one: Stable Diffusion 1.x, 2.x and XL all differ" in text


def test_a_lora_of_sdxl_is_refused(family, tmp_path):
    state = pairs({"text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj": (8, 8)},
                  {"down": "{}.lora_A.weight", "up": "{}.lora_B.weight"})  # fmt: skip
    save_file(state, tmp_path / "xl.safetensors")
    with pytest.raises(BaseModelError, match=r"\(2 of its 2 parts match nothing\):\n  unexpected text_encoder_2\."):
        PretrainedBase(family("sd1"), loras=[tmp_path / "xl.safetensors"])


def test_factors_of_another_width_are_refused(family, tmp_path):
    name = next(iter(PEFT))
    save_file(
        pairs({name: (96, 96)}, {"down": "{}.lora_A.weight", "up": "{}.lora_B.weight"}), tmp_path / "l.safetensors"
    )
    with pytest.raises(BaseModelError, match=r"expected factors of a weight \(128, 128\), got \(96, 4\) and \(4, 96\)"):
        PretrainedBase(family("sd1"), loras=[tmp_path / "l.safetensors"])


@pytest.mark.parametrize("form", ["peft", "first", "kohya"])
@pytest.mark.parametrize("side", [0, 1])
def test_half_a_pair_is_refused(family, make_lora, tmp_path, form, side):
    path = tmp_path / "lora.safetensors"
    {"peft": peft_format, "first": first_format, "kohya": lambda p: kohya_format(p, make_lora)}[form](path)
    state = load_file(path)
    sides = {"peft": ("lora_A", "lora_B"), "first": ("lora.down", "lora.up"), "kohya": ("lora_down", "lora_up")}[form]
    lost = next(key for key in state if sides[side] in key)
    there = lost.replace(sides[side], sides[1 - side])
    del state[lost]
    save_file(state, path)
    with pytest.raises(BaseModelError) as refused:
        PretrainedBase(family("sd1"), loras=[path])
    assert str(refused.value) == (
        f"the LoRA {path} is damaged: of 1 pairs of factors only one is there:\n  {there} is there, {lost} is not\n"
        "Download or convert it again"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(family, tmp_path, value):
    path = peft_format(tmp_path / "lora.safetensors")
    state = load_file(path)
    first, second = list(state)[:2]
    state[first][0, 0] = state[second][0, 0] = value
    save_file(state, path)
    with pytest.raises(
        BaseModelError, match=rf"lora.safetensors has values that are not finite: {first} and 1 others; "
    ):
        PretrainedBase(family("sd1"), loras=[path])


def test_an_empty_file_is_refused(family, tmp_path):
    save_file({}, tmp_path / "lora.safetensors")
    with pytest.raises(BaseModelError, match=r"the LoRA .* is empty: there is no tensor in it; download it again"):
        PretrainedBase(family("sd1"), loras=[tmp_path / "lora.safetensors"])


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "is of the kind LoHa, which cannot be fused here"),
        ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "is of the kind LoKr"),
        ("lora_unet_mid_block_attentions_0_proj_in.dora_scale", "is of the kind DoRA"),
        ("model.diffusion_model.out.2.bias", "is no LoRA: it has no key with 'lora' in it, but model.diffusion_model"),
    ],
)
def test_other_kinds_are_refused_with_the_reason(family, tmp_path, key, text):
    save_file({key: torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BaseModelError, match=text):
        PretrainedBase(family("sd1"), loras=[tmp_path / "other.safetensors"])


def test_a_missing_file_is_named(family, tmp_path):
    with pytest.raises(BaseModelError, match=r"there is no LoRA file .*none.safetensors; give FILE or FILE:SCALE"):
        PretrainedBase(family("sd1"), loras=[tmp_path / "none.safetensors:0.5"])


def test_a_damaged_file_is_named(family, tmp_path):
    (tmp_path / "l.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(BaseModelError, match=r"the LoRA .*l.safetensors cannot be read"):
        PretrainedBase(family("sd1"), loras=[tmp_path / "l.safetensors"])


def test_a_pickled_lora_needs_the_flag(family, make_lora, tmp_path):
    path = make_lora(tmp_path / "lora.safetensors")
    pickled = tmp_path / "lora.bin"
    torch.save(load_file(path), pickled)
    with pytest.raises(PickledWeightsError, match=r"the LoRA .*lora.bin is pickled; .* allow it with allow_pickle"):
        PretrainedBase(family("sd1"), loras=[pickled])
    allowed = PretrainedBase(family("sd1"), loras=[pickled], allow_pickle=True).load_unet().state_dict()
    expected = PretrainedBase(family("sd1"), loras=[path]).load_unet().state_dict()
    assert all(torch.equal(allowed[key], tensor) for key, tensor in expected.items())


# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tuned(tav, family, make_lora, clip_path, work):
    lora = make_lora(work / "ink.safetensors")
    args = ("--video", clip_path, "--prompt", "a red square", "--frames", 2, "--height", 16, "--width", 16)
    args += ("--num-train-steps", 1, "--base", family("sd1"), "--lora", f"{lora}:0.5")
    result = tav("tune", *args, "--out", work / "run")
    assert result.exit_code == 0, result.stderr
    return work / "run", lora


def test_a_run_records_its_loras(tav, tuned):
    run, lora = tuned
    recorded = json.loads((run / "run.json").read_text())["base"]["loras"]
    assert recorded == [{"name": "ink.safetensors", "sha256": LoraFile(lora).sha256, "scale": 0.5}]
    assert load_run(run).config.loras == (f"{lora}:0.5",)
    assert json.loads(tav("info", run, "--json").stdout)["loras"] == {"ink.safetensors": 0.5}


def test_a_comparison_takes_a_lora_that_moved(tav, tuned, tmp_path):
    run, lora = tuned
    moved = shutil.move(lora, tmp_path / "moved_ink.safetensors")
    args = ("compare", run, "--prompt", "a", "--steps", 1, "--num-inference-steps", 1)
    result = tav(*args)
    assert result.exit_code == 2
    assert "there is no LoRA file" in result.stderr
    result = tav(*args, "--lora", f"{moved}:0.5")
    assert result.exit_code == 0, result.stderr
    assert (run / "compare.png").is_file()


def test_a_plan_takes_what_tuning_takes(tav, family, make_lora, tmp_path):
    lora = make_lora(tmp_path / "lora.safetensors")
    args = ("plan", "--base", family("sd1"), "--size", 16, "--frames", 2, "--device", "cpu")
    plain = tav(*args).stdout
    more = ("--lora", f"{lora}:0.5", "--tokenizer", family("sd1") / "tokenizer", "--allow-pickle")
    assert tav(*args, *more).stdout == plain != ""
    result = tav(*args, "--lora", tmp_path / "none.safetensors")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "there is no LoRA file" in result.stderr


def test_an_export_refuses_a_changed_lora(tav, tuned, make_lora, work):
    run, lora = tuned
    make_lora(lora, seed=5)
    result = tav("export", run, "--out", work / "bundle", "--no-windows")
    assert result.exit_code == 2
    assert "was tuned with other LoRAs: expected ink.safetensors:0.5 (" in result.stderr
    assert "give those as loras, FILE:SCALE each, in this order" in result.stderr
    assert not (work / "bundle").exists()


def test_a_lora_that_moved_is_given_again(tuned, tmp_path):
    run, lora = tuned
    moved = shutil.move(lora, tmp_path / "moved.safetensors")
    with pytest.raises(BaseModelError, match=r"there is no LoRA file .*ink.safetensors"):
        base_of_run(load_run(run))
    with pytest.raises(BaseModelError, match=r"expected ink.safetensors:0.5 .*, got .*moved.safetensors:1 "):
        base_of_run(load_run(run), loras=[moved])
    assert base_of_run(load_run(run), loras=[f"{moved}:0.5"]).record["loras"][0]["scale"] == 0.5


def test_a_resumed_run_needs_the_same_loras(family, make_lora, clip_path, tmp_path):
    lora = make_lora(tmp_path / "lora.safetensors")
    config = TuneConfig(
        base=family("sd1"), video=clip_path, prompt="a", out=tmp_path / "run", num_frames=2, height=16, width=16
    ).replace(num_train_steps=3, loras=(str(lora),))

    def stop(progress):
        if progress.step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(config, callback=stop)
    with pytest.raises(ConfigError, match=r"cannot be resumed with other settings: base hash"):
        tune(config.replace(loras=(f"{lora}:0.5",)), resume=True)


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
def test_a_name_that_the_system_cannot_have_is_no_file(name):
    with pytest.raises(BaseModelError, match="there is no LoRA file"):
        LoraFile.parse(f"x:{name}").check()
    with pytest.raises(ConfigError, match="the scale of a LoRA must be a number from"):
        LoraFile.parse(f"x:{'9' * 5000}")

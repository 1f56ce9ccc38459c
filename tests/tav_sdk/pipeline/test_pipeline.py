import numpy as np
import pytest

import tav_sdk
from tav_sdk.bundle.bundle import Bundle
from tav_sdk.diffusion.inversion import ddim_invert
from tav_sdk.diffusion.sampling import ddim_sample
from tav_sdk.engines import open_engine
from tav_sdk.errors import BundleError, CancelledError, EngineError, InputError
from tav_sdk.pipeline.model import TunedModel
from tav_sdk.pipeline.pipeline import Pipeline


@pytest.fixture(scope="module")
def pipeline(tiny_bundle):
    with tav_sdk.load(tiny_bundle, cache=False) as pipeline:
        yield pipeline


@pytest.fixture
def clip(pipeline, clip_path):
    manifest = pipeline.manifest
    return tav_sdk.read_video(clip_path, num_frames=manifest.num_frames, size=(manifest.height, manifest.width))


def test_an_edit_has_the_clips_shape_and_rate(pipeline, clip):
    video = pipeline.edit("a blue circle", pipeline.invert(clip, num_inversion_steps=3), num_inference_steps=3)
    assert video.frames.shape == clip.frames.shape
    assert video.fps == clip.fps


def test_a_pipeline_says_what_it_is(pipeline):
    text = repr(pipeline)
    assert text.startswith("Pipeline('")
    assert f"engine={pipeline.engine!r}, precision='fp32', num_frames=4" in text


def test_the_same_seed_gives_the_same_video(pipeline):
    one, two, other = (pipeline.generate("a man", seed=seed, num_inference_steps=2).frames for seed in (7, 7, 8))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


def test_the_prompt_matters(pipeline, clip):
    inversion = pipeline.invert(clip, num_inversion_steps=2)
    one, two = (pipeline.edit(prompt, inversion, num_inference_steps=2).frames for prompt in ("a man", "a red car"))
    assert (one != two).any()


def test_the_negative_prompt_matters(pipeline):
    plain = pipeline.generate("a man", num_inference_steps=2).frames
    assert (plain != pipeline.generate("a man", negative_prompt="snow", num_inference_steps=2).frames).any()


def test_inverting_and_sampling_without_guidance_reconstructs_the_latents(pipeline):
    source = np.random.default_rng(0).standard_normal(pipeline.manifest.latents_shape, dtype=np.float32)
    states, errors = pipeline.encode_prompt("a man"), {}

    def unet(*args):  # a random U-Net jumps about with its input more than a trained one
        return 0.25 * pipeline.unet(*args)

    for steps in (50, 200):
        noise = ddim_invert(unet, source, states, pipeline.schedule, steps)
        back = ddim_sample(unet, noise, states, None, pipeline.schedule, steps, 1.0)
        errors[steps] = np.abs(back - source).mean() / np.abs(source).mean()
    assert errors[200] < 0.1
    assert errors[200] < 0.4 * errors[50]  # a method of first order


def test_latents_are_the_posteriors_mean_or_a_seeded_sample_of_it(pipeline, clip):
    mean = pipeline.encode(clip)
    np.testing.assert_array_equal(mean, pipeline.encode(clip))
    np.testing.assert_array_equal(pipeline.encode(clip, posterior_seed=1), pipeline.encode(clip, posterior_seed=1))
    assert (pipeline.encode(clip, posterior_seed=1) != mean).any()


def test_encoding_equals_diffusers(pipeline, clip, tiny_base):
    import torch

    from tav_sdk.training import PretrainedBase
    from tav_sdk.video.frames import to_pixels

    base = PretrainedBase(tiny_base)
    with torch.no_grad():
        expected = base.load_vae().encode(torch.from_numpy(to_pixels(clip.frames))).latent_dist.mean  # pyright: ignore[reportAttributeAccessIssue]
    expected = (expected * base.scaling_factor).transpose(0, 1)[None].numpy()
    np.testing.assert_allclose(pipeline.encode(clip), expected, atol=1e-5)


def test_every_stage_reports_its_steps(pipeline, clip):
    steps = []
    inversion = pipeline.invert(clip, num_inversion_steps=2, callback=steps.append)
    pipeline.edit("a man", inversion, num_inference_steps=3, callback=steps.append)
    last = {step.stage: (step.step, step.total) for step in steps}
    assert last == {"encode": (1, 1), "inversion": (2, 2), "sampling": (3, 3), "decode": (1, 1)}


def test_a_callback_cancels_an_edit(pipeline):
    with pytest.raises(CancelledError, match="sampling was cancelled after step 2 of 5"):
        pipeline.generate("a man", num_inference_steps=5, callback=lambda progress: progress.step < 2)


def test_a_clip_of_another_size_is_refused(pipeline, clip_path):
    clip = tav_sdk.read_video(clip_path, num_frames=pipeline.manifest.num_frames, size=(24, 24))
    text = (
        r"clip must have any number of frames of 64x64 pixels \(height x width\), as the bundle takes them, got 4 "
        r"frames of 24x24; read the clip with size=\(64, 64\), or tune"
    )
    with pytest.raises(InputError, match=text):
        pipeline.invert(clip)


@pytest.mark.parametrize("num_frames", [3, 6])
def test_a_clip_of_another_length_is_taken(pipeline, clip_path, num_frames):
    size = (pipeline.manifest.height, pipeline.manifest.width)
    clip = tav_sdk.read_video(clip_path, num_frames=num_frames, size=size)
    inversion = pipeline.invert(clip, num_inversion_steps=1)
    assert pipeline.edit("a man", inversion, num_inference_steps=1).frames.shape == clip.frames.shape


def test_a_shorter_clip_is_refused_where_there_is_no_windowed_graph(bundle_copy, edit_manifest, clip_path):
    edit_manifest(lambda manifest: manifest["graphs"].pop("windowed_unet"))
    clip = tav_sdk.read_video(clip_path, num_frames=3, size=(64, 64))
    text = r"clip must have 4 frames or more of 64x64 pixels \(height x width\), as the bundle .* got 3 frames of 64x64"
    with tav_sdk.load(bundle_copy, cache=False) as pipeline, pytest.raises(InputError, match=text):
        pipeline.invert(clip)


def test_too_many_steps_are_refused(pipeline, clip):
    with pytest.raises(InputError, match="num_inversion_steps must be a whole number from 1 to 1000, got 0"):
        pipeline.invert(clip, num_inversion_steps=0)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_guidance_that_is_no_number_is_refused(pipeline, scale):
    with pytest.raises(InputError, match="guidance_scale must be a finite number, got"):
        pipeline.generate("a man", guidance_scale=scale)


def test_a_callback_that_is_no_function_is_refused(pipeline, clip):
    with pytest.raises(InputError, match="callback must be a function of a StepProgress, got int"):
        pipeline.invert(clip, callback=5)


def test_an_array_instead_of_a_clip_is_refused(pipeline, clip):
    with pytest.raises(InputError, match=r"clip must be a tav_sdk.Video, got ndarray; wrap frames: Video\("):
        pipeline.invert(clip.frames)


@pytest.mark.parametrize("call", ["generate", "encode"])
def test_a_negative_seed_is_refused(pipeline, clip, call):
    first = {"generate": "a man", "encode": clip}[call]
    name = "posterior_seed" if call == "encode" else "seed"
    with pytest.raises(InputError, match=f"^{name} must be a whole number from 0 to .*, got -1"):
        getattr(pipeline, call)(first, **{name: -1})


def test_an_unknown_engine_is_refused(tiny_bundle):
    with pytest.raises(EngineError, match="there is no engine 'gpu'; those that work here: auto"):
        tav_sdk.load(tiny_bundle, engine="gpu")


def test_a_closed_pipeline_opens_its_engines_again(tiny_bundle):
    pipeline = tav_sdk.load(tiny_bundle)
    before = pipeline.encode_prompt("a man")
    pipeline.close()
    np.testing.assert_array_equal(pipeline.encode_prompt("a man"), before)
    pipeline.close()


# --- corrections ----------------------------------------------------------------------------------------------------


def prompts_of(monkeypatch):
    """The prompts that are encoded from now on."""
    seen, encode_prompt = [], TunedModel.encode_prompt
    monkeypatch.setattr(
        TunedModel, "encode_prompt", lambda model, prompt: seen.append(prompt) or encode_prompt(model, prompt)
    )
    return seen


def test_without_a_correction_an_inversion_keeps_nothing_for_one(pipeline, clip):
    inversion = pipeline.invert(clip, num_inversion_steps=2)
    assert (inversion.correction, inversion.offsets, inversion.prompt) == ("none", None, "")


def test_the_negative_prompt_correction_has_the_caption_on_both_sides(pipeline, clip, monkeypatch):
    seen = prompts_of(monkeypatch)
    inversion = pipeline.invert(clip, num_inversion_steps=2, correction="negative-prompt")
    assert (inversion.prompt, inversion.offsets) == ("a red square is moving over the meadow", None)
    video = pipeline.edit("a man", inversion, num_inference_steps=2)
    assert seen == [inversion.prompt, "a man", inversion.prompt]
    plain = pipeline.invert(clip, prompt=inversion.prompt, num_inversion_steps=2)
    other = pipeline.edit("a man", plain, negative_prompt=plain.prompt, num_inference_steps=2)
    np.testing.assert_array_equal(video.frames, other.frames)


def test_the_direct_correction_gives_the_clip_back(pipeline, clip):
    stages, latents = [], []
    inversion = pipeline.invert(
        clip,
        prompt="a man",
        num_inversion_steps=4,
        correction="direct",
        callback=lambda step: stages.append(step.stage),
    )
    assert stages == ["encode"] + ["inversion"] * 4 + ["correction"] * 4
    assert inversion.offsets is not None
    assert inversion.offsets.shape == (4, *inversion.latents.shape)
    pipeline.edit("a man", inversion, guidance_scale=1.0, callback=lambda step: latents.append(step.latents))
    np.testing.assert_allclose(latents[3], inversion.source_latents, atol=1e-3)
    plain = pipeline.invert(clip, prompt="a man", num_inversion_steps=4)
    np.testing.assert_array_equal(plain.latents, inversion.latents)


def test_a_fast_edit_takes_half_and_a_third_of_the_steps(pipeline, clip):
    seen = []
    inversion = pipeline.invert(clip, fast=True, callback=lambda step: seen.append(step.stage))
    video = pipeline.edit("a man", inversion, callback=lambda step: seen.append(step.stage))
    assert video.num_frames == clip.num_frames
    assert (seen.count("inversion"), seen.count("sampling")) == (25, 16)
    other = pipeline.edit("a man", inversion, num_inference_steps=3, callback=lambda step: seen.append(step.timestep))
    assert [timestep for timestep in seen if isinstance(timestep, int)] == [981, 491, 1]
    assert (other.frames != video.frames).any()


def test_a_fast_inversion_takes_no_direct_correction(pipeline, clip):
    with pytest.raises(InputError, match="correction cannot be direct with a fast inversion"):
        pipeline.invert(clip, fast=True, correction="direct")


def test_an_unknown_correction_is_refused(pipeline, clip):
    with pytest.raises(InputError, match="correction must be none, negative-prompt or direct, got 'null'"):
        pipeline.invert(clip, correction="null")


def test_the_negative_prompt_correction_without_a_caption_is_refused(pipeline, clip):
    text = "^prompt must say what the clip shows for the correction negative-prompt, got ' '; leave it out"
    with pytest.raises(InputError, match=text):
        pipeline.invert(clip, prompt=" ", correction="negative-prompt")


def test_the_negative_prompt_correction_takes_no_other_negative_prompt(pipeline, clip):
    inversion = pipeline.invert(clip, num_inversion_steps=2, correction="negative-prompt")
    with pytest.raises(
        InputError, match="negative_prompt must be empty with the correction negative-prompt, got 'snow'"
    ):
        pipeline.edit("a man", inversion, negative_prompt="snow", num_inference_steps=2)


def test_the_direct_correction_takes_no_other_number_of_steps(pipeline, clip):
    inversion = pipeline.invert(clip, num_inversion_steps=2, correction="direct")
    with pytest.raises(
        InputError,
        match=r"num_inference_steps must be 2 with the correction direct, .*, got 3",
    ):
        pipeline.edit("a man", inversion, num_inference_steps=3)


# --- the adapter scale ----------------------------------------------------------------------------------------------


@pytest.fixture
def other_pipeline(other_bundle):
    """A pipeline whose weights are far from the base's."""
    with tav_sdk.load(other_bundle, engine="onnxruntime-cpu", cache=False) as pipeline:
        yield pipeline


def predicted(pipeline, frames=None):
    sample = np.random.default_rng(0).standard_normal(pipeline.manifest.latents_shape, dtype=np.float32)
    sample = sample if frames is None else np.repeat(sample[:, :, :1], frames, axis=2)
    return pipeline.unet(sample, np.asarray(500), pipeline.encode_prompt("a man")), sample


def test_a_scale_of_1_is_bit_identical_and_comes_back(other_pipeline, tiny_bundle):
    first, _ = predicted(other_pipeline)
    other_pipeline.adapter_scale = 0.5
    assert other_pipeline.adapter_scale == 0.5
    half, _ = predicted(other_pipeline)
    other_pipeline.adapter_scale = 1
    np.testing.assert_array_equal(predicted(other_pipeline)[0], first)
    with tav_sdk.load(
        other_pipeline.bundle.folder, engine=other_pipeline.engine, cache=False, adapter_scale=0.5
    ) as loaded:
        np.testing.assert_array_equal(predicted(loaded)[0], half)
    assert np.abs(half - first).max() > 1e-4


def test_scale_0_is_the_image_model(other_pipeline, tiny_base):
    """Frame 0 sees itself alone; of a clip that stands still every frame does."""
    import torch

    from tav_sdk.training import PretrainedBase

    other_pipeline.adapter_scale = 0
    unet, states = PretrainedBase(tiny_base).load_unet(), torch.from_numpy(other_pipeline.encode_prompt("a man"))
    for frames, alike in ((None, 1), (other_pipeline.manifest.num_frames, other_pipeline.manifest.num_frames)):
        got, sample = predicted(other_pipeline, frames)
        with torch.no_grad():
            expected = unet(torch.from_numpy(sample[:, :, 0]), 500, states).sample.numpy()
        for frame in range(alike):
            np.testing.assert_allclose(got[:, :, frame], expected, atol=1e-4)
    other_pipeline.adapter_scale = 1
    assert np.abs(predicted(other_pipeline)[0][:, :, 0] - expected).max() > 1e-3


def test_scale_0_is_the_inflated_base(other_pipeline, tiny_base, other_run):
    import torch

    from tav_sdk.training import PretrainedBase, inflate, load_run

    other_pipeline.adapter_scale = 0
    got, sample = predicted(other_pipeline)
    model = inflate(PretrainedBase(tiny_base).load_unet(), load_run(other_run).inflation, sample.shape[2]).eval()
    with torch.no_grad():
        states = torch.from_numpy(other_pipeline.encode_prompt("a man"))
        expected = model(torch.from_numpy(sample), torch.tensor(500), states).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_the_scale_stays_when_weights_are_swapped(other_pipeline, tiny_bundle):
    other_pipeline.adapter_scale = 0
    base, _ = predicted(other_pipeline)
    other_pipeline.swap(tiny_bundle)
    assert other_pipeline.adapter_scale == 0
    np.testing.assert_array_equal(predicted(other_pipeline)[0], base)


def test_a_scale_out_of_range_is_refused_and_changes_nothing(other_pipeline, tiny_bundle):
    before, _ = predicted(other_pipeline)
    with pytest.raises(InputError, match=r"adapter_scale must be from 0 \(the base\) to 2, got 3"):
        other_pipeline.adapter_scale = 3
    assert other_pipeline.adapter_scale == 1
    np.testing.assert_array_equal(predicted(other_pipeline)[0], before)
    with pytest.raises(InputError, match=r"adapter_scale must be from 0 \(the base\) to 2, got nan"):
        tav_sdk.load(tiny_bundle, adapter_scale=float("nan"))


def test_a_bundle_of_before_there_was_a_scale_is_refused_another_one(bundle_copy, edit_manifest):
    def age(manifest):
        del manifest["graphs"]["unet"]["untuned"], manifest["files"]["unet/untuned.safetensors"]

    edit_manifest(age)
    with tav_sdk.load(bundle_copy, cache=False) as pipeline:
        before, _ = predicted(pipeline)
        text = "does not hold the base's own weights, which adapter_scale 0.5 needs; export its run again, or leave the"
        with pytest.raises(BundleError, match=text):
            pipeline.adapter_scale = 0.5
        np.testing.assert_array_equal(predicted(pipeline)[0], before)


def test_an_engine_that_was_given_takes_no_scale(tiny_bundle):
    bundle = Bundle(tiny_bundle)
    with open_engine(bundle.graph("unet"), engine="onnxruntime-cpu") as engine:
        text = "adapter_scale must be 1, got 0.5: the pipeline was given its unet engine, whose weights are fixed"
        with pytest.raises(InputError, match=text):
            Pipeline(bundle, engine="onnxruntime-cpu", engines={"unet": engine}, adapter_scale=0.5)


# --- the cache of inversions ----------------------------------------------------------------------------------------


@pytest.fixture
def stages(pipeline, tiny_bundle, clip):
    """``stages(cache=, ...)``: an inversion by a new pipeline, and the stages that it went through."""

    def invert(cache=True, **how):
        seen = []
        with tav_sdk.load(tiny_bundle, cache=cache) as fresh:
            inversion = fresh.invert(clip, **{"num_inversion_steps": 2, **how}, callback=lambda step: seen.append(step))
        return inversion, [step.stage for step in seen]

    return invert


def test_a_second_inversion_of_a_clip_comes_from_the_cache(stages):
    first, made = stages()
    second, found = stages()
    assert made == ["encode", "inversion", "inversion"]
    assert found == ["inversion"]
    assert (second.prompt, second.fps, second.num_inversion_steps) == (first.prompt, first.fps, 2)
    np.testing.assert_array_equal(second.latents, first.latents)
    np.testing.assert_array_equal(second.source_latents, first.source_latents)


def test_an_inversion_with_another_scale_does_not_come_from_the_cache(tiny_bundle, clip, stages):
    first, _ = stages()
    with tav_sdk.load(tiny_bundle, adapter_scale=0) as pipeline:
        seen = []
        second = pipeline.invert(clip, num_inversion_steps=2, callback=lambda step: seen.append(step.stage))
    assert "encode" in seen
    assert (second.latents != first.latents).any()


def test_a_direct_inversion_comes_from_the_cache_with_its_offsets(stages):
    first, made = stages(correction="direct")
    second, found = stages(correction="direct")
    assert (made.count("correction"), found) == (2, ["inversion"])
    assert second.correction == "direct"
    np.testing.assert_array_equal(second.offsets, first.offsets)


def test_a_fast_inversion_comes_from_the_cache_with_its_start(stages):
    first, made = stages(fast=True)
    second, found = stages(fast=True)
    assert (made.count("inversion"), found) == (2, ["inversion"])
    assert first.start_timestep == second.start_timestep == 981  # of 50 steps
    np.testing.assert_array_equal(second.latents, first.latents)


@pytest.mark.parametrize(
    "how",
    [{"prompt": "a man"}, {"num_inversion_steps": 3}, {"posterior_seed": 1}, {"correction": "direct"}, {"fast": True}],
)
def test_another_inversion_does_not_come_from_the_cache(stages, how):
    stages()
    assert stages(**how)[1].count("inversion") == how.get("num_inversion_steps", 2)


def test_without_the_cache_nothing_is_kept_or_found(stages):
    stages(cache=False)
    assert stages()[1][0] == "encode"
    assert stages(cache=False)[1][0] == "encode"


def test_another_clips_weights_invert_anew(tiny_bundle, other_run, clip, tmp_path):
    from tav_sdk.export import export_clip

    other, seen = export_clip(other_run, tmp_path / "other", bundle=tiny_bundle), []
    with tav_sdk.load(tiny_bundle) as pipeline:
        one = pipeline.invert(clip, prompt="a man", num_inversion_steps=2)
        pipeline.swap(other)
        two = pipeline.invert(
            clip, prompt="a man", num_inversion_steps=2, callback=lambda step: seen.append(step.stage)
        )
    assert "encode" in seen
    assert (one.latents != two.latents).any()

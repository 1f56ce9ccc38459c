from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from tav_sdk.errors import BaseModelError, InputError, PickledWeightsError, PromptError
from tav_sdk.evaluation.evaluate import clip_text
from tav_sdk.files import sha256_of
from tav_sdk.pocket import CLIP, sample_clips
from tav_sdk.training.clip_scorer import ClipScorer
from tav_sdk.video.clip import read_video

CLIPS = sample_clips()


@pytest.fixture(scope="module")
def scorer() -> ClipScorer:
    return ClipScorer(CLIP, name="pocket", device="cpu", batch_size=5)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of Pocket's CLIP that a test may damage."""
    return shutil.copytree(CLIP, tmp_path / "copy")


def test_a_clip_fits_its_own_caption_best(scorer):
    captions = scorer.embed_text([clip.caption for clip in CLIPS.values()])
    for index, clip in enumerate(CLIPS.values()):
        frames = scorer.embed_frames(read_video(clip.path).frames)
        scores = [clip_text(frames, caption) for caption in captions]
        assert int(np.argmax(scores)) == index, clip.name


def test_embeddings_have_length_one(scorer):
    frames = np.random.default_rng(0).integers(0, 256, (7, 48, 90, 3), dtype=np.uint8)
    for rows, shape in ((scorer.embed_frames(frames), (7, 128)), (scorer.embed_text(["a", "a red car"]), (2, 128))):
        assert (rows.shape, rows.dtype) == (shape, np.float32)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_batches_do_not_count(scorer):
    frames = read_video(CLIPS["car-road"].path).frames
    each = np.concatenate([scorer.embed_frames(frame[None]) for frame in frames])
    np.testing.assert_allclose(scorer.embed_frames(frames), each, atol=1e-5)


def test_other_prompts_beside_it_do_not_change_a_prompt(scorer):
    long = "a yellow tractor is moving on the grass, pixel art style"
    np.testing.assert_allclose(scorer.embed_text(["a pig", long])[0], scorer.embed_text(["a pig"])[0], atol=1e-5)


def test_it_computes_what_transformers_computes(scorer):
    frames, prompt = read_video(CLIPS["pig-grass"].path).frames, CLIPS["pig-grass"].caption
    inputs = {
        **scorer._processor(list(frames), return_tensors="pt"),
        **scorer._tokenizer([prompt], return_tensors="pt"),
    }
    with torch.inference_mode():
        expected = scorer._model(**inputs)
    np.testing.assert_allclose(scorer.embed_frames(frames), expected.image_embeds, atol=1e-5)
    np.testing.assert_allclose(scorer.embed_text([prompt]), expected.text_embeds, atol=1e-5)


def test_a_long_prompt_is_cut(scorer):
    assert scorer.embed_text(["a red car " * 100]).shape == (1, 128)


def test_it_says_which_clip_it_is(scorer):
    assert scorer.name == "pocket"
    assert scorer.sha256 == sha256_of(CLIP / "model.safetensors")


def test_a_folder_is_called_by_its_name(folder):
    assert ClipScorer(folder, device="cpu").name == "copy"


# --- bad input ------------------------------------------------------------------------------------------------------


def test_frames_that_are_none(scorer):
    with pytest.raises(InputError, match="frames: expected dtype uint8"):
        scorer.embed_frames(np.zeros((1, 8, 8, 3), np.float32))


def test_no_prompts(scorer):
    with pytest.raises(PromptError, match="the list of prompts is empty"):
        scorer.embed_text([])


def test_a_name_that_cannot_be_found(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelError, match="there is no folder openai/none, and no CLIP of that name was found"):
        ClipScorer("openai/none")


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "../a/b"])
def test_a_path_that_is_no_folder(name):
    with pytest.raises(BaseModelError, match=f"there is no folder {name}; give a CLIP in the transformers format"):
        ClipScorer(name)


def test_a_base_with_a_clip_in_it():
    with pytest.raises(BaseModelError, match=r"expected a folder in the transformers format, such as .*clip"):
        ClipScorer(CLIP.parent)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", r"lacks the configuration \(config.json\)"),
        (
            "preprocessor_config.json",
            r"lacks the image processor \(preprocessor_config.json or processor_config.json\)",
        ),
        ("model.safetensors", "lacks model.safetensors, its weights"),
    ],
)
def test_an_incomplete_folder(folder, file, text):
    (folder / file).unlink()
    with pytest.raises(BaseModelError, match=text):
        ClipScorer(folder)


def test_another_model(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "clip_text_model"}))
    with pytest.raises(BaseModelError, match=r"is not a CLIP: config\.json has model_type 'clip_text_model'"):
        ClipScorer(folder)


def test_a_configuration_that_cannot_be_read(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(
        BaseModelError, match=r"config\.json is not valid JSON: .*; give a CLIP in the transformers format"
    ):
        ClipScorer(folder)


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("config.json", {"text_config": {"num_hidden_layers": 10**6}}, r"text_config\.num_hidden_layers: Input should"),
        ("config.json", {"vision_config": None, "text_config": 3}, r"config\.json of the CLIP .* text_config: Input"),
        (
            "config.json",
            {"text_config": {"hidden_size": 8192, "num_hidden_layers": 64}},
            r"the weights of the CLIP .* do not fit its config\.json: it describes a model of \d+ numbers",
        ),
        ("preprocessor_config.json", {"size": {"shortest_edge": 10**6}}, "shortest_edge: Input should be less than"),
        ("preprocessor_config.json", {"crop_size": "x"}, "crop_size: Input should be"),
        ("tokenizer_config.json", {"model_max_length": None}, "model_max_length: Input should be a valid integer"),
        ("tokenizer.json", {"normalizer": {"type": "Precompiled"}}, "normalizer: Input tag 'Precompiled'"),
    ],
)
def test_a_configuration_out_of_bounds(folder, file, changes, said):
    (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **changes}))
    with pytest.raises(BaseModelError, match=said):
        ClipScorer(folder)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(PickledWeightsError, match=r"has only pickled weights \(pytorch_model\.bin\)"):
        ClipScorer(folder)


def test_damaged_weights(folder):
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(BaseModelError, match=r"the CLIP .* cannot be read: "):
        ClipScorer(folder)


def test_weights_of_one_tower_are_not_filled_up_with_random_ones(folder):
    weights = load_file(folder / "model.safetensors")
    text = {key: value for key, value in weights.items() if not key.startswith("vision_model")}
    save_file(text, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"lack \d+ tensors, such as vision_model"):
        ClipScorer(folder)


def test_a_device_that_is_not_there(folder):
    with pytest.raises(InputError, match="the device 'abacus' cannot be used"):
        ClipScorer(folder, device="abacus")

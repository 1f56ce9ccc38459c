"""Bases from the Hugging Face hub; the hub itself is replaced."""

from __future__ import annotations

import fnmatch
import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from tav_sdk.errors import BaseModelError
from tav_sdk.training import PretrainedBase, TuneConfig, base_of_run, load_run, tune
from tav_sdk.training.base.hub import find_tokenizer, is_hub_id

ID = "somebody/sd-1.5"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A hub with one repository; it keeps count of what was asked for."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache, self.calls = folder, cache / "snapshots" / COMMIT, []

    def snapshot_download(self, repo, *, revision, allow_patterns, ignore_patterns, local_files_only) -> str:
        self.calls.append({"repo": repo, "revision": revision, "local_files_only": local_files_only})
        self.cache.mkdir(parents=True, exist_ok=True)
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            wanted, left = (
                any(fnmatch.fnmatch(name, p) for p in patterns) for patterns in (allow_patterns, ignore_patterns)
            )
            if path.is_file() and wanted and not left and not local_files_only:
                (self.cache / name).parent.mkdir(exist_ok=True)
                shutil.copy(path, self.cache / name)
        return str(self.cache)

    @property
    def fetched(self) -> set[str]:
        return {path.relative_to(self.cache).as_posix() for path in self.cache.rglob("*") if path.is_file()}


@pytest.fixture
def hub(family, copy_of, tmp_path, monkeypatch):
    found = Hub(copy_of(family("sd1")), tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", found.snapshot_download)
    return found


def unreachable(monkeypatch, error):
    def snapshot_download(*args, **kwargs):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)


def test_what_is_an_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert is_hub_id("CompVis/stable-diffusion-v1-4")
    for path in ("pocket", "models/sd14", "./a/b", "/a/b", "a/b/c", "a/model.safetensors"):
        assert not is_hub_id(path), path


def test_a_model_of_the_hub_is_the_folder(hub, family):
    base = PretrainedBase(ID)
    assert base.sha256 == PretrainedBase(family("sd1")).sha256
    assert base.record == {"name": ID, "sha256": base.sha256, "revision": COMMIT}


def test_only_what_is_read_is_fetched(hub):
    others = [f"unet/diffusion_pytorch_model.{kind}" for kind in ("fp16.safetensors", "non_ema.safetensors", "bin")]
    for name in (*others, "safety_checker/model.safetensors", "v1-5-pruned.ckpt"):
        (hub.folder / name).parent.mkdir(exist_ok=True)
        (hub.folder / name).write_bytes(b"")
    PretrainedBase(ID)
    weights = {name for name in hub.fetched if not name.endswith((".json", ".txt"))}
    assert weights == {
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    }


def test_half_precision_is_fetched_where_there_is_nothing_else(hub):
    path = hub.folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    PretrainedBase(ID).load_unet()
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in hub.fetched


def test_all_is_of_one_revision(hub):
    path = hub.folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    PretrainedBase(ID, revision="main")
    assert [call["revision"] for call in hub.calls] == ["main", COMMIT, COMMIT]


def test_a_plan_fetches_configurations_alone(tav, hub):
    result = tav("plan", "--base", ID, "--size", 32, "--frames", 2)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("sd-1.5, 2 frames")
    assert not any(name.endswith(".safetensors") for name in hub.fetched)


def test_info_downloads_nothing(tav, hub):
    PretrainedBase(ID)
    hub.calls.clear()
    facts = json.loads(tav("info", ID, "--json").stdout)
    assert facts["revision"] == COMMIT
    assert [call["local_files_only"] for call in hub.calls] == [True]


def test_a_model_of_another_kind_is_refused_before_its_weights_are_fetched(hub):
    index = {"_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["transformers", "CLIPTextModel"]}
    (hub.folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(BaseModelError, match=rf"the base model {ID} \(StableDiffusionXLPipeline\) cannot be inflated"):
        PretrainedBase(ID)
    assert not any(name.endswith(".safetensors") for name in hub.fetched)


def test_a_run_pins_the_commit(hub, clip_path, tmp_path):
    config = TuneConfig(base=ID, video=clip_path, prompt="a", out=tmp_path / "run", num_frames=2, height=16, width=16)
    assert config.num_train_steps == 300
    run = tune(config.replace(num_train_steps=1))
    assert run.record["base"]["revision"] == COMMIT
    hub.calls.clear()
    again = load_run(run.folder)
    assert again.config.revision is None
    assert hub.calls == []  # a finished run has all that it needs
    base_of_run(again)
    assert {call["revision"] for call in hub.calls} == {COMMIT}


def test_without_network_it_says_what_was_tried(monkeypatch):
    unreachable(monkeypatch, LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder.\nMore."))
    with pytest.raises(BaseModelError) as refused:
        PretrainedBase(ID, revision="fp32")
    assert str(refused.value) == (
        f"there is no folder or file {ID}, and as a Hugging Face id at fp32 it cannot be got: tried the cache and the "
        "Hugging Face hub; LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder. Check the name "
        "and the network, and, for models that ask for it, log in with hf auth login; or download the model where "
        "there is a network and give its folder"
    )


def test_errors_of_the_http_client_are_caught(monkeypatch):
    client_error = HfHubHTTPError.__bases__[0]
    unreachable(monkeypatch, client_error("proxy refused"))
    with pytest.raises(BaseModelError, match=r"tried the cache and the Hugging Face hub; .*: proxy refused. Check"):
        PretrainedBase(ID)


def test_a_cache_alone_that_has_nothing_says_so(tav, clip_path, work, monkeypatch):
    unreachable(monkeypatch, LocalEntryNotFoundError("nothing"))
    options = ("--video", clip_path, "--prompt", "a", "--out", work / "run")
    result = tav("tune", "--base", ID, "--local-files-only", *options)
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: there is no folder or file {ID}, and as a Hugging Face id it is not in the cache, and "
        "local_files_only allows no download. Leave local_files_only out where there is a network, or download the "
        "model there and give its folder\n"
    )
    assert list(work.iterdir()) == []


def test_info_on_a_model_that_is_not_in_the_cache_says_what_fetches_it(tav, monkeypatch):
    unreachable(monkeypatch, LocalEntryNotFoundError("pass 'local_files_only=False' as input"))
    result = tav("info", ID, "--revision", "fp32")
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: there is nothing at {ID}, and no model of that id in the Hugging Face cache; tav info "
        f"downloads nothing. tav plan --base {ID} --revision fp32 fetches its configurations, tav tune all of it\n"
    )


def test_a_unet_that_cannot_be_inflated_is_refused_before_its_weights_are_fetched(hub):
    path = hub.folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"addition_embed_type": "text_time"}))
    with pytest.raises(BaseModelError, match=rf"the U-Net of the base model {ID} takes additional conditions"):
        PretrainedBase(ID)
    assert not any(name.endswith(".safetensors") for name in hub.fetched)


def test_an_incomplete_cache_is_named(hub):
    hub.snapshot_download(ID, revision=None, allow_patterns=["*/*.json"], ignore_patterns=[], local_files_only=False)
    with pytest.raises(
        BaseModelError, match=r"lacks unet/diffusion_pytorch_model.safetensors, the weights of its unet"
    ):
        PretrainedBase(ID, local_files_only=True)


def test_a_tokenizer_of_the_cache_is_found(monkeypatch, tiny_base):
    def cached(repo, name):
        path = tiny_base / name
        return str(path) if repo.startswith("CompVis/") and path.is_file() else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    assert find_tokenizer() == tiny_base / "tokenizer"


def test_no_tokenizer_in_the_cache(monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, name: None)
    assert find_tokenizer() is None

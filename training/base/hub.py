"""Bases from the Hugging Face hub, and tokenizers that are in its cache. Without PyTorch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tav_sdk.errors import BaseModelError, MissingExtraError, NotInCacheError
from tav_sdk.training.base.layout import PARTS, WEIGHTS, check_pipeline, find_weights

CONFIGS = ("model_index.json", "tav_sdk.json", *(f"{part}/*.json" for part in PARTS), "tokenizer/merges.txt")
OTHERS = ("*.fp16*", "*.bf16*", "*non_ema*")
"""Further weights of the same model, which nobody needs beside the plain ones."""
TOKENIZERS = (
    ("openai/clip-vit-large-patch14", ""),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer"),
    ("runwayml/stable-diffusion-v1-5", "tokenizer"),
    ("CompVis/stable-diffusion-v1-4", "tokenizer"),
    ("stabilityai/stable-diffusion-2-1", "tokenizer"),
    ("stabilityai/stable-diffusion-2-1-base", "tokenizer"),
    ("stabilityai/stable-diffusion-2", "tokenizer"),
)
"""Where CLIP's vocabulary lies on the hub: they all have the same one."""
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(base: str | Path) -> bool:
    """Whether ``base`` is an id such as ``CompVis/stable-diffusion-v1-4``, and no path of this machine."""
    text = base if isinstance(base, str) else base.as_posix()
    if not _ID.fullmatch(text) or Path(text).exists() or text.endswith(".safetensors"):
        return False
    # A misspelt name in a folder that is here is no id.
    return not Path(text).parent.is_dir()


def fetch_configs(repo: str, *, revision: str | None = None, local_files_only: bool = False) -> Path:
    """The folder in the cache with the configurations of a model on the hub.

    Raises:
        BaseModelError: they are neither in the cache nor can they be fetched.
    """
    return snapshot(repo, CONFIGS, revision=revision, local_files_only=local_files_only)


def fetch_base(
    repo: str, *, revision: str | None = None, local_files_only: bool = False, allow_pickle: bool = False
) -> Path:
    """The folder in the cache with a model of the hub, which is downloaded where it is not there yet.

    Of each part the plain ``.safetensors`` weights are taken; a part that has none of them is taken in half precision,
    or, with ``allow_pickle``, pickled.

    Raises:
        BaseModelError: it is neither in the cache nor can it be fetched, or is of a kind that cannot be inflated.
    """
    folder = fetch_configs(repo, revision=revision, local_files_only=local_files_only)
    check_pipeline(folder, f"the base model {repo}")
    commit = folder.name  # all that follows is of one revision, whatever happens to the branch
    wanted: list[tuple[str, Sequence[str]]] = [
        ("{part}/{stem}*.safetensors", OTHERS),
        ("{part}/{stem}*.fp16*.safetensors", ()),
    ]
    if allow_pickle:
        wanted.append(("{part}/{stem}*.bin", OTHERS))
    for pattern, ignored in wanted:
        lacking = [part for part in WEIGHTS if find_weights(folder / part, part) is None]
        patterns = [pattern.format(part=part, stem=stem) for part in lacking for stem in WEIGHTS[part]]
        if patterns:
            snapshot(repo, patterns, ignored=ignored, revision=commit, local_files_only=local_files_only)
    return folder


def snapshot(
    repo: str,
    patterns: Sequence[str],
    *,
    ignored: Sequence[str] = (),
    revision: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder in the cache with the files of a repository that fit ``patterns``.

    Raises:
        NotInCacheError: they are not in the cache, and ``local_files_only`` is set.
        BaseModelError: they are neither in the cache nor can they be fetched; says what was tried.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise MissingExtraError("a base from the Hugging Face hub", "training", "huggingface_hub") from error
    # The root of the HTTP client's own errors; it is another client in each major version.
    client_error: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repo,
                revision=revision,
                allow_patterns=list(patterns),
                ignore_patterns=list(ignored),
                local_files_only=local_files_only,
            )
        )
    except (OSError, ValueError, client_error) as error:
        what = f"there is no folder or file {repo}, and as a Hugging Face id{f' at {revision}' if revision else ''} it "
        if local_files_only and isinstance(error, LocalEntryNotFoundError):
            raise NotInCacheError(
                f"{what}is not in the cache, and local_files_only allows no download. Leave local_files_only out where "
                "there is a network, or download the model there and give its folder"
            ) from error
        reason = next(iter(str(error).strip().splitlines()), "no reason").rstrip(".")
        raise BaseModelError(
            f"{what}cannot be got: tried the cache{'' if local_files_only else ' and the Hugging Face hub'}; "
            f"{type(error).__name__}: {reason}. Check the name and the network, and, for models that ask for it, log "
            "in with hf auth login; or download the model where there is a network and give its folder"
        ) from error


def find_tokenizer() -> Path | None:
    """The folder of a CLIP tokenizer in the hub's cache; nothing is downloaded."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ModuleNotFoundError:
        return None
    for repo, folder in TOKENIZERS:
        prefix = f"{folder}/" if folder else ""
        found = [try_to_load_from_cache(repo, f"{prefix}{name}") for name in ("vocab.json", "merges.txt")]
        if all(isinstance(path, str) for path in found):
            return Path(str(found[0])).parent
    return None

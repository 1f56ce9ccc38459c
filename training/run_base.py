"""The base that a configuration names, and the one that a run was tuned on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tav_sdk.errors import BaseModelError
from tav_sdk.training.base.model import PretrainedBase
from tav_sdk.training.config import TuneConfig
from tav_sdk.training.run_folder import Run


def base_of_config(config: TuneConfig) -> PretrainedBase:
    """The base that a configuration names, with its LoRAs.

    Raises:
        BaseModelError: the base or a part is missing or unreadable, or of a kind that cannot be inflated.
        PickledWeightsError: a part has only pickled weights and ``config.allow_pickle`` is not set.
    """
    return PretrainedBase(
        config.base,
        config.allow_pickle,
        loras=config.loras,
        tokenizer=config.tokenizer,
        prediction_type=config.prediction_type,
        revision=config.revision,
        local_files_only=config.local_files_only,
    )


def base_of_run(
    run: Run,
    base: str | Path | None = None,
    *,
    loras: Sequence[str | Path] | None = None,
    tokenizer: str | Path | None = None,
    allow_pickle: bool = False,
    local_files_only: bool = False,
) -> PretrainedBase:
    """The base that a run was tuned on, with its LoRAs; its identity is checked.

    Args:
        run: a finished run.
        base: the base, if it is no longer where the run was tuned.
        loras: the LoRAs, in the same order and with the same scales, if they are no longer where they were.
        tokenizer: the tokenizer's folder, if it is no longer where it was.
        allow_pickle: read pickled weights, even if the run did not.
        local_files_only: take a model on the hub from the cache only, even if the run did not.

    Raises:
        BaseModelError: it is missing, or is not the one that the run was tuned on; says which part of it.
    """
    config, recorded = run.config, run.record["base"]
    found = base_of_config(
        config.replace(
            base=str(config.base if base is None else base),
            allow_pickle=allow_pickle or config.allow_pickle,
            loras=config.loras if loras is None else tuple(map(str, loras)),
            tokenizer=str(tokenizer) if tokenizer else config.tokenizer,
            # The branch may have moved on.
            revision=recorded.get("revision") or config.revision,
            local_files_only=local_files_only or config.local_files_only,
        )
    )
    _check_loras(found, run)
    if found.sha256 != recorded["sha256"]:
        raise BaseModelError(
            f"{found.path} is not the base that the run {run.folder} was tuned on: expected sha256 "
            f"{recorded['sha256'][:12]}..., got {found.sha256[:12]}...; give that one as base"
        )
    return found


def _check_loras(base: PretrainedBase, run: Run) -> None:
    recorded = run.record["base"].get("loras", [])
    expected = [(lora["sha256"], lora["scale"]) for lora in recorded]
    if [(lora.sha256, lora.scale) for lora in base.lora_files] == expected:
        return
    names = ", ".join(f"{lora['name']}:{lora['scale']:g} ({lora['sha256'][:12]}...)" for lora in recorded)
    got = ", ".join(f"{lora} ({lora.sha256[:12]}...)" for lora in base.lora_files)
    raise BaseModelError(
        f"the run {run.folder} was tuned with other LoRAs: expected {names or 'none'}, got {got or 'none'}; give "
        "those as loras, FILE:SCALE each, in this order"
    )

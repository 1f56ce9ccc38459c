"""A CLIP that scores videos: frames and prompts to embeddings in one space."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from tav_sdk.errors import BaseModelError, InputError, PickledWeightsError, PromptError
from tav_sdk.files import sha256_of
from tav_sdk.reading import MAX_CONFIG_BYTES, read_json, validated
from tav_sdk.training.base.clip_configs import ClipConfig, ImageProcessorConfig
from tav_sdk.training.base.part_configs import check_has_weights, read_part_config
from tav_sdk.training.base.reading import PICKLED, first_line, reading
from tav_sdk.training.base.tokenizer_files import check_tokenizer
from tav_sdk.video.frames import check_frames
from tav_sdk.words import brief

if TYPE_CHECKING:
    from numpy.typing import NDArray

PARTS = {
    "the configuration": ("config.json",),
    "the image processor": ("preprocessor_config.json", "processor_config.json"),
    "the tokenizer": ("tokenizer.json", "vocab.json"),
}
"""What a CLIP in the transformers format has besides its weights; one file of each will do."""

ADVICE = "give a CLIP in the transformers format, or download it again"


class ClipScorer:
    """Any CLIP in the transformers format, in float32; a :class:`tav_sdk.evaluation.evaluate.ClipEncoder`.

    Each CLIP prepares frames with its own image processor: size, crop and normalisation are the folder's.

    Args:
        clip: a folder, or a name on the Hugging Face hub such as ``openai/clip-vit-large-patch14``, which is taken
            from the local cache or downloaded.
        name: what to call it in a record; ``None`` is the folder's name, or the name on the hub.
        device: a torch device; ``None`` is a GPU if there is one.
        batch_size: frames that are embedded at a time.

    Raises:
        BaseModelError: there is no such folder or name, it is no CLIP, or it is incomplete or unreadable.
        PickledWeightsError: it has only pickled weights.
        InputError: a device that this machine does not have.
    """

    def __init__(
        self,
        clip: str | Path,
        *,
        name: str | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 32,
    ) -> None:
        self.folder = _find(clip)
        self.name = name or (self.folder.resolve().name if Path(clip).is_dir() else str(clip))
        self.batch_size = batch_size
        _check_folder(self.folder)
        with reading(f"the CLIP {self.folder}"):
            loaded: Any = CLIPModel.from_pretrained(
                self.folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
            model, info = loaded
            self._processor: Any = CLIPImageProcessorPil.from_pretrained(self.folder, local_files_only=True)
            self._tokenizer: Any = CLIPTokenizer.from_pretrained(self.folder, local_files_only=True)
        # transformers fills in random numbers for them, as for a text tower that was saved alone.
        if missing := sorted(info["missing_keys"]):
            raise BaseModelError(
                f"the weights of the CLIP {self.folder} lack {len(missing)} tensors, such as {missing[0]}"
            )
        try:
            self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self._model: Any = model.eval().requires_grad_(False).to(self._device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"the device {str(device)!r} cannot be used: {first_line(error)}") from error

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the weights; of several files, of their names and hashes."""
        files = sorted(self.folder.glob("*.safetensors"))
        if len(files) == 1:
            return sha256_of(files[0])
        return hashlib.sha256("".join(f"{path.name} {sha256_of(path)}\n" for path in files).encode()).hexdigest()

    @torch.inference_mode()
    def embed_frames(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed frames.

        Args:
            frames: ``(f, h, w, 3)`` uint8 RGB of any size.

        Returns:
            ``(f, d)`` float32, rows of length 1.

        Raises:
            InputError: shape or dtype are not these.
        """
        check_frames(frames)
        rows: list[torch.Tensor] = []
        for first in range(0, len(frames), self.batch_size):
            batch = list(frames[first : first + self.batch_size])
            pixels = self._processor(batch, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
            # The towers themselves: what get_image_features returns has changed between versions.
            pooled = self._model.vision_model(pixel_values=pixels.to(self._device)).pooler_output
            rows.append(self._model.visual_projection(pooled))
        return _unit(torch.cat(rows))

    @torch.inference_mode()
    def embed_text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Embed prompts; each is cut at the model's length, 77 tokens as a rule.

        Returns:
            ``(n, d)`` float32, rows of length 1.

        Raises:
            PromptError: there are none.
        """
        if not prompts:
            raise PromptError("the list of prompts is empty; give at least one")
        limit = min(int(self._tokenizer.model_max_length), int(self._model.config.text_config.max_position_embeddings))
        tokens = self._tokenizer(list(prompts), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        pooled = self._model.text_model(**tokens.to(self._device)).pooler_output
        return _unit(self._model.text_projection(pooled))


def _unit(rows: torch.Tensor) -> NDArray[np.float32]:
    return torch.nn.functional.normalize(rows.float(), dim=-1).cpu().numpy()


def _find(clip: str | Path) -> Path:
    if Path(clip).is_dir():
        return Path(clip)
    # A name on the hub has one slash at most, and starts with a letter or a digit.
    if not str(clip)[:1].isalnum() or str(clip).count("/") > 1 or "\\" in str(clip):
        raise BaseModelError(f"there is no folder {clip}; give a CLIP in the transformers format, or 'pocket'")
    try:
        return Path(snapshot_download(str(clip), allow_patterns=["*.json", "*.txt", "*.safetensors"]))
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"there is no folder {clip}, and no CLIP of that name was found in the cache of the Hugging Face hub or "
            f"got from it ({first_line(error)}); give a folder, 'pocket', or a name such as "
            "openai/clip-vit-large-patch14"
        ) from error


def _check_folder(folder: Path) -> None:
    missing = [f"{part} ({' or '.join(n)})" for part, n in PARTS.items() if not any((folder / f).is_file() for f in n)]
    if missing:
        raise BaseModelError(
            f"the CLIP {folder} lacks {', '.join(missing)}; expected a folder in the transformers format"
            + (f", such as {folder / 'clip'}" if (folder / "clip" / "config.json").is_file() else "")
        )
    config = read_json(folder / "config.json", max_bytes=MAX_CONFIG_BYTES, error=BaseModelError, advice=ADVICE)
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "clip":
        raise BaseModelError(
            f"{folder} is not a CLIP: config.json has model_type {brief(kind)}, expected 'clip' (both towers); {ADVICE}"
        )
    what = f"config.json of the CLIP {folder}"
    towers = validated(ClipConfig, config, what=what, error=BaseModelError, advice=ADVICE)
    for name in PARTS["the image processor"]:
        if (folder / name).is_file():
            read_part_config(folder / name, ImageProcessorConfig)
    check_tokenizer(folder)
    check_has_weights(towers.size, folder.glob("*.safetensors"), f"the CLIP {folder}")
    if any(folder.glob("*.safetensors")):
        return
    if pickled := sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED):
        raise PickledWeightsError(
            f"the CLIP {folder} has only pickled weights ({', '.join(pickled)}); reading a pickle can run code. "
            "Convert it to .safetensors"
        )
    raise BaseModelError(f"the CLIP {folder} lacks model.safetensors, its weights; pickled ones are not read")

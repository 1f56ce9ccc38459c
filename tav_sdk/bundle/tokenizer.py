"""Prompts to token ids, as ``CLIPTokenizer`` does it, from a ``tokenizer.json`` and without transformers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tav_sdk.errors import BundleError, PromptError


class PromptTruncatedWarning(UserWarning):
    """A prompt has more tokens than the text encoder takes; the rest was cut."""


class Tokenizer:
    """A CLIP tokenizer: padded to, and truncated at, a fixed number of tokens.

    Args:
        definition: the text of a ``tokenizer.json``.
        model_max_length: tokens a prompt is padded to and truncated at, 77 for CLIP.
        pad_token: the token to pad with, ``<|endoftext|>`` for SD 1.x and ``!`` for SD 2.x.
    """

    def __init__(self, definition: str, *, model_max_length: int = 77, pad_token: str = "<|endoftext|>") -> None:
        from tokenizers import Tokenizer as Backend

        self.definition = definition
        self.model_max_length = model_max_length
        self.pad_token = pad_token
        try:
            self._backend = Backend.from_str(definition)
        except Exception as error:  # tokenizers raises Exception itself
            raise BundleError(f"the tokenizer's definition cannot be read: {error}; export the bundle again") from error
        self._backend.no_padding()
        self._backend.no_truncation()
        pad_id = self._backend.token_to_id(pad_token)
        if pad_id is None:
            raise BundleError(f"the tokenizer has no token {pad_token!r} to pad with; tokenizer_config.json is wrong")
        self._pad_id = pad_id

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read ``tokenizer.json`` and ``tokenizer_config.json``.

        Raises:
            BundleError: a file is missing or unreadable.
        """
        folder = Path(folder)
        try:
            config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            definition = (folder / "tokenizer.json").read_text(encoding="utf-8")
            return cls(definition, model_max_length=config["model_max_length"], pad_token=config["pad_token"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"the tokenizer in {folder} cannot be read: {error}; export the bundle again") from error

    def save(self, folder: str | Path) -> None:
        """Write the two files that :meth:`from_folder` reads into an existing folder."""
        config = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": self.model_max_length,
            "pad_token": self.pad_token,
        }
        Path(folder, "tokenizer.json").write_text(self.definition, encoding="utf-8")
        Path(folder, "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def __call__(self, prompts: str | Sequence[str]) -> np.ndarray:
        """Token ids of one or several prompts, ``(b, model_max_length) int64``, start and end token included.

        A prompt that is too long is cut, with a :class:`PromptTruncatedWarning` that shows what was lost.

        Raises:
            PromptError: there is no prompt, or one is not a string.
        """
        given: list[object] = list(prompts) if isinstance(prompts, (list, tuple)) else [prompts]
        if not given:
            raise PromptError("the list of prompts is empty; give at least one prompt")
        rows = []
        for prompt in given:
            if not isinstance(prompt, str):
                raise PromptError(f"a prompt must be a string, got {type(prompt).__name__}")
            rows.append(self._encode(prompt))
        return np.array(rows, dtype=np.int64)

    def _encode(self, prompt: str) -> list[int]:
        encoding = self._backend.encode(prompt)
        ids, limit = list(encoding.ids), self.model_max_length
        if len(ids) > limit:
            # Offsets of the first token that falls out: the last place holds the end token.
            cut = prompt[encoding.offsets[limit - 1][0] :]
            warnings.warn(
                f"the prompt has {len(ids)} tokens, the text encoder takes {limit}; this was cut: {cut!r}",
                PromptTruncatedWarning,
                stacklevel=3,
            )
            ids = [*ids[: limit - 1], ids[-1]]
        return ids + [self._pad_id] * (limit - len(ids))

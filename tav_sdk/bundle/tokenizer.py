"""Prompts to token ids, as ``CLIPTokenizer`` does it, from a ``tokenizer.json`` and without transformers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tav_sdk.bundle.layout import TOKENIZER_FILES
from tav_sdk.bundle.tokenizer_file import MAX_TOKENIZER_BYTES, Config, read_definition
from tav_sdk.errors import BundleError, PromptError
from tav_sdk.reading import read_json, read_text, validated
from tav_sdk.words import brief


class PromptTruncatedWarning(UserWarning):
    """A prompt has more tokens than the text encoder takes; the rest was cut."""


class Tokenizer:
    """A CLIP tokenizer: padded to, and truncated at, a fixed number of tokens.

    Args:
        definition: the text of a ``tokenizer.json``.
        model_max_length: tokens a prompt is padded to and truncated at, 77 for CLIP.
        pad_token: the token to pad with, ``<|endoftext|>`` for SD 1.x and ``!`` for SD 2.x.

    Raises:
        BundleError: the definition is not that of a CLIP tokenizer, or has no such token.
    """

    def __init__(self, definition: str, *, model_max_length: int = 77, pad_token: str = "<|endoftext|>") -> None:
        from tokenizers import Tokenizer as Backend

        self.definition = definition
        self.model_max_length = model_max_length
        self.pad_token = pad_token
        try:
            self._backend = Backend.from_str(read_definition(definition))
        except BundleError:
            raise
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
            BundleError: a file is missing or unreadable, or it is no CLIP tokenizer.
        """
        definition, config = (Path(folder, name) for name in TOKENIZER_FILES)
        advice = "export the bundle again"
        values = read_json(config, max_bytes=1 << 20, error=BundleError, advice=advice)
        told = validated(Config, values, what=str(config), error=BundleError, advice=advice)
        text = read_text(definition, max_bytes=MAX_TOKENIZER_BYTES, error=BundleError, advice=advice)
        return cls(text, model_max_length=told.model_max_length, pad_token=told.pad_token)

    def save(self, folder: str | Path) -> None:
        """Write the two files that :meth:`from_folder` reads into an existing folder."""
        config = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": self.model_max_length,
            "pad_token": self.pad_token,
        }
        definition, told = (Path(folder, name) for name in TOKENIZER_FILES)
        definition.write_text(self.definition, encoding="utf-8")
        told.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def __call__(self, prompts: str | Sequence[str]) -> np.ndarray:
        """Token ids of one or several prompts, ``(b, model_max_length) int64``, start and end token included.

        A prompt that is too long is cut, with a :class:`PromptTruncatedWarning` that shows the beginning of the rest.

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
                f"the prompt has {len(ids)} tokens, the text encoder takes {limit}; this was cut: {brief(cut)}",
                PromptTruncatedWarning,
                stacklevel=3,
            )
            ids = [*ids[: limit - 1], ids[-1]]
        return ids + [self._pad_id] * (limit - len(ids))

"""The files of a CLIP tokenizer, checked before a library reads them. Without PyTorch.

What runs over every prompt is confined to what CLIP's own tokenizer does: normalizers that cannot make a text longer,
and patterns that are matched in time linear in the text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tav_sdk.bundle.tokenizer_file import Token, TokenId
from tav_sdk.errors import BaseModelError
from tav_sdk.reading import read_json, read_text, validated
from tav_sdk.training.base.part_configs import PartConfig, TokenizerConfig, read_part_config
from tav_sdk.words import brief

VOCABULARY, MERGES, WHOLE_TOKENIZER = "vocab.json", "merges.txt", "tokenizer.json"
SETTINGS: dict[str, type[PartConfig]] = {
    "tokenizer_config.json": TokenizerConfig,
    "special_tokens_map.json": PartConfig,
    "added_tokens.json": PartConfig,
}
ADVICE = "give the folder 'tokenizer' of any Stable Diffusion model in the diffusers layout"
MAX_MERGES = 1_000_000

Vocabulary = Annotated[dict[Token, TokenId], Field(min_length=1, max_length=1_000_000)]
_LINEAR = r"(?:(?:[^\\|*+?(){}\[\].^$]|\\[|<>])+|(?:\\s|\[\^?(?:\\[sdwSDW]|\\p\{[LN]\}|[^\\\[\]^{}])+\])\+?)"
"""Letters one by one, or one class of letters, once or as often as it goes: there is never a second way to match."""
_LINEAR_PATTERN = re.compile(rf"{_LINEAR}(?:\|{_LINEAR})*")


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class _Pattern(BaseModel):
    """A text, or a regular expression that cannot take long."""

    model_config = ConfigDict(strict=True, extra="forbid")

    String: Token | None = None
    Regex: Annotated[str, Field(max_length=1000)] | None = None

    @field_validator("Regex")
    @classmethod
    def _linear(cls, pattern: str | None) -> str | None:
        if pattern is not None and not _LINEAR_PATTERN.fullmatch(pattern):
            raise ValueError("expected letters and classes of letters in turn, as CLIP's pattern has them")
        return pattern


class _Plain(_Strict):
    type: Literal["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip"]


class _Replace(_Strict):
    type: Literal["Replace"]
    pattern: _Pattern
    content: Annotated[str, Field(max_length=1)]


class _Normalizers(_Strict):
    type: Literal["Sequence"]
    normalizers: Annotated[list[Annotated[_Plain | _Replace, Field(discriminator="type")]], Field(max_length=16)]


class _Split(_Strict):
    type: Literal["Split"]
    pattern: _Pattern


class _PlainSplit(_Strict):
    type: Literal["ByteLevel", "Whitespace", "WhitespaceSplit"]


class _Splits(_Strict):
    type: Literal["Sequence"]
    pretokenizers: Annotated[list[Annotated[_Split | _PlainSplit, Field(discriminator="type")]], Field(max_length=16)]


class _Ends(_Strict):
    type: Literal["RobertaProcessing", "ByteLevel", "BertProcessing"]


class _Template(_Strict):
    type: Literal["TemplateProcessing"]
    single: Annotated[list[Any], Field(max_length=16)]


class _Bpe(_Strict):
    type: Literal["BPE"]
    dropout: None = None
    vocab: Vocabulary
    merges: Annotated[list[str | list[str]], Field(max_length=MAX_MERGES)]


class _AddedToken(_Strict):
    id: TokenId
    content: Token


class _Definition(_Strict):
    """A ``tokenizer.json``."""

    model: _Bpe
    normalizer: Annotated[_Plain | _Replace | _Normalizers, Field(discriminator="type")] | None = None
    pre_tokenizer: Annotated[_Split | _PlainSplit | _Splits, Field(discriminator="type")] | None = None
    post_processor: Annotated[_Ends | _Template, Field(discriminator="type")] | None = None
    added_tokens: Annotated[list[_AddedToken], Field(max_length=10_000)] = []


class _VocabularyFile(BaseModel):
    model_config = ConfigDict(strict=True)

    vocabulary: Vocabulary


def check_tokenizer(folder: Path) -> None:
    """Check every file of a tokenizer's folder that a library reads.

    Raises:
        BaseModelError: there is no tokenizer, or a file cannot be read, or holds what no CLIP tokenizer does.
    """
    if not any((folder / name).is_file() for name in (VOCABULARY, WHOLE_TOKENIZER)):
        raise BaseModelError(
            f"there is no CLIP tokenizer in {folder}: it has neither {VOCABULARY} (with {MERGES}) nor {WHOLE_TOKENIZER}"
        )
    for name, kind in SETTINGS.items():
        if (folder / name).exists():
            read_part_config(folder / name, kind)
    if (path := folder / WHOLE_TOKENIZER).exists():
        values = read_json(path, error=BaseModelError, advice=ADVICE)
        validated(_Definition, values, what=str(path), error=BaseModelError, advice=ADVICE)
    if (folder / VOCABULARY).exists():
        read_vocabulary(folder)
        if (folder / MERGES).exists() or not (folder / WHOLE_TOKENIZER).exists():
            read_merges(folder)


def read_vocabulary(folder: Path) -> dict[str, int]:
    """Tokens and their numbers.

    Raises:
        BaseModelError: the file cannot be read, is empty, or holds something else.
    """
    path = folder / VOCABULARY
    values = {"vocabulary": read_json(path, error=BaseModelError, advice=ADVICE)}
    return validated(_VocabularyFile, values, what=str(path), error=BaseModelError, advice=ADVICE).vocabulary


def read_merges(folder: Path) -> list[str]:
    """The pairs of tokens that are merged, first to last, as they stand in the file.

    Raises:
        BaseModelError: the file cannot be read, or a line is no pair.
    """
    path = folder / MERGES
    lines = read_text(path, error=BaseModelError, advice=ADVICE).splitlines()
    pairs = [line for line in lines if line.strip() and not line.startswith("#version")]
    if len(pairs) > MAX_MERGES:
        raise BaseModelError(f"{path} has {len(pairs)} merges, expected at most {MAX_MERGES}; {ADVICE}")
    for line in pairs:
        if len(line.split()) != 2:
            raise BaseModelError(f"{path} has the line {brief(line)}, expected two tokens; {ADVICE}")
    return pairs

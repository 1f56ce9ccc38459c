"""``tokenizer.json``, typed: the parts that CLIP's tokenizers have, and no others.

The library that runs it can do far more: regular expressions that take forever, and normalisers that end the process.
So a definition is read here first, and what the library gets is what was read.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tav_sdk.errors import BundleError
from tav_sdk.reading import parse_json, validated

MAX_TOKENIZER_BYTES = 16 << 20
"""CLIP's has 2 MiB."""
MAX_TOKENS = 1 << 20
Token = Annotated[str, Field(min_length=1, max_length=10_000)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
_Affix = Annotated[str, Field(max_length=20)]


class _Part(BaseModel):
    """A part of a definition: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Spaces(_Part):
    Regex: Literal[r"\s+"]


class _Words(_Part):
    """CLIP's words, as transformers 4 and 5 have them."""

    Regex: Literal[
        r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    ]


class _Plain(_Part):
    type: Literal["NFC", "Lowercase"]


class _Replace(_Part):
    type: Literal["Replace"]
    pattern: _Spaces
    content: Literal[" "]


class _Normalizers(_Part):
    type: Literal["Sequence"]
    normalizers: list[_Plain | _Replace] = Field(max_length=10)


class _Split(_Part):
    type: Literal["Split"]
    pattern: _Words
    behavior: Literal["Removed"]
    invert: bool


class _ByteLevel(_Part):
    type: Literal["ByteLevel"]
    add_prefix_space: bool
    trim_offsets: bool
    use_regex: bool = True


class _PreTokenizers(_Part):
    type: Literal["Sequence"]
    pretokenizers: list[_Split | _ByteLevel] = Field(max_length=10)


class _Roberta(_Part):
    type: Literal["RobertaProcessing"]
    sep: tuple[Token, TokenId]
    cls: tuple[Token, TokenId]
    trim_offsets: bool
    add_prefix_space: bool


class _AddedToken(_Part):
    id: TokenId
    content: Token
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


class _Bpe(_Part):
    type: Literal["BPE"] = "BPE"
    dropout: None = None
    unk_token: Token | None = None
    continuing_subword_prefix: _Affix | None = None
    end_of_word_suffix: _Affix | None = None
    fuse_unk: bool = False
    byte_fallback: bool = False
    ignore_merges: bool = False
    vocab: dict[Annotated[str, Field(max_length=10_000)], TokenId] = Field(min_length=1, max_length=MAX_TOKENS)
    merges: list[Annotated[str, Field(max_length=20_000)] | tuple[Token, Token]] = Field(max_length=MAX_TOKENS)


class Definition(_Part):
    """A CLIP tokenizer. How it pads and cuts is not read: the SDK does both itself."""

    version: Literal["1.0"]
    truncation: Any = None
    padding: Any = None
    added_tokens: list[_AddedToken] = Field(max_length=1000)
    normalizer: _Normalizers | _Plain | _Replace | None
    pre_tokenizer: _PreTokenizers | _Split | _ByteLevel | None
    post_processor: _Roberta | None
    decoder: _ByteLevel | None
    model: _Bpe


class Config(BaseModel):
    """``tokenizer_config.json``; other keys are ignored."""

    model_max_length: int = Field(ge=2, le=10_000)
    pad_token: Token


def read_definition(text: str) -> str:
    """A definition that the library may be given, as JSON.

    Args:
        text: a ``tokenizer.json``.

    Raises:
        BundleError: it is no CLIP tokenizer; says what is not as in one.
    """
    what, advice = "the tokenizer's definition", "only CLIP's tokenizers are run"
    if len(text) > MAX_TOKENIZER_BYTES:
        raise BundleError(f"{what} has {len(text)} characters, more than the {MAX_TOKENIZER_BYTES} that are read")
    values = parse_json(text, what=what, error=BundleError, advice=advice)
    definition = validated(Definition, values, what=what, error=BundleError, advice=advice)
    return definition.model_dump_json(exclude={"truncation", "padding"})

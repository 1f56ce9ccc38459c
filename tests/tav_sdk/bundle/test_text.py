import json
import random
import shutil
import warnings

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from tav_sdk.bundle.tokenizer import PromptTruncatedWarning, Tokenizer
from tav_sdk.errors import BundleError, PromptError
from tav_sdk.training import PretrainedBase

TEXT = (
    "a man is skiing on the beach, cartoon style Spider-Man Wonder Woman wearing a cowboy hat; panda's guitar "
    "don't they're I'LL we've it's 4K 1920x1080 3.14 -- ... !? \"quoted\" (parenthesis) [brackets] <tag> & | # @ $ % "
    "<|startoftext|> <|endoftext|> underscore_name semi;colon a/b c\\d MiXeD CASE résumé naïve Ärger ÅNGSTRÖM ﬁ ½ ² "
    "日本語 中文字符 한국어 Привет мир γειά שלום مرحبا हिन्दी ไทย İstanbul ß e\u0301 \u200b \ufeff \u00a0 "
    "🎿 🏂🏽 👨\u200d👩\u200d👧\u200d👦 🇯🇵 ❤\ufe0f"
)
WORDS = TEXT.split(" ")
SPACES = (" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "")


def varied_prompts(count: int = 1000) -> list[str]:
    """The same every time: words of many kinds, joined by many kinds of space, from none to hundreds."""
    rng = random.Random(0)
    prompts = ["", " ", "\n", "a", "<|endoftext|>", "a" * 1000, "🎿" * 200, "!" * 300, " ".join(WORDS)]
    while len(prompts) < count:
        words = rng.choices(WORDS, k=rng.choice((1, 3, 8, 15, 15, 40, 120)))
        if rng.random() < 0.2:
            words = [rng.choice((str.upper, str.title, str.swapcase))(word) for word in words]
        if rng.random() < 0.1:
            words.append("".join(chr(rng.choice((rng.randrange(32, 0x3000), rng.randrange(0x1F300, 0x1FAFF)))) * 2))
        prompts.append("".join(word + rng.choice(SPACES if rng.random() < 0.3 else SPACES[:1]) for word in words))
    return prompts


@pytest.fixture(scope="module")
def realistic_base(tiny_base, tmp_path_factory):
    """A base with a tokenizer of 3,000 merges, in the two files and the order of CLIP's own."""
    folder = shutil.copytree(tiny_base, tmp_path_factory.mktemp("realistic") / "base")
    vocabulary = json.loads((folder / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    symbols = [token for token in vocabulary if len(token) == 1]
    backend = Backend(models.BPE(end_of_word_suffix="</w>"))
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=3512, end_of_word_suffix="</w>", initial_alphabet=symbols, show_progress=False
    )
    backend.train_from_iterator([*varied_prompts(400), *(PretrainedBase.__doc__ or "").split("\n")], trainer)
    merges = [tuple(merge) for merge in json.loads(backend.to_str())["model"]["merges"]]
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *("".join(merge) for merge in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    text = json.dumps({token: index for index, token in enumerate(tokens)}, ensure_ascii=False)
    (folder / "tokenizer" / "vocab.json").write_text(text, encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges), ""]
    (folder / "tokenizer" / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "vocab_size": len(tokens)}))
    return folder


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return PretrainedBase(tiny_base).load_tokenizer()


def ids_of_clip(folder, prompts):
    original = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    return original(prompts, padding="max_length", truncation=True, max_length=77, return_tensors="np")["input_ids"]


def assert_same_ids(folder, tokenizer):
    prompts = varied_prompts()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptTruncatedWarning)
        got = tokenizer(prompts)
    expected = ids_of_clip(folder, prompts)
    different = [prompt for prompt, a, b in zip(prompts, got, expected, strict=True) if (a != b).any()]
    assert different == []


def test_a_thousand_prompts_have_the_ids_of_clip(tiny_base, tokenizer):
    assert_same_ids(tiny_base, tokenizer)


def test_a_thousand_prompts_have_the_ids_of_clip_with_a_realistic_vocabulary(realistic_base):
    tokenizer = PretrainedBase(realistic_base).load_tokenizer()
    assert len(np.unique(tokenizer("a man is skiing on the beach, cartoon style"))) < 15  # words, not bytes
    assert_same_ids(realistic_base, tokenizer)


def test_the_tokenizer_of_a_bundle_has_the_ids_of_clip(tiny_base, tiny_bundle):
    assert_same_ids(tiny_base, Tokenizer.from_folder(tiny_bundle / "tokenizer"))


def test_ids_are_padded_to_the_models_length(tokenizer):
    ids = tokenizer(["a man", "a man is skiing"])
    assert ids.shape == (2, 77)
    assert ids.dtype == np.int64


def test_one_prompt_is_a_batch_of_one(tokenizer):
    np.testing.assert_array_equal(tokenizer("a man"), tokenizer(["a man"]))


def test_the_pad_token_is_the_one_of_the_configuration(tokenizer):
    exclamation = Tokenizer(tokenizer.definition, pad_token="!")
    ids = exclamation("a man")
    assert ids[0, -1] == json.loads(tokenizer.definition)["model"]["vocab"]["!"]
    assert ids[0, -1] != tokenizer("a man")[0, -1]


def test_a_prompt_that_just_fits_is_not_cut(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer("b " * 75)


def test_a_prompt_that_is_too_long_warns_of_what_was_cut(tokenizer):
    text = r"the prompt has 79 tokens, the text encoder takes 77; this was cut: 'c d'"
    with pytest.warns(PromptTruncatedWarning, match=text):
        ids = tokenizer("b " * 75 + "c d")
    np.testing.assert_array_equal(ids, tokenizer("b " * 75))


def test_what_was_cut_is_shown_as_it_was_typed(tokenizer):
    with pytest.warns(PromptTruncatedWarning, match="this was cut: 'C Ä 🎿 end'"):
        tokenizer("B  " * 75 + "C Ä 🎿 end")


def test_of_much_that_was_cut_the_beginning_is_shown(tokenizer):
    with pytest.warns(PromptTruncatedWarning, match=r"this was cut: 'c d d d.*\.\.\.$") as caught:
        tokenizer("b " * 75 + "c" + " d" * 5000)
    assert len(str(caught[0].message)) < 300


def test_a_cut_within_a_sign_of_several_bytes_shows_the_whole_sign(tokenizer):
    with pytest.warns(PromptTruncatedWarning, match="this was cut: '🎿 end'"):
        tokenizer("b " * 73 + "🎿 end")


def test_no_prompt_is_refused(tokenizer):
    with pytest.raises(PromptError, match="the list of prompts is empty; give at least one prompt"):
        tokenizer([])


@pytest.mark.parametrize(("prompt", "kind"), [(None, "NoneType"), (3, "int"), (b"a", "bytes")])
def test_a_prompt_that_is_no_text_is_refused(tokenizer, prompt, kind):
    with pytest.raises(PromptError, match=f"a prompt must be a string, got {kind}"):
        tokenizer(["a man", prompt])


def test_a_saved_tokenizer_reads_back_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert (again.model_max_length, again.pad_token) == (77, "<|endoftext|>")
    np.testing.assert_array_equal(again("a man is skiing"), tokenizer("a man is skiing"))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(
        BundleError, match=r"tokenizer_config.json cannot be read: No such file .*; export the bundle again"
    ):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        "[]",
        "{}",
        "{",
        "null",
        '{"model_max_length": 1e30, "pad_token": "!"}',
        '{"model_max_length": 1, "pad_token": "!"}',
        '{"model_max_length": 77, "pad_token": null}',
    ],
)
def test_a_damaged_configuration_is_refused(tokenizer, tmp_path, config):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(BundleError, match=r"tokenizer_config.json is not valid.*: .*; export the bundle again"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("definition", ["", "{}", "not json", "[" * 100_000, "null"])
def test_a_damaged_definition_is_refused(definition):
    text = r"the tokenizer's definition is (not valid|nested).*; only CLIP's tokenizers are run$"
    with pytest.raises(BundleError, match=text):
        Tokenizer(definition)


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        # The library ends the process on some of these, or runs for hours.
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "normalizer"),
        ("normalizer", {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": " "}, "normalizer"),
        ("normalizer", {"type": "Replace", "pattern": {"String": ""}, "content": "a" * 10**6}, "normalizer"),
        ("normalizer", {"type": "Prepend", "prepend": "a" * 10**6}, "normalizer"),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 1000}, "normalizer"),
        (
            "pre_tokenizer",
            {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Removed", "invert": True},
            "pre",
        ),
        ("post_processor", {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}, "post_proc"),
        ("decoder", {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}, "decoder"),
        ("model", {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}, "model"),
        ("model", {"type": "BPE", "vocab": {}, "merges": []}, "model.vocab: Dictionary should have at least 1 item"),
        ("model", {"type": "BPE", "vocab": {"a": -1}, "merges": []}, "model.vocab.a: Input should be greater"),
        ("model", {"type": "BPE", "vocab": {"a": 2**40}, "merges": []}, "model.vocab.a: Input should be less than"),
        ("model", None, "model"),
        ("added_tokens", None, "added_tokens"),
        ("version", 2, "version"),
        ("mine", 2, "mine: Extra inputs are not permitted"),
    ],
)
def test_parts_that_clips_tokenizers_do_not_have_are_refused(tokenizer, part, value, said):
    values = {**json.loads(tokenizer.definition), part: value}
    with pytest.raises(BundleError, match=rf"the tokenizer's definition is not valid: {said}.*only CLIP's tokenizers"):
        Tokenizer(json.dumps(values))


def test_a_definition_of_former_versions_of_the_library_is_read(tokenizer):
    """Merges in one string, and CLIP's words without its own two tokens, as transformers 4 has them."""
    values = json.loads(tokenizer.definition)
    values["model"]["merges"] = [" ".join(merge) for merge in values["model"]["merges"]]
    del values["model"]["ignore_merges"]
    words = values["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    words["Regex"] = words["Regex"].split(r"<\|endoftext\|>|")[1]
    values["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    np.testing.assert_array_equal(Tokenizer(json.dumps(values))(TEXT[:60]), tokenizer(TEXT[:60]))


def test_an_unknown_pad_token_is_refused(tokenizer):
    with pytest.raises(BundleError, match="the tokenizer has no token '<pad>' to pad with"):
        Tokenizer(tokenizer.definition, pad_token="<pad>")

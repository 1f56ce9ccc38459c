from __future__ import annotations

from pathlib import Path

from transformers import CLIPTokenizer

from tav_sdk.training.pocket.clip_model import text_config
from tav_sdk.training.pocket.config import TrainingSetting
from tav_sdk.training.pocket.text import MAX_TOKENS, build_tokenizer, tokenize, write_tokenizer
from tav_sdk.training.pocket.world import scene_of


def test_words_of_captions_are_single_tokens():
    tokenizer = build_tokenizer()
    for index in range(50):
        words = scene_of(1, index)[1].replace(",", " ,").split()
        assert len(tokenizer(" ".join(words)).input_ids) == len(words) + 2


def test_any_prompt_tokenizes_without_unknown_tokens():
    tokenizer = build_tokenizer()
    ids = tokenizer("Žluťoučký kůň 走る, 3 zebras!").input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in ids[:-1]


def test_ids_of_the_configuration_are_the_tokenizers(micro: TrainingSetting):
    tokenizer, config = build_tokenizer(), text_config(micro)
    assert config.eos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == config.pad_token_id
    assert config.bos_token_id == tokenizer.bos_token_id
    assert config.max_position_embeddings == MAX_TOKENS == 77
    assert config.vocab_size == len(tokenizer)


def test_the_written_folder_gives_the_same_ids(tmp_path: Path):
    write_tokenizer(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"vocab.json", "merges.txt", "tokenizer.json"}
    prompts = ["a red car is moving on the road, pixel art style", "a zebra dances"]
    again = CLIPTokenizer.from_pretrained(str(tmp_path))
    assert tokenize(again, prompts).tolist() == tokenize(build_tokenizer(), prompts).tolist()

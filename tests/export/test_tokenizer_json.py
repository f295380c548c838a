"""A tokenizer.json as people have it: what trainers leave in it, and what contradicts the files beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from vprm_benchmarks.random_checkpoint import make_slow
from vprm_export.readings import Readings
from vprm_export.tokenizer_files import BundleTokenizer, load_tokenizer
from vprm_runtime import CheckpointError, UnsupportedError
from vprm_runtime.prompt.tokenizer import TextTokenizer


def text_tokenizer(tokenizer: BundleTokenizer, directory: Path) -> TextTokenizer:
    (directory / "tokenizer.json").write_text(tokenizer.json_text, "utf-8")
    return TextTokenizer(directory / "tokenizer.json", tokenizer.control)


@pytest.fixture
def slow(random_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """The same without it, as InternVL's trainer saves it."""
    directory = Path(shutil.copytree(random_checkpoint("qwen2"), tmp_path / "slow"))
    make_slow(directory)
    return directory


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_text("utf-8"))
    change(document)
    path.write_text(json.dumps(document, ensure_ascii=False), "utf-8")


@pytest.fixture
def fast(random_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A Qwen2 checkpoint with a tokenizer.json that a test may edit."""
    return Path(shutil.copytree(random_checkpoint("qwen2"), tmp_path / "fast"))


@pytest.mark.parametrize(
    "left",
    [
        {"truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}},
        {"padding": {"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0,
                     "pad_type_id": 0, "pad_token": "<|endoftext|>"}},
        {"padding": {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": 8, "pad_id": 0,
                     "pad_type_id": 0, "pad_token": "<|endoftext|>"}},
    ],
)  # fmt: skip
def test_what_a_trainer_left_in_the_file_for_its_batches(fast: Path, left: dict[str, Any]) -> None:
    expected = load_tokenizer(fast).json_text
    edit(fast / "tokenizer.json", lambda document: document.update(left))
    assert load_tokenizer(fast).json_text == expected


def test_merges_are_never_dropped_at_random(fast: Path) -> None:
    expected = load_tokenizer(fast).json_text
    edit(fast / "tokenizer.json", lambda document: document["model"].update(dropout=0.5))
    readings = Readings()
    assert load_tokenizer(fast, readings).json_text == expected
    assert [reading.what for reading in readings.all if reading.assumed] == ["merges of the tokenizer"]


@pytest.mark.parametrize("says", [None, False])
def test_a_token_after_the_text_is_not_one_in_front(fast: Path, says: bool | None) -> None:
    assert load_tokenizer(fast).control.bos is None
    end = load_tokenizer(fast).control.im_end
    parts = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}]
    special = {"<|im_end|>": {"id": "<|im_end|>", "ids": [end], "tokens": ["<|im_end|>"]}}
    processor = {"type": "TemplateProcessing", "single": parts, "pair": parts, "special_tokens": special}
    edit(fast / "tokenizer.json", lambda document: document.update(post_processor=processor))
    edit(fast / "tokenizer_config.json", lambda document: document.update(add_bos_token=says))
    assert load_tokenizer(fast).control.bos is None


@pytest.mark.parametrize(
    "values",
    [
        {"additional_special_tokens": ["<new>"]},
        {"extra_special_tokens": {"role": "<new>"}},
        {"extra_special_tokens": ["<new>"]},
        {"additional_special_tokens": [{"content": "<new>", "special": True}]},
    ],
)
def test_a_special_token_that_the_tokenizer_lacks(fast: Path, slow: Path, values: dict[str, Any]) -> None:
    """transformers gives it a new id, whatever the model was trained with."""
    for directory in (fast, slow):
        edit(directory / "tokenizer_config.json", lambda document: document.update(values))
        with pytest.raises(CheckpointError, match=r"names the special token '<new>'.*save_pretrained"):
            load_tokenizer(directory)


def split(document: dict[str, Any]) -> dict[str, Any]:
    """The step that splits texts by a pattern."""
    step: dict[str, Any] = document["pre_tokenizer"]["pretokenizers"][0]
    return step


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(normalizer={"type": "NFKC"}), "not NFC"),
        (lambda d: d.update(normalizer={"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}), "not NFC"),
        (lambda d: d.update(normalizer={"type": "Strip", "strip_left": True, "strip_right": True}), "not NFC"),
        (lambda d: d.update(normalizer=None), "normalizer null, not NFC"),
        (lambda d: d["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True), "add_prefix_space true"),
        (lambda d: split(d).update(pattern={"Regex": r"\p{L}+|\p{N}{1,3}|."}), "not by the class's pattern"),
        (lambda d: split(d).update(pattern={"String": " "}), "not by the class's pattern"),
        (lambda d: split(d).update(behavior="MergedWithNext"), "splits texts otherwise"),
        (lambda d: split(d).update(invert=True), "splits texts otherwise"),
        (lambda d: d["pre_tokenizer"]["pretokenizers"][1].update(use_regex=True), "a second pattern"),
        (lambda d: d.update(pre_tokenizer=d["pre_tokenizer"]["pretokenizers"][1]), "no pattern"),
        (lambda d: d["model"].update(ignore_merges=True), "ignore_merges true"),
        (lambda d: d["pre_tokenizer"]["pretokenizers"].append({"type": "Digits", "individual_digits": True}), "Digits"),
    ],
)
def test_a_file_that_is_not_as_its_class_has_it(fast: Path, change: Callable[[Any], Any], words: str) -> None:
    """transformers 4 takes the file, transformers 5 the class: refused, and the advice says how the file is taken."""
    edit(fast / "tokenizer.json", change)
    with pytest.raises(CheckpointError, match=f"{words}.*PreTrainedTokenizerFast"):
        load_tokenizer(fast)
    edit(fast / "tokenizer_config.json", lambda document: document.update(tokenizer_class="PreTrainedTokenizerFast"))
    theirs, ours = AutoTokenizer.from_pretrained(fast), text_tokenizer(load_tokenizer(fast), fast.parent)
    for text in ("It's", " Ａｂ １ é", "a  b ", "<ref>x</ref> y"):
        marked = theirs(f"<|im_start|>{text}<|im_end|>")["input_ids"]
        assert ours.encode(text) == marked[1:-1], text


def test_a_tokenizer_that_makes_nothing_of_a_text(fast: Path) -> None:
    edit(fast / "tokenizer.json", lambda document: split(document).update(behavior="Removed"))
    edit(fast / "tokenizer_config.json", lambda document: document.update(tokenizer_class="PreTrainedTokenizerFast"))
    with pytest.raises(CheckpointError, match="makes no token of the text 'a'"):
        load_tokenizer(fast)


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word", "normalized"])
def test_flags_of_an_added_token_must_agree(fast: Path, flag: str) -> None:
    """transformers takes those of tokenizer_config.json: with lstrip it eats the blanks before `<ref>`."""

    def set_flag(document: dict[str, Any], value: bool) -> None:
        entries = document["added_tokens_decoder"].values()
        next(entry for entry in entries if entry["content"] == "<ref>")[flag] = value

    edit(fast / "tokenizer_config.json", lambda document: set_flag(document, True))
    with pytest.raises(CheckpointError, match=f"'<ref>' has {flag} true in tokenizer_config.json and false"):
        load_tokenizer(fast)
    edit(fast / "tokenizer_config.json", lambda document: set_flag(document, False))
    load_tokenizer(fast)


def test_control_tokens_that_the_configuration_splits(fast: Path, slow: Path) -> None:
    for directory in (fast, slow):
        edit(directory / "tokenizer_config.json", lambda document: document.update(split_special_tokens=False))
        load_tokenizer(directory)
        edit(directory / "tokenizer_config.json", lambda document: document.update(split_special_tokens=True))
        with pytest.raises(UnsupportedError, match="split_special_tokens true"):
            load_tokenizer(directory)


def test_a_prefix_space_that_only_the_configuration_has(fast: Path) -> None:
    edit(fast / "tokenizer_config.json", lambda document: document.update(add_prefix_space=True))
    with pytest.raises(CheckpointError, match=r"add_prefix_space false, tokenizer_config.json says true"):
        load_tokenizer(fast)


def test_added_tokens_that_only_the_file_has_are_noted(fast: Path) -> None:
    assert not [reading for reading in _assumed(fast) if reading == "added tokens"]
    last = max(token["id"] for token in json.loads((fast / "tokenizer.json").read_text("utf-8"))["added_tokens"])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    edit(fast / "tokenizer.json", lambda d: d["added_tokens"].append({"id": last + 1, "content": "<mine>", **flags}))
    assert "added tokens" in _assumed(fast)
    edit(fast / "tokenizer_config.json", lambda d: d.pop("added_tokens_decoder"))
    assert "added tokens" not in _assumed(fast)


def _assumed(directory: Path) -> list[str]:
    readings = Readings()
    load_tokenizer(directory, readings)
    return [reading.what for reading in readings.all if reading.assumed]

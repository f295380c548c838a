"""libFuzzer on what strangers give: manifests, tokenizers, texts, pixels, rows. Each target runs $VPRM_FUZZ_SECONDS."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cpp.conftest import QUICK, built
from tests.cpp.test_rows import REFUSED, SCORED
from tests.cpp.test_tokenizer import GPT2, LLAMA3
from tests.cpp.texts import texts

SECONDS = int(os.environ.get("VPRM_FUZZ_SECONDS", "30"))
DICTIONARY = Path(__file__).parent / "fuzz/json.dict"


def _clang() -> str:
    """The C compiler with libFuzzer; skips, naming the packages, if there is none."""
    found = shutil.which("clang-19") or shutil.which("clang")
    if found is None or shutil.which(found.replace("clang", "clang++")) is None:
        pytest.skip("fuzzing is not run: install clang-19 and libclang-rt-19-dev")
    probe = subprocess.run(
        [found, "-fsanitize=fuzzer", "-x", "c", "-", "-o", os.devnull],
        input="int LLVMFuzzerTestOneInput(const char *data, unsigned long size) { return data + size == 0; }",
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if probe.returncode != 0:
        pytest.skip(f"fuzzing is not run: {found} has no libFuzzer; install libclang-rt-19-dev")
    return found


def _small_tokenizers() -> dict[str, dict[str, Any]]:
    """Files that use every feature and are short enough to be changed byte by byte."""
    fallback = [f"<0x{byte:02X}>" for byte in range(0, 256, 5)]
    pieces = ["<unk>", *fallback, "\u2581", "a", "b", "ab", "\u2581ab", "e", "\u00e9", "1"]
    merges = [["a", "b"], ["\u2581", "ab"]]
    bpe = {
        "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
    }  # fmt: skip
    whole: dict[str, Any] = {"version": "1.0", "truncation": None, "padding": None, "post_processor": None}
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{**token, "id": 0, "content": "<unk>"}, {**token, "id": 99, "content": "<ref>", "special": False}]
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    with_fallback = {
        **whole, "added_tokens": added, "pre_tokenizer": None,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, spaces]},
        "model": {**bpe, "vocab": {piece: number for number, piece in enumerate(pieces)}, "merges": merges},
    }  # fmt: skip
    letters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 324))]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    made = {"fallback": with_fallback}
    for name, pattern in (("gpt2", GPT2), ("llama3", LLAMA3)):
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        made[name] = {
            **whole, "added_tokens": added[1:], "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "model": {
                **bpe, "unk_token": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": name == "llama3",
                "vocab": {piece: number for number, piece in enumerate(letters[::4])}, "merges": ["! %"][:0],
            },
        }  # fmt: skip
    return made


def _seeds(target: str, corpus: Path, bundle: Path) -> None:
    """Inputs that are valid, for the fuzzer to change."""
    if target == "manifest":
        shutil.copy(bundle / "manifest.json", corpus)
    elif target == "tokenizer":
        for name, document in _small_tokenizers().items():
            (corpus / name).write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")), "utf-8")
    elif target == "text":
        for number, text in enumerate(texts(300)):
            (corpus / str(number)).write_text(text, "utf-8")
    elif target == "row":
        for number, row in enumerate((*SCORED, *REFUSED)):
            (corpus / str(number)).write_text(json.dumps(row)[:5000], "utf-8")
    else:
        (corpus / "wide").write_bytes(bytes([255, 9, 130, 13, 0, 11]) + bytes(range(256)))


@pytest.mark.parametrize("target", ["manifest", "tokenizer", "text", "pixels", "row"])
def test_fuzzing_finds_nothing(target: str, demo_bundle: Path, tmp_path: Path) -> None:
    clang = _clang()
    compilers = (f"-DCMAKE_C_COMPILER={clang}", f"-DCMAKE_CXX_COMPILER={clang.replace('clang', 'clang++')}")
    folder = built("fuzz", *QUICK, *compilers, "-DVPRM_FUZZERS=ON", "-DVPRM_SANITIZE=address,undefined")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    _seeds(target, corpus, demo_bundle)
    arguments = [f"-max_total_time={SECONDS}", "-max_len=6000", "-timeout=20", "-rss_limit_mb=2500", "-verbosity=1"]
    if target in ("manifest", "tokenizer", "row"):
        arguments.append(f"-dict={DICTIONARY}")
    environment = {
        **os.environ,
        "VPRM_FUZZ_TOKENIZER": str(demo_bundle / "tokenizer.json"),
        "UBSAN_OPTIONS": "halt_on_error=1",
    }
    done = subprocess.run(
        [folder / f"tests/fuzz_{target}", *arguments, str(corpus)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stderr.strip().splitlines()[-1])  # how many inputs


def test_the_seeds_are_tokenizers(runner: Callable[..., Any], tmp_path: Path) -> None:
    """What the fuzzer begins with can be executed; else it would see the first lines of a reader only."""
    for name, document in _small_tokenizers().items():
        (tmp_path / name).write_text(json.dumps(document), "utf-8")
        (ids,) = runner("encode", tokenizer=str(tmp_path / name), texts=["ab 1<ref>"])
        assert 99 in ids, name

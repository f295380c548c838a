"""Token ids of libvprm equal the `tokenizers` library's, and what it cannot execute is refused by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cpp.conftest import ROOT, SOURCE, Runner, RunnerError
from tests.cpp.texts import texts
from tokenizers import Tokenizer

from vprm_benchmarks.random_checkpoint import LlmFamily
from vprm_demo import checkpoint_dir
from vprm_export.tokenizer_files import load_tokenizer

COUNT = int(os.environ.get("VPRM_TOKENIZER_TEXTS", "20000"))
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
Document = dict[str, Any]


def assert_equal_ids(runner: Runner, path: Path, count: int = COUNT, seed: int = 0) -> None:
    """All texts, in batches."""
    expected = Tokenizer.from_file(str(path))
    expected.encode_special_tokens = True
    expected.no_truncation()
    given: dict[str, Any] = {"tokenizer": str(path)}
    pending: list[str] = []

    def compare() -> None:
        found = runner("encode", texts=pending, **given)
        given.clear()
        wanted = expected.encode_batch(pending, add_special_tokens=False)
        different = [(t, a, b.ids) for t, a, b in zip(pending, found, wanted, strict=True) if a != b.ids]
        assert not different, different[0]
        pending.clear()

    for text in texts(count, seed):
        pending.append(text)
        if len(pending) == 2000:
            compare()
    if pending:
        compare()


def changed(path: Path, to: Path, change: Callable[[Document], None]) -> Path:
    """A tokenizer file with a change."""
    document = json.loads(path.read_text("utf-8"))
    change(document)
    to.write_text(json.dumps(document), "utf-8")
    return to


@pytest.fixture(scope="module")
def family_file(
    random_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """`tokenizer.json` of a family's bundles, or of the demo's."""
    folder = tmp_path_factory.mktemp("tokenizers")

    def get(name: str) -> Path:
        path = folder / f"{name}.json"
        checkpoint = checkpoint_dir() if name == "demo" else random_checkpoint(name)
        path.write_text(load_tokenizer(checkpoint).json_text, "utf-8")
        return path

    return get


@pytest.mark.parametrize("family", ["demo", "internlm2", "qwen2", "llama"])
def test_ids_of_every_family(runner: Runner, family_file: Callable[[str], Path], family: LlmFamily) -> None:
    assert_equal_ids(runner, family_file(family))


def with_pattern(pattern: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern

    return change


def with_gpt2(document: Document) -> None:
    document["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }


def with_user_tokens(document: Document) -> None:
    """Tokens that are found before and after NFC, that overlap, and that begin with a special one."""
    last = max(token["id"] for token in document["added_tokens"])
    for number, (content, normalized) in enumerate(
        (
            ("<ref><box>", False),
            ("e\u0301t", True),
            ("éé", True),
            ("<|im_start|>user", False),
            ("aa", False),
            ("ÅÅ", False),
        )
    ):
        token = {"id": last + 1 + number, "content": content, "normalized": normalized, "special": False}
        document["added_tokens"].append({**token, "single_word": False, "lstrip": False, "rstrip": False})


def with_ignored_merges(document: Document) -> None:
    document["model"]["ignore_merges"] = True


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("qwen2", with_pattern(GPT2)),
        ("qwen2", with_pattern(LLAMA3)),
        ("qwen2", with_gpt2),
        ("qwen2", with_user_tokens),
        ("internlm2", with_user_tokens),
        ("llama", with_ignored_merges),
    ],
    ids=["gpt2", "llama3", "gpt2-built-in", "user-tokens", "user-tokens-byte-fallback", "ignored-merges"],
)
def test_ids_of_variants(
    runner: Runner,
    family_file: Callable[[str], Path],
    tmp_path: Path,
    family: LlmFamily,
    change: Callable[[Document], None],
) -> None:
    assert_equal_ids(runner, changed(family_file(family), tmp_path / "tokenizer.json", change), COUNT // 4)


def test_ids_of_internlm2s_own_vocabulary(runner: Runner, tmp_path: Path) -> None:
    folder = Path(os.environ.get("VPRM_INTERNLM2_TOKENIZER", ROOT.parent / "shared/data/internlm2_tokenizer"))
    if not (folder / "tokenizer.model").is_file():
        pytest.skip("InternLM2's tokenizer files are not here; name their folder in VPRM_INTERNLM2_TOKENIZER")
    path = tmp_path / "tokenizer.json"
    path.write_text(load_tokenizer(folder).json_text, "utf-8")
    assert_equal_ids(runner, path, COUNT // 4)


def test_long_texts(runner: Runner, family_file: Callable[[str], Path]) -> None:
    for family in ("demo", "qwen2"):
        path = family_file(family)
        expected = Tokenizer.from_file(str(path))
        for text in ("a" * 50_000, " " * 50_000, "1" * 20_000, "\n" * 20_000, "ab " * 20_000, "é" * 9_000):
            (found,) = runner("encode", tokenizer=str(path), texts=[text])
            assert found == expected.encode(text, add_special_tokens=False).ids


def test_control_tokens_in_text_are_refused(runner: Runner, family_file: Callable[[str], Path]) -> None:
    path = family_file("qwen2")
    index = Tokenizer.from_file(str(path)).token_to_id("<ref>")
    (found,) = runner("encode", tokenizer=str(path), texts=["a<ref>b"], control=[index])
    assert found == f"the text would become the control token {index}: remove it from the text"


def removed(*keys: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        for key in keys[:-1]:
            document = document[key]
        del document[keys[-1]]

    return change


def placed(value: Any, *keys: str) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return change


def with_stripping_token(document: Document) -> None:
    token = next(token for token in document["added_tokens"] if not token["special"])
    token["lstrip"] = True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (placed({"type": "Metaspace", "replacement": "_"}, "pre_tokenizer"), "a pre-tokenizer of type Metaspace"),
        (placed({"type": "Lowercase"}, "normalizer"), "a normalizer of type Lowercase"),
        (placed("WordPiece", "model", "type"), "a model of type WordPiece"),
        (placed(0.1, "model", "dropout"), "dropout"),
        (placed("##", "model", "continuing_subword_prefix"), "continuing_subword_prefix"),
        (with_stripping_token, "with lstrip"),
        (with_pattern(r"\p{Lu}+|\s"), r"another property than \p{L} and \p{N}"),
        (with_pattern(r"\p{L}++"), "a lazy, possessive or double quantifier"),
        (with_pattern(r"(a|b)c"), "a group of another kind"),
        (with_pattern(r"\p{L}*"), "an alternative that may match nothing"),
        (with_pattern(r"[a-z]+"), "a range or set within a class"),
        (with_pattern(r"\w+"), r"the escape \w"),
        (placed({}, "model", "vocab"), "vocab is not an object with tokens"),
        (placed([["a", "never"]], "model", "merges"), "which is not in the vocabulary"),
        (removed("model"), "something else than an object around"),
    ],
)
def test_what_cannot_be_executed_is_refused_by_name(
    runner: Runner,
    family_file: Callable[[str], Path],
    tmp_path: Path,
    change: Callable[[Document], None],
    message: str,
) -> None:
    path = changed(family_file("qwen2"), tmp_path / "tokenizer.json", change)
    with pytest.raises(RunnerError) as found:
        runner("encode", tokenizer=str(path), texts=["a"])
    assert message in str(found.value)


def test_the_unicode_tables_are_the_pinned_librarys() -> None:
    script = SOURCE / "tools/unicode_tables.py"
    made = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True).stdout
    assert made == (SOURCE / "src/text/unicode_tables.inc").read_text("utf-8")

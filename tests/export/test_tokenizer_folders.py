"""Tokenizer folders as people have them: ids equal to transformers' on texts of every kind, or refused by name."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoTokenizer

from vprm_benchmarks.parity.api import ParityOptions, run_parity
from vprm_benchmarks.random_checkpoint import make_slow, tiny_spec, write_random_checkpoint
from vprm_benchmarks.reference import ReferenceScorer
from vprm_export import export_bundle
from vprm_export.tokenizer_files import BundleTokenizer, load_tokenizer
from vprm_runtime import CheckpointError, StepScorer, UnsupportedError
from vprm_runtime.prompt.tokenizer import TextTokenizer

CHARACTERS = (
    "abcdefghij ABC 0123456789 \n\t\r.,;:!?()[]{}<>|/\\\"'`~@#$%^&*-_=+ 红车答案求角度。 éüñ ½×÷"
    "√π∠° 😀👍🏽 \u200b\u00a0\ufeff\u0301\u1100\u1161ﬁ① İſßµ'sS'T're'LL_\x00\x1c\u2028"
)
WORDS = (
    *(
        "<ref>",
        "</ref>",
        "<box>",
        "</box>",
        "<quad>",
        "</quad>",
        "<refs>",
        "the car",
        "step",
        "\n\n",
        "  ",
        "\r\n",
        "It's",
        "3.14",
    ),
    *("\\frac{1}{2}", "$x^2$", "答案", "is 27", "[[12, 30, 400, 500]]", "'S", "I'LL", "<|im", "<img", "IMG_CONTEXT"),
)


def corpus(count: int = 3000) -> list[str]:
    """Texts drawn from characters and words that tokenizers treat in different ways; always the same."""
    draw = random.Random(14)
    texts = ["", " ", "\n", "a\n\nb", *WORDS]
    while len(texts) < count:
        length = draw.randrange(1, 30)
        pool: Any = WORDS if draw.random() < 0.4 else CHARACTERS
        texts.append("".join(draw.choice(pool) for _ in range(length)))
    return texts


def text_tokenizer(tokenizer: BundleTokenizer, directory: Path) -> TextTokenizer:
    (directory / "tokenizer.json").write_text(tokenizer.json_text, "utf-8")
    return TextTokenizer(directory / "tokenizer.json", tokenizer.control)


@pytest.fixture
def slow(random_checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A Qwen2 checkpoint as InternVL's trainer saves it."""
    directory = tmp_path / "slow"
    shutil.copytree(random_checkpoint("qwen2"), directory)
    make_slow(directory)
    return directory


@pytest.mark.parametrize(
    "kind", ["slow", "fast", "slow without added_tokens.json", "slow without added_tokens_decoder"]
)
def test_qwen2_ids_are_transformers(slow: Path, tmp_path: Path, kind: str, random_checkpoint: Any) -> None:
    directory = slow
    if kind == "fast":
        directory = random_checkpoint("qwen2")
    if "without added_tokens.json" in kind:
        (slow / "added_tokens.json").unlink()
    if "without added_tokens_decoder" in kind:
        edit(slow / "tokenizer_config.json", lambda config: config.pop("added_tokens_decoder"))
    ours = text_tokenizer(load_tokenizer(directory), tmp_path)
    theirs = AutoTokenizer.from_pretrained(str(directory))
    for text in corpus():
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), repr(text)
    assert theirs.get_vocab()["<ref>"] in ours.encode("a <ref>b</ref>")


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_text("utf-8"))
    change(document)
    path.write_text(json.dumps(document, ensure_ascii=False), "utf-8")


def test_scores_with_slow_files_are_the_references(slow: Path, tmp_path: Path) -> None:
    export_bundle(slow, tmp_path / "bundle")
    scorer = StepScorer.open(tmp_path / "bundle")
    steps = ["It's <ref>the red car</ref><box>[[1, 2, 3, 4]]</box>.", "答案：27"]
    reference = ReferenceScorer.load(slow).score([], "How much?", [steps])[0]
    assert list(scorer.prepare("How much?", [], steps).ids) == reference.token_ids.tolist()
    scores = [step.score for step in scorer.score(None, "How much?", [steps])[0].steps]
    assert scores == pytest.approx(reference.scores.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: (d / "merges.txt").unlink(), "merges.txt is missing"),
        (lambda d: (d / "merges.txt").write_text("#version: 0.2\nonly\n"), "line 2 is no pair"),
        (lambda d: (d / "merges.txt").write_text("zz qq\n"), "does not fit vocab.json"),
        (lambda d: (d / "merges.txt").write_text("version https://git-lfs.github.com/spec/v1\n"), "git-lfs"),
        (lambda d: edit(d / "vocab.json", lambda v: v.popitem()), "."),
        (lambda d: edit(d / "vocab.json", lambda v: v.update(a=7_000)), "does not number its tokens"),
        (lambda d: edit(d / "added_tokens.json", lambda v: v.update({"<ref>": 3})), "has id 3 in added_tokens.json"),
        (
            lambda d: edit(d / "tokenizer_config.json", lambda v: v.update(tokenizer_class="GPT2Tokenizer")),
            "GPT2Tokenizer",
        ),
        (lambda d: edit(d / "tokenizer_config.json", lambda v: v.pop("tokenizer_class")), "tokenizer_class None"),
        (lambda d: (edit(d / "added_tokens.json", lambda v: v.update({"<new>": 9_999})),), "should have id 9999"),
    ],
)
def test_files_that_do_not_fit_each_other(slow: Path, change: Callable[[Path], Any], words: str) -> None:
    change(slow)
    with pytest.raises((CheckpointError, UnsupportedError), match=words):
        load_tokenizer(slow)


def test_two_kinds_of_files(random_checkpoint: Callable[[str], Path], slow: Path, tmp_path: Path) -> None:
    """tokenizer.json goes first, and has to agree with what is beside it."""
    shutil.copy(random_checkpoint("qwen2") / "tokenizer.json", slow)
    load_tokenizer(slow)
    edit(slow / "vocab.json", lambda vocabulary: vocabulary.update(a=vocabulary["b"], b=vocabulary["a"]))
    with pytest.raises(CheckpointError, match="number their tokens differently"):
        load_tokenizer(slow)
    (slow / "vocab.json").unlink()
    edit(
        slow / "tokenizer.json",
        lambda t: t.update(added_tokens=[e for e in t["added_tokens"] if e["content"] != "<prm>"]),
    )
    assert load_tokenizer(slow).tokenizer.token_to_id("<prm>") is not None  # added, as transformers does
    edit(slow / "tokenizer_config.json", lambda config: config.update(add_bos_token=True, bos_token="<|endoftext|>"))
    with pytest.raises(CheckpointError, match="puts no token in front"):
        load_tokenizer(slow)


@pytest.mark.parametrize("family", ["llama", "internlm2"])
def test_ids_of_the_other_families_are_the_references(
    random_checkpoint: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    from vprm_benchmarks.reference.tokenizer import load_tokenizer as load_reference

    ours = text_tokenizer(load_tokenizer(random_checkpoint(family)), tmp_path)
    theirs = load_reference(random_checkpoint(family))
    for text in corpus():
        assert ours.encode(text) == theirs.encode(text, add_bos=False), repr(text)


def llama_folder(target: Path, dummy_prefix: bool = True, **config: Any) -> Path:
    """A checkpoint with a Llama SentencePiece tokenizer, which puts a blank in front of texts."""
    write_random_checkpoint(target, tiny_spec("internlm2"))
    model = sentencepiece_model_pb2.ModelProto.FromString((target / "tokenizer.model").read_bytes())
    model.normalizer_spec.add_dummy_prefix = dummy_prefix
    names = json.loads((target / "tokenizer_config.json").read_text("utf-8"))["added_tokens_decoder"]
    for index, piece in enumerate(model.pieces):  # Llama's class renames none, InternLM2's does
        piece.piece = names.get(str(index), {}).get("content", piece.piece)
    (target / "tokenizer.model").write_bytes(model.SerializeToString())
    edit(target / "tokenizer_config.json", lambda c: c.update({"tokenizer_class": "LlamaTokenizer", **config}))
    return target


@pytest.mark.parametrize("kind", ["tokenizer.model", "tokenizer.json", "without a dummy prefix"])
def test_llama_sentencepiece_ids_are_transformers(tmp_path: Path, kind: str) -> None:
    """Every stretch of text is after a control token; there transformers puts no blank in front."""
    directory = llama_folder(tmp_path / "llama", dummy_prefix="without" not in kind, legacy=False)
    theirs = AutoTokenizer.from_pretrained(str(directory))
    assert theirs.encode("a", add_special_tokens=False) != theirs.encode("<s>a", add_special_tokens=False)[1:]
    if kind == "tokenizer.json":
        theirs.save_pretrained(directory)
        (directory / "tokenizer.model").unlink(missing_ok=True)
        assert '"prepend_scheme": "first"' in (directory / "tokenizer.json").read_text("utf-8")
    ours = text_tokenizer(load_tokenizer(directory), tmp_path)
    start = theirs.convert_tokens_to_ids("<|im_start|>")
    for text in corpus():
        expected = theirs.encode(f"<|im_start|>{text}", add_special_tokens=False)
        assert [start, *ours.encode(text)] == expected, repr(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["pre_tokenizer"].update(prepend_scheme="always"), "not Metaspace that prepends first"),
        (lambda d: d["pre_tokenizer"].update(split=True), "not Metaspace that prepends first"),
        (lambda d: d.update(pre_tokenizer=None), "pre_tokenizer null"),
        (lambda d: d.update(normalizer={"type": "Prepend", "prepend": "▁"}), "Prepend.*not null"),
        (lambda d: d["model"].update(fuse_unk=False), "fuse_unk false"),
        (lambda d: d["model"].update(ignore_merges=True), "ignore_merges true"),
    ],
)
def test_a_llama_file_that_is_not_as_its_class_has_it(tmp_path: Path, change: Callable[[Any], Any], words: str) -> None:
    directory = llama_folder(tmp_path / "llama", legacy=False)
    AutoTokenizer.from_pretrained(str(directory)).save_pretrained(directory)
    (directory / "tokenizer.model").unlink(missing_ok=True)
    load_tokenizer(directory)
    edit(directory / "tokenizer.json", change)
    with pytest.raises(CheckpointError, match=f"LlamaTokenizer.*{words}.*PreTrainedTokenizerFast"):
        load_tokenizer(directory)


def test_parity_is_green_on_a_llama_sentencepiece_tokenizer(tmp_path: Path) -> None:
    directory = llama_folder(tmp_path / "llama", legacy=False)
    manifest = export_bundle(directory, tmp_path / "bundle")
    assert "blank in front of a text" in [reading.what for reading in manifest.provenance.readings]
    report = run_parity(tmp_path / "bundle", directory, ParityOptions(threads=1))
    assert report.passed, [stage for stage in report.stages if not stage.passed]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"legacy": True}, "LlamaTokenizer, legacy true"),
        ({}, "LlamaTokenizer, legacy null"),
        ({"legacy": None}, "LlamaTokenizer, legacy null"),
        ({"tokenizer_class": "InternLM2Tokenizer", "legacy": False}, "InternLM2Tokenizer, legacy false"),
        ({"tokenizer_class": "T5Tokenizer", "legacy": False}, "T5Tokenizer, legacy false"),
    ],
)
def test_blanks_in_front_that_versions_put_differently_are_refused(
    tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    with pytest.raises(UnsupportedError, match=rf"add_dummy_prefix.*{words}: read is only.*bring a tokenizer\.json"):
        load_tokenizer(llama_folder(tmp_path / "llama", **config))


def test_a_missing_add_bos_token_is_told(tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path / "checkpoint", tiny_spec("internlm2"))
    edit(directory / "tokenizer_config.json", lambda config: config.pop("add_bos_token"))
    manifest = export_bundle(directory, tmp_path / "bundle")
    assert [reading.what for reading in manifest.provenance.readings if reading.assumed] == ["add_bos_token"]

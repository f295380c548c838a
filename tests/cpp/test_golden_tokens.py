"""Token ids, prompts and score positions of the original code, with InternLM2's own tokenizer."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.cpp.conftest import Runner
from tests.runtime.test_prompt import GOLDEN, INTERNLM2, LITERAL_CONTROL, SHARED, needs_internlm2

from vprm_export.score_rules import VISUALPRM
from vprm_export.templates import DEFAULT_SYSTEM_MESSAGES
from vprm_export.tokenizer_files import BundleTokenizer, load_tokenizer
from vprm_runtime import Bundle
from vprm_runtime.bundle.manifest import FileInfo, PromptInfo

pytestmark = needs_internlm2


@pytest.fixture(scope="module")
def internlm2() -> BundleTokenizer:
    return load_tokenizer(INTERNLM2)


def test_golden_ids_of_plain_text(runner: Runner, internlm2: BundleTokenizer, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(internlm2.json_text, "utf-8")
    texts = [case["text"] for case in GOLDEN["strings"]]
    found = runner("encode", tokenizer=str(tmp_path / "tokenizer.json"), texts=texts)
    for case, ids in zip(GOLDEN["strings"], found, strict=True):
        if case["text"] in LITERAL_CONTROL:  # the original makes control tokens of these; here they stay text
            assert not {92542, 92543, 92544, 92545, 92546} & set(ids)
        else:
            assert ids == case["ids_no_special"], case["text"]


@pytest.mark.parametrize("case", GOLDEN["prompts"], ids=lambda case: case["name"])
def test_golden_prompts(
    runner: Runner, internlm2: BundleTokenizer, demo_bundle: Path, tmp_path: Path, case: dict[str, Any]
) -> None:
    """A bundle of the demo PRM with InternLM2's tokenizer, the case's system message and tokens per tile."""
    system = DEFAULT_SYSTEM_MESSAGES["internvl2_5"]
    if case["system"] == "PRM_SYSTEM_PROMPT":
        system = (SHARED / "visualprm_8b" / "prm_system_prompt.txt").read_text("utf-8")
    bundle = tmp_path / "bundle"
    shutil.copytree(demo_bundle, bundle)
    (bundle / "tokenizer.json").write_text(internlm2.json_text, "utf-8")
    content = (bundle / "tokenizer.json").read_bytes()
    manifest = Bundle.open(demo_bundle).manifest
    made = replace(
        manifest,
        model=replace(manifest.model, tokens_per_tile=case["num_image_token"]),
        tokens=internlm2.control,
        prompt=PromptInfo("internvl2_5", system),
        score_rule=VISUALPRM.with_ids(internlm2),
        files={**manifest.files, "tokenizer.json": FileInfo(len(content), hashlib.sha256(content).hexdigest())},
    )
    (bundle / "manifest.json").write_text(made.to_json(), "utf-8")
    found = runner(
        "prompt", bundle=str(bundle), question=case["question"], tiles=case["num_patches_list"], steps=case["steps"]
    )
    assert found["positions"] == case["score_positions"]
    assert len(found["ids"]) == case["n_tokens"]
    assert case["input_ids"] is None or found["ids"] == case["input_ids"]

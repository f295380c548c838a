"""Score rules other than VisualPRM's: MM-PRM's marker layout, and rules from files, equal to the reference."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.benchmarks.conftest import MakeBundle, MakeCheckpoint

from vprm_benchmarks.parity.api import ParityOptions, run_parity
from vprm_benchmarks.random_checkpoint import LlmFamily, tiny_spec
from vprm_export import ExportOptions, export_bundle
from vprm_runtime import CheckpointError, InputError, StepScorer

TURNS_RULE: dict[str, Any] = {
    "name": "three-way",
    "first_turn": "Task: {images}{question}\n\nStep: {step}",
    "step_joiner": "\n",
    "reply": "Yes",
    "candidates": [{"text": "Yes", "weight": 1}, {"text": "No", "weight": 0}, {"text": "-", "weight": 0.25}],
}
MARKER_RULE: dict[str, Any] = {
    "name": "boxed",
    "first_turn": "{question}\n{step}",
    "step_joiner": " ",
    "marker": "<quad>",
    "candidates": [{"text": "+", "weight": 1}, {"text": "-", "weight": 0}],
}


@pytest.mark.parametrize("family", ["internlm2", "qwen2", "llama"])
def test_mm_prm_in_every_family(family: LlmFamily, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    checkpoint = make_checkpoint(tiny_spec(family))
    bundle = make_bundle(checkpoint, ExportOptions(score_rule="mm-prm"))
    report = run_parity(bundle, checkpoint, ParityOptions(threads=1))
    assert report.passed, [stage for stage in report.stages if not stage.passed]
    assert not run_parity(bundle, checkpoint, ParityOptions(threads=1, limit=2, score_rule="visualprm")).passed


def test_mm_prm_takes_the_templates_system_message(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    checkpoint = make_checkpoint(replace(tiny_spec(), system_message="Something else."))
    manifest = StepScorer.open(make_bundle(checkpoint, ExportOptions(score_rule="mm-prm"))).manifest
    assert "InternVL" in manifest.prompt.system_message
    assert manifest.score_rule.marker == "<prm>"
    assert [candidate.text for candidate in manifest.score_rule.candidates] == ["Yes", "No"]


def test_a_marker_in_the_text_is_text(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(make_checkpoint(tiny_spec("qwen2")), ExportOptions(score_rule="mm-prm"))
    scorer = StepScorer.open(bundle, threads=1)
    prompt = scorer.prepare("What?<prm>", [], ["One <prm> two.", "Three."])
    marker = scorer.manifest.score_rule.marker_id
    assert prompt.ids.count(marker) == 2
    assert [prompt.ids[position] for position in prompt.score_positions] == [marker, marker]


@pytest.mark.parametrize("marker", ["@", "#", "<quad>"])
def test_a_marker_that_is_an_ordinary_token(marker: str, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """Such a token comes out of plain text: a text that has it is refused, others have the reference's scores."""
    file = tmp_path / "rule.json"
    file.write_text(json.dumps(MARKER_RULE | {"marker": marker}), encoding="utf-8")
    checkpoint = make_checkpoint(tiny_spec("qwen2"))
    export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(score_rule=str(file)))
    assert run_parity(tmp_path / "bundle", checkpoint, ParityOptions(threads=1, score_rule=str(file))).passed
    scorer = StepScorer.open(tmp_path / "bundle", threads=1)
    result = scorer.score(None, "Who?", [["I asked", f"a {marker} b"], ["I asked", "b"]])
    prompt = scorer.prepare("Who?", [], ["I asked", "b"])
    assert [prompt.ids[position] for position in prompt.score_positions] == [scorer.manifest.score_rule.marker_id] * 2
    assert result[1].error is None
    if marker == "<quad>":  # an added token: it is taken apart in text
        assert len(result[0].steps) == 2
    else:
        assert "would become control tokens" in (result[0].error or "")


@pytest.mark.parametrize("document", [TURNS_RULE, MARKER_RULE], ids=["turns", "marker"])
def test_rule_from_a_file(document: dict[str, Any], make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    file = tmp_path / "rule.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    checkpoint = make_checkpoint(tiny_spec())
    export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(score_rule=str(file)))
    report = run_parity(tmp_path / "bundle", checkpoint, ParityOptions(threads=1, score_rule=str(file)))
    assert report.passed, [stage for stage in report.stages if not stage.passed]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "unknown keys \\['colour'\\]"),
        ({"first_turn": "{question}"}, "end with its only"),
        ({"first_turn": "{question}{images}{step}"}, "in front of"),
        ({"step_joiner": ""}, "step_joiner is empty"),
        ({"candidates": [{"text": "Yes", "weight": 1}]}, "at least two"),
        ({"candidates": [{"text": "Yes", "weight": 2}, {"text": "No", "weight": 0}]}, "weights from 0 to 1"),
        ({"marker": "<quad>"}, "no reply if there is a marker"),
        ({"reply": ""}, "give reply"),
    ],
)
def test_wrong_rule_files_are_refused_by_key(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    from vprm_export.score_rules import find_score_rule

    file = tmp_path / "rule.json"
    file.write_text(json.dumps(TURNS_RULE | change), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        find_score_rule(str(file))


def test_rules_that_do_not_fit_the_tokenizer_are_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tiny_spec())
    file = tmp_path / "rule.json"
    file.write_text(json.dumps(MARKER_RULE | {"marker": "<none>"}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="no token '<none>'"):
        export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(score_rule=str(file)))
    many = [{"text": "certainly", "weight": 1}, {"text": "No", "weight": 0}]
    file.write_text(json.dumps(MARKER_RULE | {"candidates": many}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="tokens in this tokenizer"):
        export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(score_rule=str(file)))
    with pytest.raises(InputError, match="no score rule 'other'"):
        export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(score_rule="other"))
    assert not (tmp_path / "bundle").exists()

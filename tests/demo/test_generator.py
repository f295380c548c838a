"""The generator: deterministic, labels that an independent reading of the text confirms, splits that do not meet."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

import vprm_demo
from vprm_demo import rows
from vprm_demo.generator import FAMILIES, Variation, scene
from vprm_demo.generator.drawing import (
    HELD_OUT_PALETTE,
    HELD_OUT_STYLE,
    TRAINING_PALETTES,
    TRAINING_STYLES,
    Look,
)
from vprm_demo.generator.solving import held_out_pair
from vprm_demo.generator.tiling import tiles_from_image
from vprm_demo.generator.types import ATTRIBUTE_CLASSES, Scene, Step


def scenes(family: str, n: int, held_out: bool = False, shape: str = "tile") -> list[tuple[Random, Scene]]:
    result = []
    for seed in range(n):
        rng = Random(f"{family}-{seed}")
        result.append((rng, scene(rng, Variation(held_out, shape, (family,)))))
    return result


def truth_of_bars(made: Scene) -> dict[str, int]:
    """Values by letter, read back from the regions."""
    values = {}
    for region in made.regions:
        tens = region.attributes["tens"]
        values[region.attributes["name"]] = int(("" if tens == "blank" else tens) + region.attributes["ones"])
    return values


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_same_seed_same_image_and_text(family: str) -> None:
    first, second = (scene(Random(5), Variation(families=(family,))) for _ in range(2))
    assert first.image.tobytes() == second.image.tobytes()
    assert first.problems[0].question == second.problems[0].question
    texts = [[step.text for step in made.problems[0].solve(Random(1), 1).steps] for made in (first, second)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("n_errors", [0, 1, 2])
def test_solutions_have_the_errors_asked_for(family: str, n_errors: int) -> None:
    for rng, made in scenes(family, 12):
        for problem in made.problems:
            solution = problem.solve(rng, n_errors)
            assert 3 <= len(solution.steps) <= 8
            assert solution.correct == (n_errors == 0) == (solution.answer == problem.answer)
            assert solution.steps[-1].label == (1 if solution.correct else -1)
            if n_errors:
                assert any(step.label == -1 for step in solution.steps[:-1])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_arithmetic_labels_are_what_the_line_says(family: str) -> None:
    pattern = re.compile(r"(\d+) ([+-]) (\d+) = (\d+)")
    seen = {1: 0, -1: 0}
    for rng, made in scenes(family, 40):
        for step in made.problems[0].solve(rng, rng.choice((0, 1, 2))).steps:
            match = pattern.search(step.text)
            if match is None:
                continue
            first, sign, second, result = match.groups()
            right = int(first) + (1 if sign == "+" else -1) * int(second) == int(result)
            assert step.label == (1 if right else -1), step.text
            seen[step.label] += 1
    assert seen[1] and seen[-1]


def test_bar_values_and_answers_agree_with_the_image_s_regions() -> None:
    for rng, made in scenes("bars", 40):
        values = truth_of_bars(made)
        for problem in made.problems:
            first, second = re.findall(r"\b([A-H])\b", problem.question)
            total = problem.question.startswith("What is the total")
            expected = values[first] + values[second] if total else values[first] - values[second]
            assert int(problem.answer) == expected
            for step in problem.solve(rng, rng.choice((0, 1, 2))).steps:
                check_bar_step(step, values)


def check_bar_step(step: Step, values: dict[str, int]) -> None:
    match = re.search(r"[Bb]ar ([A-H])\b.*?(\d+)\.$", step.text)
    if match:
        assert step.label == (1 if values[match[1]] == int(match[2]) else -1), step.text
    match = re.search(r"(\d) bars\.$", step.text)
    if match:
        assert step.label == (1 if int(match[1]) == len(values) else -1)
    match = re.search(r"(highest|lowest).* is ([A-H])\.$", step.text)
    if match:
        extreme = max(values, key=values.__getitem__) if match[1] == "highest" else min(values, key=values.__getitem__)
        assert step.label == (1 if extreme == match[2] else -1)


def test_counts_agree_with_the_shapes_drawn() -> None:
    for rng, made in scenes("shapes", 40):
        names = [(region.attributes["name"], region.attributes["second"]) for region in made.regions]
        for fact in made.facts:
            step = fact(rng, rng.random() < 0.5)
            stated = int(re.findall(r"\d+", step.text)[0])
            words = step.text.replace(".", "").split()
            colours = [word for word in words if word in {colour for colour, _ in names}]
            kinds = [word[:-1] for word in words if word[:-1] in {kind for _, kind in names}]
            wanted = [n for n in names if (not colours or n[0] in colours) and (not kinds or n[1] in kinds)]
            assert step.label == (1 if stated == len(wanted) else -1), step.text


def test_table_cells_agree_with_the_regions() -> None:
    for rng, made in scenes("tables", 30):
        cells = {}
        for region in made.regions:
            tens = region.attributes["tens"]
            value = int(("" if tens == "blank" else tens) + region.attributes["ones"])
            cells[region.attributes["name"], region.attributes["second"]] = value
        for fact in made.facts[:-1]:
            step = fact(rng, rng.random() < 0.5)
            match = re.search(r"[Rr]ow (\w).*?column (\w).*?(\d+)\.$", step.text)
            assert match is not None
            assert step.label == (1 if cells[match[1], match[2]] == int(match[3]) else -1)


def test_angle_answers_complete_the_whole() -> None:
    for _, made in scenes("angles", 40):
        regions = [region.attributes for region in made.regions if "tens" in region.attributes]
        by_name = {attributes.get("name"): int(attributes["tens"] + attributes["ones"]) for attributes in regions}
        known = sum(by_name.values())
        whole = 90 if made.attributes["kind"] == "right" else 180
        assert int(made.problems[0].answer) == whole - known


def test_no_text_attribute_is_outside_the_known_classes() -> None:
    for family in FAMILIES:
        for _, made in scenes(family, 5):
            for region in made.regions:
                assert all(value in ATTRIBUTE_CLASSES[head] for head, value in region.attributes.items())


def test_wrong_values_are_distributed_like_right_ones() -> None:
    """A bar's stated value, right or wrong, has the same mean: text alone does not tell them apart."""
    stated: dict[int, list[int]] = {1: [], -1: []}
    for rng, made in scenes("bars", 150):
        for fact in made.facts[:3]:
            step = fact(rng, rng.random() < 0.5)
            stated[step.label].append(int(re.findall(r"\d+", step.text)[0]))
    assert abs(np.mean(stated[1]) - np.mean(stated[-1])) < 2.0


def test_splits_share_no_style_palette_or_combination() -> None:
    assert HELD_OUT_STYLE not in TRAINING_STYLES
    assert HELD_OUT_PALETTE not in TRAINING_PALETTES
    rng = Random(0)
    assert all(Look.draw(rng, True).style == HELD_OUT_STYLE for _ in range(20))
    assert all(Look.draw(rng, False).style in TRAINING_STYLES for _ in range(20))
    for held_out in (False, True):
        for _, made in scenes("bars", 25, held_out):
            values = truth_of_bars(made)
            first, second = re.findall(r"\b([A-H])\b", made.problems[0].question)
            assert held_out_pair(values[first], values[second]) == held_out
    assert held_out_pair(39, 3)  # the model card's example


def test_image_shapes_give_one_three_and_five_tiles() -> None:
    counts = {
        shape: {len(tiles_from_image(made.image)) for _, made in scenes("bars", 8, shape=shape)}
        for shape in ("tile", "wide", "tall", "large")
    }
    assert counts == {"tile": {1}, "wide": {3}, "tall": {3}, "large": {5}}


def test_rows_have_the_benchmark_s_format_and_are_reproducible(tmp_path: Path) -> None:
    path = vprm_demo.held_out_rows(8, cache_dir=tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 8
    for line in lines:
        row = json.loads(line)
        assert set(row) == {"image", "question", "answer", "response", "policy_model", "data_source"}
        steps, labels = row["response"]["steps"], row["response"]["process_correctness"]
        assert len(steps) == len(labels) and set(labels) <= {1, 0, -1}
        with Image.open(path.parent / row["image"][0]) as image:
            assert image.mode == "RGB"
    again = vprm_demo.held_out_rows(8, cache_dir=tmp_path / "other")
    assert again.read_bytes() == path.read_bytes()
    assert [p.read_bytes() for p in sorted(path.parent.glob("images/*"))] == [
        p.read_bytes() for p in sorted(again.parent.glob("images/*"))
    ]
    assert not list(path.parent.parent.glob(".*")), "temporary folders are gone"


def test_a_row_does_not_depend_on_how_many_there_are() -> None:
    few, many = ([row for row, _ in rows.labelled_rows("held_out", n, 0, Variation(held_out=True))] for n in (4, 8))
    assert many[:4] == few


def test_best_of_n_rows_offer_a_choice(tmp_path: Path) -> None:
    for path in (
        vprm_demo.best_of_n_rows(6, cache_dir=tmp_path),
        vprm_demo.example_variant_rows(6, cache_dir=tmp_path),
    ):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            assert 0 < sum(row["correct"]) < len(row["responses"]) == len(row["correct"])
            for steps, labels in zip(row["responses"], row["process_correctness"], strict=True):
                assert len(steps) == len(labels)


def test_bad_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        vprm_demo.held_out_rows(0, cache_dir=tmp_path)
    with pytest.raises(ValueError, match="n_responses must be at least 2"):
        vprm_demo.best_of_n_rows(3, n_responses=1, cache_dir=tmp_path)


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fails() -> object:
        raise OSError("disk full")
        yield

    with pytest.raises(OSError, match="disk full"):
        rows.write_rows("broken", fails, tmp_path)  # type: ignore[arg-type]
    assert not list((tmp_path / "demo").iterdir())


def test_the_cache_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VPRM_CACHE", str(tmp_path))
    assert vprm_demo.calibration_rows(2).is_relative_to(tmp_path)

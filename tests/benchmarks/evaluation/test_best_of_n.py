"""Best of N against numbers worked out by hand and against all subsets; answers as people write them."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from vprm_benchmarks.evaluation.answers import AnswerJudge, final_answer
from vprm_benchmarks.evaluation.best_of_n import (
    BestOfN,
    chosen_among,
    evaluate_best_of_n,
    pass_at,
    questions_from_scored,
    vote,
)
from vprm_benchmarks.evaluation.scored import DataFile, read_scored
from vprm_runtime import InputError

pytest.importorskip("math_verify", reason="comparing answers needs math-verify")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("First, 2 + 2.\n\nThe answer is 4.", "4"),
        (["We add.", "Final answer: 51°."], "51°"),
        ("So \\boxed{\\frac{1}{2}} and \\boxed{\\frac{3}{4}}.", "\\frac{3}{4}"),
        ("### Final Answer: **A**", "A"),
        ("The answer is wrong at first.\n\nFinal answer: $x^2$.", "x^2"),
        ("Angle 4 is 23°.", "23°"),
        ("So m \\angle 3 = 51°.", "51°"),
        ("The shape is a red circle.", "a red circle"),
        ("答案 answer：7。", "7"),
        ("42", "42"),
        ("\\boxed{unclosed", "unclosed"),
        ("", None),
    ],
)
def test_final_answers(response: str | list[str], answer: str | None) -> None:
    """What a response ends with, without the marks around it."""
    assert final_answer(response) == answer


@pytest.mark.parametrize(
    ("expected", "given", "same"),
    [
        ("51", "51°", True),
        ("51", "$51^\\circ$", True),
        ("51", "15", False),
        ("\\frac{1}{2}", "0.5", True),
        ("1/2", "\\dfrac{3}{6}", True),
        ("2\\sqrt{3}", "\\sqrt{12}", True),
        ("2\\sqrt{3}", "2", False),
        ("1000", "1,000", True),
        ("A", "(A)", True),
        ("A", "A. 55 degrees", True),
        ("A", "option A", True),
        ("A", "B", False),
        ("A", "a triangle", False),
        ("red circle", "Red  circle", True),
        ("red circle", "blue circle", False),
        ("\\text{yes}", "Yes", True),
        ("5", "", False),
    ],
)
def test_same_answers(expected: str, given: str, same: bool) -> None:
    """Mathematics by value, options by letter, text by text."""
    assert AnswerJudge().same(expected, given) is same


def test_classes_of_equal_answers() -> None:
    """Votes are counted by value."""
    assert AnswerJudge().classes(["1/2", "3", None, "0.5", "3.0"]) == [0, 1, None, 0, 1]


def test_choice_and_pass_equal_all_subsets() -> None:
    """The counting formulas against a loop over every draw."""
    correct = [False, True, False, True, True]
    ranking = [2, 4, 0, 1]  # response 3 has no score
    for size in range(1, 6):
        draws = list(combinations(range(5), size))
        best = [next((index for index in ranking if index in draw), None) for draw in draws]
        by_loop = sum(index is not None and correct[index] for index in best) / len(draws)
        assert chosen_among(ranking, correct, size) == pytest.approx(by_loop)
        assert pass_at(correct, size) == pytest.approx(sum(any(correct[i] for i in d) for d in draws) / len(draws))


def test_votes_by_hand() -> None:
    """Answers a a b c: most votes win, ties are shared, weights turn the vote, no answer is no vote."""
    answers, correct = [0, 0, 1, 2], [False, False, True, False]
    assert vote(answers, correct, 4) == 0
    assert vote(answers, correct, 1) == 1 / 4
    assert vote(answers, correct, 2) == pytest.approx(3 * 0.5 / 6)  # of the six pairs, three hold b in a tie
    assert vote(answers, correct, 4, [0.2, 0.2, 0.9, 0.1]) == 1
    assert vote([None, None, 1, None], correct, 4) == 1
    assert vote([None, None, None, None], correct, 4) == 0


# Four responses a question: final answers, scores by step, and of the whole response.
QUESTIONS: list[tuple[str, list[str], list[list[float]], list[float]]] = [
    ("4", ["4", "5", "5", "6"], [[0.9, 0.9], [0.5, 0.5], [0.4, 0.4], [0.1, 0.1]], [0.1, 0.9, 0.2, 0.3]),
    ("7", ["7", "7", "8", "7"], [[0.9, 0.1], [0.2, 0.2], [0.6, 0.6], [0.3, 0.3]], [0.9, 0.1, 0.2, 0.3]),
    ("9", ["1", "2", "3", "4"], [[0.9], [0.5], [0.4], [0.1]], [0.1, 0.9, 0.2, 0.3]),
]


@pytest.fixture
def files(tmp_path: Path) -> tuple[DataFile, Path]:
    """The three questions, one that cannot be judged, one that could not be scored, one with too few responses."""
    rows: list[dict[str, Any]] = []
    stepwise: list[dict[str, Any]] = []
    for number, (answer, finals, scores, whole) in enumerate(QUESTIONS):
        responses = [
            [f"Step {n}." for n in range(len(s) - 1)] + [f"The answer is {f}."]
            for f, s in zip(finals, scores, strict=True)
        ]
        rows.append(
            {"id": number, "question": f"Q{number}", "answer": answer, "responses": responses, "data_source": "S"}
        )
        stepwise.append({**_document(number, scores), "outcome": whole})
    for name in ("no answer", "not scored", "short"):
        finals = ["The answer is 1."] * (1 if name == "short" else 4)
        rows.append(
            {"id": name, "question": "Q", "responses": finals, **({} if name == "no answer" else {"answer": "1"})}
        )
        document = {"id": name, "error": "no image"} if name == "not scored" else _document(name, [[0.5]] * len(finals))
        stepwise.append(document)
    paths = [tmp_path / name for name in ("rows.jsonl", "scores.jsonl")]
    for path, documents in zip(paths, (rows, stepwise), strict=True):
        path.write_text("".join(json.dumps({**document, "row": n}) + "\n" for n, document in enumerate(documents)))
    return DataFile(paths[0]), paths[1]


def _document(row_id: int | str, scores: list[list[float]]) -> dict[str, Any]:
    results = [
        {"index": n, "score": None, "steps": [{"text": "s", "score": s} for s in steps], "error": None}
        for n, steps in enumerate(scores)
    ]
    return {"id": row_id, "tiles": [], "results": results, "best": None}


@pytest.fixture
def bench(files: tuple[DataFile, Path]) -> BestOfN:
    """Their evaluation."""
    data, stepwise = files
    judge = AnswerJudge()
    questions, left_out = questions_from_scored(read_scored(data, stepwise), judge)
    return evaluate_best_of_n(questions, left_out, judge, bootstrap=50)


def test_accuracy_by_hand(bench: BestOfN) -> None:
    """Every way of choosing among all four: right on question 0, 1, 2?"""
    assert (bench.sizes, bench.questions) == ((1, 2, 4), 3)
    at_four = {line.name: line.accuracy[-1] for line in bench.lines}
    assert at_four == pytest.approx(
        {
            "pass@1": (1 / 4 + 3 / 4 + 0) / 3,
            "majority vote": (0 + 1 + 0) / 3,
            "PRM-weighted vote": (0.5 + 1 + 0) / 3,  # 0.9 for 4 against 0.5 + 0.4 for 5: shared; 1.0 for 7
            "outcome": (0 + 1 + 0) / 3,
            "mean": (1 + 0 + 0) / 3,
            "min": (1 + 0 + 0) / 3,
            "last": (1 + 0 + 0) / 3,
            "product": (1 + 0 + 0) / 3,
            "max": (1 + 1 + 0) / 3,
            "pass@N": (1 + 1 + 0) / 3,
        }
    )
    at_one = {line.accuracy[0] for line in bench.lines}
    assert all(value == pytest.approx(1 / 3) for value in at_one), "one response leaves no choice"
    # Pairs of question 0 hold the right response, which is ranked first, in 3 of 6. Question 1 by mean is 8 7 7 7: the
    # right ones are best in the 3 pairs without 8.
    assert bench.line("mean").accuracy[1] == pytest.approx((3 / 6 + 3 / 6 + 0) / 3)


def test_left_out(bench: BestOfN) -> None:
    """Each with its reason, and not counted as wrong."""
    assert {item.id: item.reason for item in bench.left_out} == {
        "no answer": "the row has neither answer nor correct",
        "not scored": "no image",
        "short": "has fewer than 4 responses",
    }
    document = json.loads(json.dumps(bench.to_json(), allow_nan=False))
    assert document["accuracy"]["max"][-1] == pytest.approx(2 / 3)
    assert document["answers_agree_with_labels"] is None


def test_nothing_to_evaluate() -> None:
    """An error that says what rows need."""
    with pytest.raises(InputError, match="an answer or correct"):
        evaluate_best_of_n([], [], AnswerJudge())


@pytest.mark.parametrize("labels", [["true", "false"], ["yes", "no"], [1, -1], [0.3, 1.0], [None, None]])
def test_labels_that_are_not_true_or_false_leave_the_row_out(labels: list[object], tmp_path: Path) -> None:
    """Every text is "true" to Python: such labels would make every choice right."""
    rows, scores = tmp_path / "rows.jsonl", tmp_path / "scores.jsonl"
    for path, document in (
        (rows, {"id": 0, "question": "Q", "responses": ["a", "b"], "correct": labels}),
        (scores, {**_document(0, [[0.5], [0.4]]), "row": 0}),
    ):
        path.write_text(json.dumps(document) + "\n")
    questions, left_out = questions_from_scored(read_scored(DataFile(rows), scores), AnswerJudge())
    assert not questions
    assert "true or false" in left_out[0].reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("", "neither answer"), (" \n", "neither answer"), (True, "answer is a bool"), (["5"], "answer is a list")],
)
def test_answers_that_no_response_can_have_leave_the_row_out(answer: object, reason: str, tmp_path: Path) -> None:
    """They would make every response wrong."""
    rows, scores = tmp_path / "rows.jsonl", tmp_path / "scores.jsonl"
    rows.write_text(json.dumps({"id": 0, "question": "Q", "responses": ["a", "b"], "answer": answer}) + "\n")
    scores.write_text(json.dumps({**_document(0, [[0.5], [0.4]]), "row": 0, "answer": answer}) + "\n")
    questions, left_out = questions_from_scored(read_scored(DataFile(rows), scores), AnswerJudge())
    assert not questions
    assert reason in left_out[0].reason


def test_one_and_zero_are_labels_too(tmp_path: Path) -> None:
    rows, scores = tmp_path / "rows.jsonl", tmp_path / "scores.jsonl"
    rows.write_text(json.dumps({"id": 0, "question": "Q", "responses": ["a", "b"], "correct": [1, 0]}) + "\n")
    scores.write_text(json.dumps({**_document(0, [[0.5], [0.4]]), "row": 0}) + "\n")
    (question,), _ = questions_from_scored(read_scored(DataFile(rows), scores), AnswerJudge())
    assert question.correct == (True, False)

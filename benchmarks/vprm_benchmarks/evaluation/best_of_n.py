"""Best of N: how often the response that a PRM scores highest is right, against what needs no PRM.

All figures for N < the number of responses M are expectations over all subsets of N responses: exact for choice by
score and pass@N (by counting), for votes over all subsets if they are few, else over drawn ones. pass@1 is the
share of right responses, which is also what choosing at random gives at every N. Rows with more than M responses, M the
most frequent number, count with subsets of theirs; rows with fewer are left out.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import comb
from random import Random
from typing import Any

import numpy as np

from vprm_benchmarks.evaluation.answers import AnswerJudge, final_answer, labelled_answer
from vprm_benchmarks.evaluation.metrics import Interval, bootstrap_mean
from vprm_benchmarks.evaluation.published import PUBLISHED_BEST_OF_N
from vprm_benchmarks.evaluation.scored import LeftOut, ScoredRow, ScoredRows, first_reason
from vprm_runtime import Aggregate, InputError
from vprm_runtime.execution.aggregate import AGGREGATES, aggregate_scores

_LOG = logging.getLogger("vprm")
MAX_SUBSETS = 256  # votes: more subsets than that are drawn instead of listed
OUTCOME = "outcome"  # the whole response scored as one step
PASS_AT_1, PASS_AT_N, MAJORITY, WEIGHTED_VOTE = "pass@1", "pass@N", "majority vote", "PRM-weighted vote"


@dataclass(frozen=True)
class Question:
    """A row that can be evaluated. Lists have an entry a response; a response without a score is never chosen."""

    row: ScoredRow
    correct: tuple[bool, ...]
    answers: tuple[int | None, ...]  # numbers of equal answers
    answer_texts: tuple[str | None, ...]
    scores: dict[str, tuple[float | None, ...]]  # by way of choosing: the aggregates, and "outcome"
    untold: int = 0  # responses whose answer, or whether it is the right one, cannot be told: they count as wrong

    def chosen(self, way: str) -> int:
        """Index of the response with the highest score (the first of equals)."""
        return _ranking(self.scores[way])[0]


@dataclass(frozen=True)
class Line:
    """Accuracy of one way of choosing, by N (in the order of `BestOfN.sizes`), with an interval at the largest N."""

    name: str
    accuracy: tuple[float, ...]
    interval: Interval


@dataclass(frozen=True)
class BestOfN:
    """The whole evaluation."""

    aggregate: Aggregate
    sizes: tuple[int, ...]
    questions: int
    responses: int
    left_out: tuple[LeftOut, ...]
    lines: tuple[Line, ...]
    sources: dict[str, dict[str, float]]  # accuracy by source and way, at the largest N
    answers_agree_with_labels: float | None
    answers_not_told: int

    def line(self, name: str) -> Line:
        """The line of one way of choosing."""
        return next(line for line in self.lines if line.name == name)

    def to_json(self) -> dict[str, Any]:
        """The evaluation as JSON values."""
        return {
            "aggregate": self.aggregate,
            "questions": self.questions,
            "responses": self.responses,
            "left_out": {"count": len(self.left_out), "rows": [asdict(row) for row in self.left_out]},
            "n": list(self.sizes),
            "accuracy": {line.name: list(line.accuracy) for line in self.lines},
            "interval_95_at_largest_n": {line.name: asdict(line.interval) for line in self.lines},
            "sources": self.sources,
            "answers_agree_with_labels": self.answers_agree_with_labels,
            "answers_not_told": self.answers_not_told,
            "published": [asdict(item) for item in PUBLISHED_BEST_OF_N],
        }


def questions_from_scored(scored: ScoredRows, judge: AnswerJudge) -> tuple[list[Question], list[LeftOut]]:
    """Judge every response of rows that were scored by steps and, for the outcome, as a whole.

    A response is right as its row's `correct` says, else if its final answer is the row's `answer`.
    """
    questions: list[Question] = []
    left_out = list(scored.left_out)
    for row in scored.rows:
        texts = tuple(final_answer(response) for response in row.responses)
        correct = _correct(row, texts, judge)
        if isinstance(correct, str):
            left_out.append(LeftOut(row.id, correct))
            continue
        scores: dict[str, tuple[float | None, ...]] = {
            how: tuple(aggregate_scores(c.scores, how) if c.scores else None for c in row.candidates)
            for how in AGGREGATES
        }
        scores[OUTCOME] = row.outcome or (None,) * len(correct)
        if not any(score is not None for score in scores["mean"]):
            left_out.append(LeftOut(row.id, f"no response could be scored: {row.candidates[0].error}"))
            continue
        untold = _untold(row, texts, judge)
        questions.append(Question(row, correct, tuple(judge.classes(list(texts))), texts, scores, untold))
    if untold := sum(question.untold for question in questions):
        _LOG.warning("what %d responses answer, or whether it is right, cannot be told: they count as wrong", untold)
    return questions, left_out


def evaluate_best_of_n(
    questions: Sequence[Question],
    left_out: Sequence[LeftOut],
    judge: AnswerJudge,
    aggregate: Aggregate = "mean",
    bootstrap: int = 1000,
) -> BestOfN:
    """Evaluate judged questions. Raises InputError if there is none."""
    if not questions:
        raise InputError(
            "no row can be evaluated: give rows with responses, and an answer or correct (a true or false a response)"
            + first_reason(left_out)
        )
    largest = Counter(len(question.correct) for question in questions).most_common(1)[0][0]
    short = [question.row for question in questions if len(question.correct) < largest]
    questions = [question for question in questions if len(question.correct) >= largest]
    sizes = (*(2**power for power in range(20) if 2**power < largest), largest)
    ways = [PASS_AT_1, MAJORITY, WEIGHTED_VOTE, OUTCOME, *AGGREGATES, PASS_AT_N]
    values = {  # [N, questions]
        way: np.array([[_accuracy(question, way, size, aggregate) for question in questions] for size in sizes])
        for way in ways
    }
    lines = tuple(
        Line(way, tuple(by_size.mean(axis=1).tolist()), bootstrap_mean(by_size[-1], bootstrap))
        for way, by_size in values.items()
    )
    members: dict[str, list[int]] = defaultdict(list)
    for number, question in enumerate(questions):
        members[question.row.source].append(number)
    return BestOfN(
        aggregate=aggregate,
        sizes=sizes,
        questions=len(questions),
        responses=sum(len(question.correct) for question in questions),
        left_out=(*left_out, *(LeftOut(row.id, f"has fewer than {largest} responses") for row in short)),
        lines=lines,
        sources={
            source: {way: float(by_size[-1][numbers].mean()) for way, by_size in values.items()}
            for source, numbers in sorted(members.items())
        },
        answers_agree_with_labels=_agreement(questions, judge),
        answers_not_told=sum(question.untold for question in questions),
    )


def chosen_among(ranking: Sequence[int], correct: Sequence[bool], size: int) -> float:
    """Chance that the best-ranked of `size` responses, drawn from all M without replacement, is right.

    The response at rank r (from 0) is the best of the draw in C(M-1-r, size-1) of C(M, size) draws. Responses without
    a rank are drawn too but never chosen; a draw of only such ones counts as wrong.
    """
    total = len(correct)
    hits = sum(comb(total - 1 - rank, size - 1) for rank, index in enumerate(ranking) if correct[index])
    return hits / comb(total, size)


def pass_at(correct: Sequence[bool], size: int) -> float:
    """Chance that at least one of `size` responses, drawn without replacement, is right."""
    wrong = len(correct) - sum(correct)
    return 1 - comb(wrong, size) / comb(len(correct), size)


def vote(
    answers: Sequence[int | None], correct: Sequence[bool], size: int, weights: Sequence[float | None] | None = None
) -> float:
    """Accuracy of the answer with most votes (or most weight) among `size` responses; ties are shared evenly."""
    subsets = _subsets(len(answers), size)
    return sum(_vote_once(answers, correct, subset, weights) for subset in subsets) / len(subsets)


def _accuracy(question: Question, way: str, size: int, aggregate: Aggregate) -> float:
    if way == PASS_AT_1:
        return sum(question.correct) / len(question.correct)
    if way == PASS_AT_N:
        return pass_at(question.correct, size)
    if way == MAJORITY:
        return vote(question.answers, question.correct, size)
    if way == WEIGHTED_VOTE:
        return vote(question.answers, question.correct, size, question.scores[aggregate])
    return chosen_among(_ranking(question.scores[way]), question.correct, size)


def _vote_once(
    answers: Sequence[int | None],
    correct: Sequence[bool],
    subset: Sequence[int],
    weights: Sequence[float | None] | None,
) -> float:
    votes: dict[int, float] = defaultdict(float)
    right: dict[int, list[bool]] = defaultdict(list)
    for index in subset:
        answer = answers[index]
        weight = 1.0 if weights is None else weights[index]
        if answer is not None and weight is not None:
            votes[answer] += weight
            right[answer].append(correct[index])
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [answer for answer, weight in votes.items() if weight == most]
    return sum(sum(right[answer]) / len(right[answer]) for answer in winners) / len(winners)


def _subsets(total: int, size: int) -> list[tuple[int, ...]]:
    if comb(total, size) <= MAX_SUBSETS:
        return list(combinations(range(total), size))
    rng = Random(f"{total}/{size}")
    return [tuple(rng.sample(range(total), size)) for _ in range(MAX_SUBSETS)]


def _ranking(scores: Sequence[float | None]) -> list[int]:
    """Indices of the scored responses, best first; equals stay in order."""
    scored = [(score, index) for index, score in enumerate(scores) if score is not None]
    return [index for _, index in sorted(scored, key=lambda pair: -pair[0])]


def _correct(row: ScoredRow, answers: Sequence[str | None], judge: AnswerJudge) -> tuple[bool, ...] | str:
    """Which responses are right, or why that cannot be said."""
    labels, answer = row.labels.get("correct"), row.labels.get("answer")
    if labels is not None:
        if not isinstance(labels, list) or len(labels) != len(row.candidates):
            return f"correct must be a list with one true or false for each of {len(row.candidates)} responses"
        if any(label not in (True, False) or isinstance(label, float) for label in labels):
            return "correct must have true or false (or 1 or 0) for each response"
        return tuple(label == 1 for label in labels)
    if answer is None or (isinstance(answer, str) and not answer.strip()):
        return "the row has neither answer nor correct"
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        return f"answer is a {type(answer).__name__}: give the one right answer as a text or a number, or give correct"
    expected = labelled_answer(str(answer))
    return tuple(text is not None and judge.same(expected, text) for text in answers)


def _untold(row: ScoredRow, answers: Sequence[str | None], judge: AnswerJudge) -> int:
    """How many responses are judged by their answer although that cannot be told."""
    if row.labels.get("correct") is not None:
        return 0
    expected = labelled_answer(str(row.labels["answer"]))
    return sum(text is None or judge.verdict(expected, text) is None for text in answers)


def _agreement(questions: Sequence[Question], judge: AnswerJudge) -> float | None:
    """Share of responses whose compared final answer says what `correct` says; None without rows that have both."""
    agree = [
        (text is not None and judge.same(labelled_answer(str(question.row.labels["answer"])), text)) == right
        for question in questions
        if str(question.row.labels.get("answer", "")).strip() and question.row.labels.get("correct") is not None
        for text, right in zip(question.answer_texts, question.correct, strict=True)
    ]
    return sum(agree) / len(agree) if agree else None

"""How a PRM turns logits into a step score: turn layout, where to read, which tokens, what they are worth."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CandidateToken:
    """One token that the score is a softmax over: its text, id in the vocabulary, and worth (1 = right, 0 = wrong)."""

    text: str
    id: int
    weight: float


@dataclass(frozen=True)
class ScoreRule:
    """VisualPRM's way of asking (OpenGVLab/InternVL @2410d1d, InternVLRewardModel).

    Every step is a user turn of its own; the first carries the question as well. Every assistant turn holds
    `reply`, whatever the scores are. The score of a step is read at the last token of its assistant header, before
    the reply: sum of weight * softmax over the candidate tokens' logits.
    """

    name: str
    first_turn: str  # has {question} and ends with {step}
    step_joiner: str  # splits a response into steps, and joins them again under max_steps
    reply: str
    candidates: tuple[CandidateToken, ...]

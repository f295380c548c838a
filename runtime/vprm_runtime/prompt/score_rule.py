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
    """How to ask, and where to read the answer: sum of weight * softmax over the candidate tokens' logits.

    Without a marker, VisualPRM's way (OpenGVLab/InternVL @2410d1d, InternVLRewardModel): every step is a user turn of
    its own; the first carries the question as well. Every assistant turn holds `reply`, whatever the scores are. A
    step's score is read at the last token of its assistant header, before the reply.

    With a marker, MM-PRM's way (ModalMinds/MM-PRM @3b52c1e, InternVLChatModel.prm): an empty user turn, then one
    assistant turn with the question and all steps, joined by `step_joiner`, each closed by the marker token. A step's
    score is read at its marker.
    """

    name: str
    first_turn: str  # has {question}, may have {images} (else they go in front of the question), ends with {step}
    step_joiner: str  # splits a response into steps, and joins them again under max_steps
    reply: str
    candidates: tuple[CandidateToken, ...]
    marker: str | None = None
    marker_id: int | None = None

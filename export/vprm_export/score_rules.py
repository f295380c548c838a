"""Score rules by model kind, with their tokens looked up in a checkpoint's tokenizer."""

from vprm_export.tokenizer_files import BundleTokenizer
from vprm_runtime.score_rule import CandidateToken, ScoreRule


def visualprm_rule(tokenizer: BundleTokenizer) -> ScoreRule:
    """VisualPRM: '+' against '-', read before the '+' that every assistant turn holds.

    Source: InternVLRewardModel, published with VisualPRM-8B (generate_steps_with_soft_score).
    """
    return ScoreRule(
        name="visualprm",
        first_turn="### Question:\n{question}\n\n### Solution Process:\n{step}",
        step_joiner="\n\n",
        reply="+",
        candidates=(
            CandidateToken("+", tokenizer.single_token("+"), 1.0),
            CandidateToken("-", tokenizer.single_token("-"), 0.0),
        ),
    )

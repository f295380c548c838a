"""The PyTorch reference: transformers' native InternVL on the same checkpoint directory, written as the model card
does it.

It shares no code with the runtime or the exporter, on purpose: tiles by Pillow and torch, the prompt as one string
that is tokenised whole, score positions found by matching, so that a comparison with the bundle can fail. No remote
code is run.

    images.py      image files -> tiles -> pixel values
    rule.py        how the model is asked, and where its answer is read
    prompt.py      question and steps -> one string; token ids -> score positions
    tokenizer.py   string -> token ids, from the checkpoint's own tokenizer files
    weights.py     checkpoint names -> transformers names
    hf.py          the same for transformers' own layout
    model.py       config.json -> ``InternVLForConditionalGeneration``
    scorer.py      the three ways to score: per step, in one pass, with prefix reuse
"""

from vprm_benchmarks.reference.images import load_tiles, pixel_values_from_tiles, tile_grid
from vprm_benchmarks.reference.prompt import conversation_text, split_steps
from vprm_benchmarks.reference.rule import MM_PRM, VISUALPRM, ReferenceRule, load_rule
from vprm_benchmarks.reference.scorer import Method, ReferenceScorer, ReferenceScores

__all__ = [
    "MM_PRM",
    "VISUALPRM",
    "Method",
    "ReferenceRule",
    "ReferenceScorer",
    "ReferenceScores",
    "conversation_text",
    "load_rule",
    "load_tiles",
    "pixel_values_from_tiles",
    "split_steps",
    "tile_grid",
]

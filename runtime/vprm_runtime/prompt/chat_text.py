"""Texts out of other models' chat templates: a prompt in one is no question, a response may end in its mark."""

from vprm_runtime.errors import InputError

_END_MARKERS = (
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "<|return|>",
    "<end_of_turn>", "<eos>", "<|end_of_sentence|>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "</s>",
)  # fmt: skip
_CHAT_MARKERS = (
    "<|im_start|>", "<|im_user|>", "<|start_header_id|>", "<|start|>", "<|user|>", "<|User|>", "<\uff5cUser\uff5c>",
    "<start_of_turn>", "[INST]", "<|turn>", "<|begin_of_text|>", "<|START_OF_TURN_TOKEN|>",
)  # fmt: skip


def without_end_marker(response: str) -> str:
    """A response without the marks that end a turn, and the space around it."""
    response = response.strip()
    while (marker := next((m for m in _END_MARKERS if response.endswith(m)), None)) is not None:
        response = response.removesuffix(marker).rstrip()
    return response


def is_in_template(prompt: str) -> bool:
    """Whether a prompt is wrapped in a chat template: scored as a question it would give plausible numbers."""
    return any(marker in prompt for marker in _CHAT_MARKERS)


def question_of_prompt(prompt: str, place: str) -> str:
    """A prompt that is the question itself. Raises InputError if it is in a chat template; `place` takes it then."""
    if is_in_template(prompt):
        raise InputError(
            f"the prompt is wrapped in a chat template: give the question itself in {place}, "
            'such as {"question": "...", "image": "..."}'
        )
    return prompt.strip()

"""Names of the Linears of an LLM's graph that can be quantised; several with one input are one."""

from typing import Literal, get_args

from vprm_export.architecture import LlmArchitecture

Role = Literal["qkv", "o", "gate_up", "down"]
ROLES: tuple[Role, ...] = get_args(Role)


def linear_name(layer: int, role: Role) -> str:
    """The name of a Linear: layers.{layer}.{role}."""
    return f"layers.{layer}.{role}"


def linear_names(layers: int) -> list[str]:
    """Names of all Linears of an LLM, in the order in which they run."""
    return [linear_name(layer, role) for layer in range(layers) for role in ROLES]


def linear_inputs(llm: LlmArchitecture) -> dict[str, int]:
    """Input channels of every Linear of an LLM."""
    attended = llm.heads * llm.head_dim
    widths: dict[Role, int] = {"qkv": llm.hidden_size, "o": attended, "gate_up": llm.hidden_size, "down": llm.mlp_size}
    return {linear_name(layer, role): widths[role] for layer in range(llm.layers) for role in ROLES}


def parse_linear_name(linear: str) -> tuple[int, Role]:
    """Layer and role of a Linear's name."""
    _, layer, name = linear.split(".")
    return int(layer), next(role for role in ROLES if role == name)

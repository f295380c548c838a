"""Sites: the places of an LLM's graph where a Linear, or several with one input, can be quantised."""

from typing import Literal, get_args

from vprm_export.architecture import LlmArchitecture

Role = Literal["qkv", "o", "gate_up", "down"]
ROLES: tuple[Role, ...] = get_args(Role)


def site_name(layer: int, role: Role) -> str:
    """The name of a site: layers.{layer}.{role}."""
    return f"layers.{layer}.{role}"


def site_names(layers: int) -> list[str]:
    """All sites of an LLM, in the order in which they run."""
    return [site_name(layer, role) for layer in range(layers) for role in ROLES]


def site_inputs(llm: LlmArchitecture) -> dict[str, int]:
    """Input channels of every site of an LLM."""
    attended = llm.heads * llm.head_dim
    widths: dict[Role, int] = {"qkv": llm.hidden_size, "o": attended, "gate_up": llm.hidden_size, "down": llm.mlp_size}
    return {site_name(layer, role): widths[role] for layer in range(llm.layers) for role in ROLES}


def parse_site(site: str) -> tuple[int, Role]:
    """Layer and role of a site's name."""
    _, layer, name = site.split(".")
    return int(layer), next(role for role in ROLES if role == name)

"""Chat templates' default system messages (OpenGVLab/InternVL @2410d1d, internvl_chat/internvl/conversation.py)."""

from collections.abc import Mapping
from types import MappingProxyType

DEFAULT_SYSTEM_MESSAGES: Mapping[str, str] = MappingProxyType(
    {
        "internvl2_5": (
            "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
        )
    }
)

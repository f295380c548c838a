"""The shipped checkpoint: the hub's layout, names and shapes that follow from config.json, a tokenizer of InternLM2's
kind."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import vprm_demo

FOLDER = vprm_demo.checkpoint_dir()
MIB = 1 << 20


def document(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return loaded


def headers() -> dict[str, dict[str, Any]]:
    """Tensor entries of all shards by name, read from the files' headers; with the shard's name as `file`."""
    result = {}
    for path in sorted(FOLDER.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        result |= {name: {**entry, "file": path.name} for name, entry in entries.items()}
    return result


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """InternVL's names with an InternLM2 language model, from config.json alone."""
    config = document("config.json")
    llm, vision = config["llm_config"], config["vision_config"]
    width, ffn, vocabulary = llm["hidden_size"], llm["intermediate_size"], llm["vocab_size"]
    head = width // llm["num_attention_heads"]
    rows = (llm["num_attention_heads"] + 2 * llm["num_key_value_heads"]) * head
    v, v_ffn, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    positions = (vision["image_size"] // patch) ** 2 + 1
    shapes: dict[str, tuple[int, ...]] = {
        "vision_model.embeddings.class_embedding": (1, 1, v),
        "vision_model.embeddings.patch_embedding.weight": (v, 3, patch, patch),
        "vision_model.embeddings.patch_embedding.bias": (v,),
        "vision_model.embeddings.position_embedding": (1, positions, v),
        "mlp1.0.weight": (4 * v,),
        "mlp1.0.bias": (4 * v,),
        "mlp1.1.weight": (width, 4 * v),
        "mlp1.1.bias": (width,),
        "mlp1.3.weight": (width, width),
        "mlp1.3.bias": (width,),
        "language_model.model.tok_embeddings.weight": (vocabulary, width),
        "language_model.model.norm.weight": (width,),
        "language_model.output.weight": (vocabulary, width),
    }
    for index in range(vision["num_hidden_layers"]):
        layer = f"vision_model.encoder.layers.{index}."
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1", "ls2"):
            shapes[layer + name] = (v,)
        linears = {"attn.qkv": (3 * v, v), "attn.proj": (v, v), "mlp.fc1": (v_ffn, v), "mlp.fc2": (v, v_ffn)}
        for name, shape in linears.items():
            shapes[f"{layer}{name}.weight"], shapes[f"{layer}{name}.bias"] = shape, shape[:1]
    for index in range(llm["num_hidden_layers"]):
        layer = f"language_model.model.layers.{index}."
        shapes |= {
            layer + "attention.wqkv.weight": (rows, width),
            layer + "attention.wo.weight": (width, width),
            layer + "feed_forward.w1.weight": (ffn, width),
            layer + "feed_forward.w3.weight": (ffn, width),
            layer + "feed_forward.w2.weight": (width, ffn),
            layer + "attention_norm.weight": (width,),
            layer + "ffn_norm.weight": (width,),
        }
    return shapes


def test_names_and_shapes_follow_from_the_configuration() -> None:
    assert {name: tuple(entry["shape"]) for name, entry in headers().items()} == expected_shapes()


def test_the_index_names_every_tensor_s_shard() -> None:
    index, entries = document("model.safetensors.index.json"), headers()
    assert index["weight_map"] == {name: entry["file"] for name, entry in entries.items()}
    assert len(set(index["weight_map"].values())) >= 2
    total = sum(2 * math.prod(entry["shape"]) for entry in entries.values())
    assert index["metadata"]["total_size"] == total
    assert {entry["dtype"] for entry in entries.values()} == {"F16"}


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 16 * MIB


def test_the_configuration_is_the_hub_s() -> None:
    config = document("config.json")
    assert config["architectures"] == ["InternVLRewardModel"]
    assert config["llm_config"]["architectures"] == ["InternLM2ForCausalLM"]
    assert config["llm_config"]["num_attention_heads"] > config["llm_config"]["num_key_value_heads"]
    assert (config["force_image_size"], config["template"], config["ps_version"]) == (224, "internvl2_5", "v2")


def test_the_tokenizer_is_of_internlm2_s_kind() -> None:
    sentencepiece = pytest.importorskip("sentencepiece", reason="needs the sentencepiece package")
    model = sentencepiece.SentencePieceProcessor(str(FOLDER / "tokenizer.model"))
    assert (model.unk_id(), model.bos_id(), model.eos_id()) == (0, 1, 2)
    assert [len(model.encode(text)) for text in ("+", "-", "\n", "°")] == [1, 1, 1, 1]
    assert model.decode(model.encode("Find m \\angle 3.")) == "Find m \\angle 3."
    assert [model.id_to_piece(i) for i in model.encode("123")] == ["1", "2", "3"], "digits stand alone"
    assert model.encode("\u4f60") == [3 + byte for byte in "\u4f60".encode()], "unknown characters become bytes"
    size = model.get_piece_size()
    decoder = document("tokenizer_config.json")["added_tokens_decoder"]
    assert decoder[str(size - 1)]["content"] == "<|im_start|>"
    assert decoder[str(size - 2)]["content"] == "<|im_end|>"
    assert model.id_to_piece(size - 1).startswith("[UNUSED_TOKEN_")
    added = document("added_tokens.json")
    assert [added[name] for name in ("<img>", "</img>", "<IMG_CONTEXT>")] == [size, size + 1, size + 2]
    assert document("config.json")["llm_config"]["vocab_size"] == size + len(added)


def test_the_example_is_complete() -> None:
    example = vprm_demo.example()
    assert example.question == "Find m \\angle 3."
    assert example.answer in example.responses[0].split("\n\n")[-1]
    assert "42" in example.responses[1].split("\n\n")[-1]
    with Image.open(example.image) as image:
        image.load()


def test_the_package_is_lean(tmp_path: Path) -> None:
    """The API works where torch and sentencepiece cannot be imported."""
    import subprocess
    import sys

    code = (
        "import sys\n"
        "for name in ('torch', 'sentencepiece', 'safetensors', 'matplotlib'): sys.modules[name] = None\n"
        "import vprm_demo, pathlib\n"
        "print(vprm_demo.held_out_rows(2, cache_dir=pathlib.Path(sys.argv[1])))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

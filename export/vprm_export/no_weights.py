"""Folders whose weights cannot be read as they are: what is there, and the command that mends it."""

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from vprm_runtime.errors import CheckpointError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
_ADAPTER_TENSOR = re.compile(r"\blora_|\.base_layer\.|(?:^|\.)base_model\.model\.")
_ADAPTER_FILES = (
    "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "pytorch_lora_weights.safetensors",
)  # fmt: skip
_PART = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_NO_WEIGHTS = re.compile(r"(?:training_args|optimizer|scheduler|rng_state|scaler|global_step)")


def why_no_weights(directory: Path, safetensors: Sequence[str]) -> str:
    """The message for a folder without a readable set of weights."""
    download = f"hf download REPOSITORY --local-dir {directory}"
    if any(_PART.fullmatch(name) for name in safetensors):
        return _parts_without_index(directory, safetensors)
    if len(safetensors) == 1:
        old, new = (shlex.quote(str(directory / name)) for name in (safetensors[0], SINGLE_NAME))
        return (
            f"{directory} has neither {INDEX_NAME} nor {SINGLE_NAME}, but {safetensors[0]}: if that is the whole "
            f"model, rename it:  mv {old} {new}"
        )
    if safetensors:
        return (
            f"{directory} has {len(safetensors)} safetensors files ({safetensors[0]} ...) but neither {INDEX_NAME} nor "
            f"{SINGLE_NAME}: download the index too, with  {download}"
        )
    if pickled := pickled_weights(directory):
        return _pickled(directory, pickled)
    if gguf := sorted(file.name for file in directory.glob("*.gguf")):
        return (
            f"{directory} has {gguf[0]}, which is llama.cpp's format and not read here: export the checkpoint that it "
            f"was made from (safetensors), and quantise with --precision:  {download}"
        )
    return f"{directory} has neither {INDEX_NAME} nor {SINGLE_NAME}: download the weights too, with  {download}"


def pickled_weights(directory: Path) -> list[str]:
    """Names of the files with pickled weights in a folder."""
    names = sorted(file.name for file in directory.iterdir())
    return [name for name in names if name.endswith(_PICKLED) and not _NO_WEIGHTS.match(name)]


def _parts_without_index(directory: Path, names: Sequence[str]) -> str:
    """Parts NAME-i-of-n: which are missing, else the command that writes the index."""
    parts = [match for name in names if (match := _PART.fullmatch(name))]
    first = parts[0]
    there = {int(part[2]) for part in parts if part[1] == first[1] and part[3] == first[3]}
    missing = [number for number in range(1, int(first[3]) + 1) if number not in there]
    if missing:
        width = len(first[2])
        name = f"{first[1]}-{missing[0]:0{width}}-of-{first[3]}{first[4]}"
        return (
            f"{directory} lacks {len(missing)} of {int(first[3])} shards ({name} ...) and {INDEX_NAME}: download them "
            f"and the index too, with  hf download REPOSITORY --local-dir {directory}"
        )
    return (
        f"{directory} has {len(parts)} shards but no {INDEX_NAME}, which says which tensor is where: download it, or "
        f"write it:  cd {shlex.quote(str(directory))} && python -c "
        "\"import glob, json, safetensors as s; json.dump({'weight_map': "
        "{k: f for f in sorted(glob.glob('*-of-*.safetensors')) for k in s.safe_open(f, 'np').keys()}}, "
        f"open('{INDEX_NAME}', 'w'))\""
    )


def _pickled(directory: Path, names: Sequence[str]) -> str:
    """Weights that were pickled: the command that makes safetensors of all files like the first."""
    like = f"*-of-{part[3]}{part[4]}" if (part := _PART.fullmatch(names[0])) else names[0]
    target = "f.rsplit('.', 1)[0].replace('pytorch_model', 'model')" if part else "'model'"
    return (
        f"{directory} has neither {INDEX_NAME} nor {SINGLE_NAME}, only pickled weights ({names[0]} ...), which can run "
        "code when they are opened: convert them in a process of their own, with  "
        f'cd {shlex.quote(str(directory))} && python -c "import glob, torch, safetensors.torch as s; [s.save_file({{k: '
        f"v.contiguous().clone() for k, v in torch.load(f, weights_only=True, map_location='cpu').items()}}, "
        f"{target} + '.safetensors') for f in glob.glob('{like}')]\""
    )


def check_no_adapter(directory: Path) -> None:
    """Raise CheckpointError for a folder that holds an adapter, which is nothing without its base model."""
    found = [name for name in _ADAPTER_FILES if (directory / name).is_file()]
    if found:
        raise CheckpointError(
            f"{directory} holds an adapter ({found[0]}): merge it into its base model and save that, with peft:  "
            "PeftModel.from_pretrained(base, ADAPTER).merge_and_unload().save_pretrained(FOLDER)"
        )


def check_no_adapter_tensors(names: Iterable[str], directory: Path) -> None:
    """Raise CheckpointError if the weights hold a LoRA adapter beside the matrices that it changes."""
    found = next((name for name in names if _ADAPTER_TENSOR.search(name)), None)
    if found is not None:
        raise CheckpointError(
            f"{directory} holds a LoRA adapter that was not merged (tensor {found!r}): merge it, as InternVL's "
            "internvl_chat/tools/merge_lora.py does:  model.language_model = "
            "model.language_model.merge_and_unload(), the same for vision_model, then model.save_pretrained(FOLDER)"
        )

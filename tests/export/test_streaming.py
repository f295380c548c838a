"""Weights on their way to external data: blocks, transposition, conversion, hashing beside writing; always the same
bytes as the plain way."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from vprm_benchmarks.random_checkpoint import tiny_spec, write_random_checkpoint
from vprm_export import checkpoint as checkpoint_module
from vprm_export import external_data
from vprm_export.checkpoint import Checkpoint
from vprm_export.external_data import ExternalData
from vprm_export.precision.quantizers import quantized_blocks, quantized_weight
from vprm_export.weights import TensorReader, Weight, converted, scaled, stacked, transpose_into
from vprm_runtime import BundleError, CheckpointError, UnsupportedError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FP32 = np.dtype(np.float32)


def random(shape: tuple[int, ...], dtype: np.dtype = FP32, seed: int = 0) -> NDArray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32).astype(dtype)


def in_blocks(values: NDArray, rows: int) -> Weight:
    def blocks() -> Iterator[NDArray]:
        yield from (values[start : start + rows] for start in range(0, len(values), rows))

    return Weight("w", values.shape, lambda: values, blocks)


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (128, 128), (300, 137), (129, 4097), (8, 9000)])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.int8, ml_dtypes.float8_e4m3fn])
def test_transposition(shape: tuple[int, int], dtype: type) -> None:
    values = (random(shape) * 20).astype(dtype)
    target = np.zeros((shape[1], shape[0] + 2), dtype)
    transpose_into(target[:, 1:-1], values)
    np.testing.assert_array_equal(target[:, 1:-1].view(f"u{values.itemsize}"), values.view(f"u{values.itemsize}").T)
    assert not target[:, [0, -1]].astype(np.float32).any()


@pytest.mark.parametrize("rows", [1, 3, 50, 64])
def test_blocks_make_the_whole(rows: int) -> None:
    values, more = random((50, 21)), random((30, 21), seed=1)
    weight = stacked([in_blocks(values, rows), in_blocks(more, 7)], "both")
    both = np.concatenate([values, more])
    np.testing.assert_array_equal(np.concatenate(list(weight.blocks())), both)
    np.testing.assert_array_equal(weight.transposed().load(), both.T)
    factors, columns = random((80,), seed=2), random((21,), seed=3)
    product = scaled(weight, lambda: factors, lambda: columns)
    np.testing.assert_array_equal(product.load(), both * factors[:, None] * columns)
    np.testing.assert_array_equal(np.concatenate(list(product.blocks())), product.load())


def test_stacked_weights_of_different_types_lose_nothing() -> None:
    first, second = random((20, 9), BFLOAT16), random((20, 9), FP32, seed=1)
    for parts in ([first, second], [second, first]):
        weight = stacked([in_blocks(part, 6) for part in parts], "both").transposed()
        expected = np.concatenate([part.astype(np.float32) for part in parts]).T
        np.testing.assert_array_equal(weight.load(), expected)


def test_every_bfloat16_becomes_the_float16_that_float32_gives() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(BFLOAT16)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = every.astype(np.float32).astype(np.float16)
    fits = np.isfinite(expected)
    np.testing.assert_array_equal(
        converted(every[fits], np.dtype(np.float16), "w").view(np.uint16), expected[fits].view(np.uint16)
    )
    for value in every[~fits]:
        with pytest.raises(UnsupportedError, match="tensor 'w' has values that float16 cannot hold"):
            converted(np.array([1, value], BFLOAT16), np.dtype(np.float16), "w")


@pytest.mark.parametrize("kind", ["int8_channel", "int8_group", "int4_group", "fp8_tensor"])
def test_quantized_blocks_are_the_quantized_weight(kind: str) -> None:
    weight = random((300, 64), BFLOAT16)
    parts = list(quantized_blocks(in_blocks(weight, 70).blocks, 64, kind, FP32))  # type: ignore[arg-type]
    whole = quantized_weight(weight, kind, FP32)  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.concatenate([part.codes for part in parts]), whole.codes)
    scales = [part.scales for part in parts]
    np.testing.assert_array_equal(scales[0] if kind == "fp8_tensor" else np.concatenate(scales), whole.scales)


def test_a_checkpoint_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "_BLOCK_BYTES", 1000)
    checkpoint = Checkpoint.open(write_random_checkpoint(tmp_path / "checkpoint", tiny_spec()))
    for name in checkpoint.tensors:
        whole, blocks = checkpoint.read(name), list(checkpoint.read_blocks(name))
        np.testing.assert_array_equal(np.concatenate(blocks), whole)
        assert all(block.nbytes <= 1000 or len(block) == 1 for block in blocks)


def test_a_heads_few_rows_are_checked_and_read_in_little_memory(tmp_path: Path) -> None:
    """The head of an 8 B model has 0.8 GB, of which two rows are exported: checking it takes no multiple of that."""
    content = np.zeros((1 << 14, 1 << 10), BFLOAT16)
    (tmp_path / "config.json").write_text("{}")
    save_file({"head": content}, tmp_path / "model.safetensors")
    weight = TensorReader(Checkpoint.open(tmp_path)).weight("head", content.shape).rows(np.array([5, 7]))
    tracemalloc.start()
    assert weight.load().shape == (2, 1 << 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < content.nbytes / 2
    content[-1, -1] = np.inf
    save_file({"head": content}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        TensorReader(Checkpoint.open(tmp_path)).weight("head", content.shape).rows(np.array([5, 7])).load()


def test_the_file_is_what_was_laid_out_and_so_is_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_data, "_PIECE_BYTES", 999)
    large, codes, small = random((200, 30), BFLOAT16), np.arange(120, dtype=np.uint8), np.array(3.0, np.float32)
    data = ExternalData("weights")
    values = [
        data.add(in_blocks(large, 33).transposed(), FP32),
        data.add_stored(Weight("codes", (24, 10), lambda: codes), ir.DataType.INT4),
        data.add(Weight("small", (), lambda: small), np.dtype(np.float16)),
    ]
    progress: list[int] = []
    info = data.write(tmp_path, progress.append)
    content = (tmp_path / "weights").read_bytes()
    assert (info.size_bytes, info.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    expected = [large.T.astype(np.float32).tobytes(), codes.tobytes(), small.astype(np.float16).tobytes()]
    end = 0
    for value, wanted in zip(values, expected, strict=True):
        tensor = value.const_value
        assert content[end : tensor.offset] == bytes(tensor.offset - end)
        end = tensor.offset + tensor.length
        assert content[tensor.offset : end] == wanted
    assert sum(progress) == sum(map(len, expected))
    assert len(progress) > len(values)


@pytest.mark.parametrize("rows", [99, 101])
def test_a_tensor_of_another_size_than_laid_out_is_refused(rows: int, tmp_path: Path) -> None:
    data = ExternalData("weights")
    data.add(Weight("w", (100, 30), lambda: random((rows, 30))), FP32)
    with pytest.raises(BundleError, match="tensor 'w' has more or fewer bytes than the 12000 that were laid out"):
        data.write(tmp_path, lambda size: None)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_an_error_of_the_writing_call(tmp_path: Path) -> None:
    (tmp_path / "weights").symlink_to("/dev/full")
    data = ExternalData("weights")
    data.add(Weight("w", (1000, 3000), lambda: random((1000, 3000))), FP32)
    with pytest.raises(OSError, match="No space left"):
        data.write(tmp_path, lambda size: None)

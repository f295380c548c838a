"""Images from strangers: few formats, regular files only, sizes before pixels, every failure an InputError."""

from __future__ import annotations

import io
import os
import random
import socket
import stat
import sys
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.WebPImagePlugin import WebPImageFile

from vprm_runtime import InputError, StepScorer
from vprm_runtime.execution import prepare
from vprm_runtime.images import load
from vprm_runtime.images.load import FORMATS, MAX_IMAGE_PIXELS, NamedImage, image_size, load_image, read_image_file

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\n0 0 moveto 50 50 lineto stroke\n%%EOF\n"
SAVED = [name for name in FORMATS if name != "AVIF"] + ["AVIF"] * ("AVIF" in Image.registered_extensions().values())


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


@pytest.fixture
def fake_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH on which every program that an image library knows writes to the returned file."""
    log = tmp_path / "started"
    for name in ("gs", "gswin32c", "gswin64c", "djpeg", "dwebp", "inkscape", "convert", "magick", "xdg-open"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\necho {name} >> {log}\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return log


@pytest.mark.parametrize("name", ["a.png", "a.eps", "a.jpg", "a"])
def test_no_program_is_started_whatever_the_file_is_called(name: str, fake_programs: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    for content in (EPS, b"\xc5\xd0\xd3\xc6" + bytes(28) + EPS, b"%PDF-1.4\n", b"\xd7\xcd\xc6\x9a" + bytes(60)):
        path.write_bytes(content)
        for given in (path, str(path), content, NamedImage("it", content)):
            with pytest.raises(InputError, match=r"is none of PNG, JPEG, .* convert it to PNG or JPEG"):
                load_image(given)
            with pytest.raises(InputError):
                image_size(given)
        with pytest.raises(InputError):
            read_image_file(path)
    assert not fake_programs.exists()


def test_an_opened_eps_is_not_rendered(fake_programs: Path) -> None:
    with Image.open(io.BytesIO(EPS)) as opened, pytest.raises(InputError, match=r"opened from EPS .* load\(\) first"):
        load_image(opened)
    assert not fake_programs.exists()


@pytest.mark.parametrize("file_format", SAVED)
def test_formats_are_told_apart_by_content(
    file_format: str, make_image: Callable[..., Image.Image], tmp_path: Path
) -> None:
    """Each gives the pixels that Pillow gives, under any name."""
    content = encoded(make_image(), file_format)
    path = tmp_path / "chart.eps"
    path.write_bytes(content)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    for given in (path, content, read_image_file(path)):
        np.testing.assert_array_equal(np.asarray(load_image(given)), expected)
        assert image_size(given) == (90, 60)


@pytest.mark.parametrize("file_format", ["TGA", "PCX", "SGI", "ICO", "JPEG2000", "DDS", "QOI", "SPIDER", "XBM", "ICNS"])
def test_other_formats_are_refused_by_name(file_format: str, tmp_path: Path) -> None:
    image = Image.new("1" if file_format == "XBM" else "F" if file_format == "SPIDER" else "RGB", (64, 64))
    path = tmp_path / "other.png"
    path.write_bytes(encoded(image, file_format))
    with pytest.raises(InputError, match=r"other\.png is none of PNG, JPEG, .* convert it to PNG or JPEG"):
        load_image(path)


@pytest.mark.parametrize("file_format", SAVED)
def test_damaged_files_are_input_errors(file_format: str, make_image: Callable[..., Image.Image]) -> None:
    """Cut, flipped, zeroed and repeated bytes: the right pixels of something, or an InputError, never another."""
    whole, generator = encoded(make_image(60, 40), file_format), random.Random(file_format)
    outcomes = set()
    for _ in range(120):
        content, at = bytearray(whole), generator.randrange(len(whole))
        kind = generator.randrange(4)
        if kind == 0:
            del content[at:]
        elif kind == 1:
            content[at] ^= 1 << generator.randrange(8)
        elif kind == 2:
            content[at : at + 16] = bytes(len(content[at : at + 16]))
        else:
            content[at:at] = content[at : at + generator.randrange(1, 64)]
        try:
            assert load_image(bytes(content), max_pixels=1 << 20).mode == "RGB"
            outcomes.add("decoded")
        except InputError:
            outcomes.add("refused")
    assert "refused" in outcomes


@pytest.mark.parametrize(
    "raised",
    [RuntimeError("avif"), AttributeError("x"), ZeroDivisionError(), MemoryError(), KeyError(1), EOFError(),
     RecursionError(), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), NotImplementedError(), AssertionError()],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize("moment", ["open", "load"])
def test_whatever_a_decoder_raises(
    raised: Exception, moment: str, make_image: Callable[..., Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encoded(make_image(), "WEBP")

    def fail(*_: Any) -> None:
        raise raised

    monkeypatch.setattr(WebPImageFile, "_open" if moment == "open" else "load", fail)
    with pytest.raises(InputError, match=r"image (cannot be decoded|does not fit into memory)") as caught:
        load_image(content)
    assert caught.value.__cause__ is raised or isinstance(caught.value.__cause__, SyntaxError)


def in_time(call: Callable[[], Any]) -> BaseException | None:
    """What `call` raises, run in a thread that must end."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except InputError as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.exception(timeout=30)


@pytest.mark.skipif(sys.platform == "win32", reason="paths of POSIX systems")
def test_only_regular_files_are_read(tmp_path: Path, make_image: Callable[..., Image.Image]) -> None:
    """Pipes, devices and sockets are refused at once, by path, by link and as a kept prefix's content."""
    fifo, link, bound = tmp_path / "fifo.png", tmp_path / "link.png", tmp_path / "socket.png"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(bound))
    reading, writing = os.pipe()
    os.write(writing, b"a row behind it\n")
    cases = {
        fifo: "is a pipe", link: "is a pipe", bound: "is a socket", tmp_path: "is a directory",
        Path("/dev/zero"): "is a device", Path("/dev/random"): "is a device", Path("/dev/null"): "is a device",
        Path("/dev/tty"): "is a device|cannot be decoded", Path(f"/dev/fd/{reading}"): "is a pipe",
        Path(f"/proc/self/fd/{reading}"): "is a pipe", Path("/proc/self/pagemap"): "none of|cannot be",
        Path("/proc/self/mem"): "none of|cannot be",
    }  # fmt: skip
    try:
        for path, message in cases.items():
            for call in (load_image, image_size, read_image_file, prepare.pinned):
                error = in_time(lambda call=call, path=path: call(path))  # type: ignore[misc]
                assert isinstance(error, InputError), (path, call, error)
                assert any(part in str(error) for part in message.split("|")), str(error)
        assert os.read(reading, 100) == b"a row behind it\n", "nothing was taken from the pipe"
    finally:
        server.close()
        os.close(reading)
        os.close(writing)
    real = tmp_path / "real.png"
    make_image().save(real)
    link.unlink()
    link.symlink_to(real)
    assert load_image(link).size == (90, 60)


def test_a_path_that_becomes_a_pipe_after_the_first_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vprm_runtime import files

    fifo = tmp_path / "late.png"
    os.mkfifo(fifo)
    regular = os.stat(__file__)
    monkeypatch.setattr(files.os, "stat", lambda path: regular)
    error = in_time(lambda: load_image(fifo))
    assert stat.S_ISREG(regular.st_mode) and isinstance(error, InputError) and "is a pipe" in str(error)


@pytest.mark.parametrize(
    "path",
    ["a\0b.png", "x" * 100_000, "half \ud83d.png", "", "line\nbreak.png", "esc\x1b[31m.png", "a/../" * 5000 + "b"],
    ids=["NUL", "long", "surrogate", "empty", "newline", "escape", "deep"],
)
def test_odd_paths(path: str) -> None:
    """An InputError of bounded length without control characters, with and without pinning."""
    for call in (load_image, image_size, read_image_file, prepare.pinned):
        with pytest.raises(InputError) as caught:
            call(path)  # type: ignore[operator]
        assert len(str(caught.value)) < 900 and str(caught.value).isprintable()


def test_encoded_images_are_not_paths(make_image: Callable[..., Image.Image]) -> None:
    import base64

    for file_format in ("PNG", "JPEG", "GIF", "WEBP", "BMP"):
        text = base64.b64encode(encoded(make_image(), file_format)).decode()
        for given in (text, f"data:image/x;base64,{text}", f"data:,{text}"):
            with pytest.raises(InputError, match="decode it and give its bytes") as caught:
                load_image(given)
            assert len(str(caught.value)) < 150


def header(file_format: str, width: int, height: int) -> bytes:
    """A small file whose header claims a size."""
    whole = bytearray(encoded(Image.new("RGB", (4, 4)), file_format))
    if file_format == "PNG":
        import zlib

        whole[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
        whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, "big")
    elif file_format == "BMP":
        whole[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    elif file_format == "GIF":
        whole[6:10] = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    elif file_format == "JPEG":
        at = whole.index(b"\xff\xc0") + 5
        whole[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    elif file_format == "PPM":
        whole = bytearray(f"P6\n{width} {height}\n255\n".encode()) + bytes(48)
    return bytes(whole)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "GIF", "JPEG", "PPM"])
def test_sizes_are_checked_before_pixels_are_decoded(file_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: Any) -> None:
        raise AssertionError("pixels were asked for")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    for width, height in ((60_000, 60_000), (65_535, 2_731), (2_731, 65_535)):
        content = header(file_format, width, height)
        for call in (load_image, image_size):
            with pytest.raises(InputError, match=f"{width:,} x {height:,} pixels, more than the 178,956,970"):
                call(content)
    assert image_size(header(file_format, 13_377, 13_377)) == (13_377, 13_377)  # just below the limit


def test_the_limit_is_the_originals(recwarn: pytest.WarningsRecorder) -> None:
    """Pillow's limit for an error, without its warning at half of that; no pixels of an array are touched."""
    assert 2 * (Image.MAX_IMAGE_PIXELS or 0) == MAX_IMAGE_PIXELS
    large = encoded(Image.new("1", (10_000, 9_000)), "PNG")
    assert load_image(large).size == (10_000, 9_000)
    assert not [warning for warning in recwarn if issubclass(warning.category, Image.DecompressionBombWarning)]
    huge = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (30_000, 30_000, 3))
    for given in (huge, huge[:, :6_000], Image.new("1", (20_000, 9_000))):
        with pytest.raises(InputError, match="scale it down"):
            load_image(given)
    with pytest.raises(InputError, match="has no area"):
        load_image(Image.new("RGB", (0, 5)))
    with pytest.raises(InputError, match="more than the 100 that"):
        load_image(np.zeros((11, 10, 3), np.uint8), max_pixels=100)
    assert load.image_size(np.zeros((11, 10, 3), np.uint8), max_pixels=110) == (10, 11)


@pytest.mark.parametrize(
    "image",
    [bytearray(b"x"), None, 5, {"bytes": b"x"}, [["a"]], io.BytesIO(b"x"), "a\0b", np.zeros((2, 2)), b"", "/dev/zero"],
    ids=lambda image: type(image).__name__,
)
def test_a_prefix_cache_changes_no_error(image: Any, demo_scorer: StepScorer) -> None:
    kept = demo_scorer.with_engine(demo_scorer.engine, prefix_cache_bytes=1 << 20)
    messages = []
    for scorer in (demo_scorer, kept):
        with pytest.raises(InputError) as caught:
            scorer.score([image], "How many?", ["Two."])
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_lazily_opened_damaged_image_with_a_prefix_cache(
    demo_scorer: StepScorer, make_image: Callable[..., Image.Image]
) -> None:
    cut = encoded(make_image(200, 200), "PNG")[:5000]
    kept = demo_scorer.with_engine(demo_scorer.engine, prefix_cache_bytes=1 << 20)
    with Image.open(io.BytesIO(cut)) as opened, pytest.raises(InputError, match="damaged"):
        kept.score(opened, "How many?", ["Two."])


def test_many_images_are_refused_before_one_is_decoded(
    demo_scorer: StepScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: Any) -> None:
        raise AssertionError("pixels were asked for")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    with pytest.raises(InputError, match=r"the images alone take \d+ tokens, the model's limit is"):
        demo_scorer.score([header("PNG", 9000, 9000)] * 64, "How many?", ["Two."])


def test_the_limit_of_a_scorer(
    demo_bundle: Path, demo_scorer: StepScorer, make_image: Callable[..., Image.Image]
) -> None:
    with pytest.raises(InputError, match=r"raise max_image_pixels \(--max-image-pixels\)"):
        demo_scorer.score(header("PNG", 20_000, 9_000), "How many?", ["Two."])
    small = StepScorer.open(demo_bundle, max_image_pixels=5_000)
    with pytest.raises(InputError, match="more than the 5,000"):
        small.score(make_image(), "How many?", ["Two."])
    large = StepScorer.open(demo_bundle, max_image_pixels=10**9)
    with pytest.raises(InputError, match="damaged"):  # only now is it decoded
        large.score(header("PNG", 20_000, 9_000), "How many?", ["Two."])


@pytest.mark.parametrize("shape", [(150_000_000, 1), (1, 150_000_000), (load.MAX_EDGE_PX + 1, 1)])
def test_edges_that_cannot_be_resized_are_refused_before_decoding(shape: tuple[int, int]) -> None:
    width, height = shape
    header = io.BytesIO()
    Image.new("L", (1, 1)).save(header, "PNG")
    chunk = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    content = header.getvalue()[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + header.getvalue()[33:]
    array = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (height, width, 3))
    for image in (content, array):
        with pytest.raises(InputError, match="an edge longer than the 262,144"):
            load_image(image)


def test_no_memory_to_resize_is_an_input_error(demo_scorer: StepScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    def resize(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "resize", resize)
    with pytest.raises(InputError, match="no memory to resize the image"):
        demo_scorer.score(Image.new("RGB", (90, 50)), "Q", ["One."])

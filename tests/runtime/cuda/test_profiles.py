"""Profile tables: every named profile fits the model's graphs, custom ones are parsed or refused in words."""

from __future__ import annotations

import pytest

from vprm_runtime import Bundle, InputError
from vprm_runtime.engines.cuda.profiles import PROFILES, SizeRange, llm_profiles, profile_set, vision_profiles


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_cover_every_input(fp16_bundle: Bundle, name: str) -> None:
    vision, llm = fp16_bundle.manifest.graph_io
    profiles = profile_set(name, fp16_bundle.manifest)
    for io, table in ((vision, vision_profiles(vision, profiles)), (llm, llm_profiles(llm, profiles))):
        for profile in table:
            assert list(profile) == [spec.name for spec in io.inputs]
            for spec in io.inputs:
                shapes = profile[spec.name]
                for low, typical, high, dim in zip(shapes.min, shapes.opt, shapes.max, spec.shape, strict=True):
                    assert 0 <= low <= typical <= high
                    assert isinstance(dim, str) or low == high == dim


def test_prefix_runs_behind_nothing_and_suffix_behind_a_prefix(fp16_bundle: Bundle) -> None:
    _, llm = fp16_bundle.manifest.graph_io
    prefix, suffix = llm_profiles(llm, profile_set("latency", fp16_bundle.manifest))
    assert prefix["past.0.key"].opt == (0, 32)
    assert suffix["past.0.key"].opt == (3072, 32)
    assert prefix["past.0.key"].max == suffix["past.0.key"].max
    tokens = prefix["input_ids"].max[0]
    assert prefix["attention_mask"].max == (tokens, tokens + prefix["past.0.key"].max[0])


def test_custom_profiles(fp16_bundle: Bundle) -> None:
    profiles = profile_set("tokens=1:64:128,past=0:256:512,tiles=1:2:4", fp16_bundle.manifest)
    assert (profiles.suffix.tokens, profiles.suffix.past) == (SizeRange(1, 64, 128), SizeRange(0, 256, 512))
    assert (profiles.tiles, profiles.max_block_tokens) == (SizeRange(1, 2, 4), 128)
    assert str(profiles.suffix.scores) == "1:80:128"  # no more score positions than tokens
    assert profiles.prefix.image_rows == SizeRange(0, 8, 128)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fast", "unknown profile 'fast': a profile is one of latency, throughput, or NAME=MIN:OPT:MAX"),
        ("tokens=1:2", "unknown profile 'tokens=1:2'"),
        ("tokens=5:2:9", "5:2:9 is not a profile range: it needs 0 <= MIN <= OPT <= MAX"),
        ("tokens=0:2:9", "profile part tokens=0:2:9: its MIN must be at least 1"),
        ("past=0:1:2,past=0:1:2", "profile part past is given twice"),
    ],
)
def test_wrong_profiles_are_refused(fp16_bundle: Bundle, text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        profile_set(text, fp16_bundle.manifest)
    assert message in str(error.value)

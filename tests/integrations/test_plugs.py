"""Every plug, called as its library calls it, gives the scores of `StepScorer`; what cannot be scored has no reward."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.serving.conftest import running

from vprm import Client
from vprm.integrations import easyr1, openrlhf, scoring, slime, verl
from vprm.integrations.scoring import Item, Rewarder, RewardOptions, opened
from vprm.integrations.search_and_learn import StepPRM
from vprm.integrations.trl import reward_function
from vprm.integrations.vlmevalkit import MEAN, STD, RewardModel
from vprm_demo import example
from vprm_runtime import InputError, MissingExtraError, StepScorer
from vprm_serving.service import Service
from vprm_serving.settings import Settings

TOLERANCE = 1e-6
EXAMPLE = example()
LONG = "word " * 40_000  # beyond the model's limit: cannot be scored


@pytest.fixture(scope="module")
def truth(demo_scorer: StepScorer) -> list[float]:
    """The example's response scores."""
    return list(demo_scorer.score(EXAMPLE.image, EXAMPLE.question, EXAMPLE.responses).scores)


@pytest.fixture(scope="module")
def url(demo_bundle: Path) -> Iterator[str]:
    """A server with the demo PRM."""
    with running(Service(Settings(bundle=demo_bundle))) as server:
        yield server.url


@pytest.fixture(params=["bundle", "server"])
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The demo PRM, in the process and on a server, as functions that are loaded by name find it."""
    found = str(request.getfixturevalue("demo_bundle" if request.param == "bundle" else "url"))
    monkeypatch.setenv(scoring.TARGET_VARIABLE, found)
    scoring.from_environment.cache_clear()
    yield found
    scoring.from_environment.cache_clear()


def close(found: Sequence[Any], wanted: Sequence[float]) -> bool:
    return bool(np.allclose(np.array(found, float), wanted, atol=TOLERANCE, rtol=0))


def test_trl_text_and_conversations(target: str, truth: list[float]) -> None:
    reward = reward_function(target)
    assert reward.__name__ == "vprm_reward"  # TRL names its metrics by it
    plain = reward(
        prompts=["Solve it."] * 3, completions=[*EXAMPLE.responses, LONG], completion_ids=[[1]] * 3, trainer_state=None,
        question=[EXAMPLE.question] * 3, images=[[EXAMPLE.image]] * 3, answer=["51"] * 3,
    )  # fmt: skip
    assert close(plain[:2], truth)
    assert plain[2] is None
    text = {"type": "text", "text": EXAMPLE.question}
    prompt = [{"role": "user", "content": [{"type": "image"}, text]}]
    turns = [[{"role": "assistant", "content": response}] for response in EXAMPLE.responses]
    chat = reward(prompts=[prompt] * 3, completions=[*turns, []], image=[EXAMPLE.image] * 3)
    assert close(chat[:2], truth)
    assert chat[2] is None
    with pytest.raises(InputError, match="give as many"):
        reward(prompts=["q"], completions=["a"], images=[None, None])
    both = reward(
        prompts=["Solve it."] * 2, completions=EXAMPLE.responses, question=[EXAMPLE.question] * 2,
        images=[None, [EXAMPLE.image]], image=[EXAMPLE.image, None],
    )  # fmt: skip
    assert close(both, truth)
    with pytest.raises(InputError, match="both columns images and image"):
        reward(prompts=["q"], completions=["a"], images=[[EXAMPLE.image]], image=[EXAMPLE.image])
    for name in ("image_path", "img", "picture", "image_1"):
        with pytest.raises(InputError, match=f"in the column {name}, which is not read"):
            reward(prompts=["q"], completions=["a"], **{name: [str(EXAMPLE.image)]})
        assert reward(prompts=["q"], completions=["a"], **{name: [None]})[0] is not None


def test_verl_one_and_many(target: str, truth: list[float]) -> None:
    info = {"question": EXAMPLE.question, "image": str(EXAMPLE.image)}
    assert close([verl.compute_score("demo", text, "51", info) for text in EXAMPLE.responses], truth)
    infos = [info, info, {**info, "image": "none.png"}, {"question": EXAMPLE.question, "images": [str(EXAMPLE.image)]}]
    found = verl.compute_scores(
        data_sources=["demo"] * 4, solution_strs=[*EXAMPLE.responses, "A step.", EXAMPLE.responses[0]],
        ground_truths=["51"] * 4, extra_infos=infos, other=1,
    )  # fmt: skip
    assert close([found[0], found[1], found[3]], [*truth, truth[0]])
    assert math.isnan(found[2])
    content = {"bytes": EXAMPLE.image.read_bytes(), "path": None}
    pixels = np.asarray(Image.open(EXAMPLE.image).convert("RGB"))
    arrays: list[Any] = [np.array([path], dtype) for path in [str(EXAMPLE.image)] for dtype in (object, str)]
    arrays += [np.array([content, None], object)[:1], np.array(str(EXAMPLE.image)), (str(EXAMPLE.image),)]
    arrays += [pixels, pixels[None]]
    for images in arrays:  # as a batch of parquet rows holds them
        found = verl.compute_score("demo", EXAMPLE.responses[0], "51", {"question": EXAMPLE.question, "images": images})
        assert close([found], truth[:1]), images
    with pytest.raises(InputError, match="no question"):
        verl.compute_score("demo", "A step.", "51", {"index": 3})


def test_easyr1(target: str, truth: list[float]) -> None:
    label = json.dumps({"question": EXAMPLE.question, "image": str(EXAMPLE.image), "answer": "51"})
    texts = [*EXAMPLE.responses, LONG]
    found = easyr1.compute_score([{"response": t, "response_length": 3, "ground_truth": label} for t in texts])
    assert close([item["overall"] for item in found[:2]], truth)
    assert math.isnan(found[2]["overall"])
    with pytest.raises(InputError, match="no question"):
        easyr1.compute_score([{"response": "A.", "response_length": 1, "ground_truth": "51"}])


def test_openrlhf_function(target: str, truth: list[float]) -> None:
    label = json.dumps({"question": EXAMPLE.question, "image": str(EXAMPLE.image)})
    prompt = "<|im_start|>user\nFind it.<|im_end|>\n<|im_start|>assistant\n"
    queries = [f"{prompt}{text}<|im_end|>" for text in EXAMPLE.responses]
    found = openrlhf.reward_func(queries, [prompt] * 2, [label] * 2)
    assert close(found["rewards"], truth)
    assert found["scores"] == found["rewards"]
    with pytest.raises(InputError, match="chat template"):
        openrlhf.reward_func(queries, [prompt] * 2, ["51", "51"])
    with pytest.raises(InputError, match="have no reward"):
        openrlhf.reward_func([prompt + LONG], [prompt], [label])
    with pytest.raises(InputError, match="begin with its prompt"):
        openrlhf.reward_func(["other"], [prompt], [label])


def test_slime(target: str, truth: list[float]) -> None:
    context = {"question": EXAMPLE.question, "image": str(EXAMPLE.image)}
    for metadata, label in ((context, "51"), ({}, json.dumps(context))):
        samples = [SimpleNamespace(prompt="p", response=r, label=label, metadata=metadata) for r in EXAMPLE.responses]
        assert close([asyncio.run(slime.reward_func(None, sample)) for sample in samples], truth)
    with pytest.raises(InputError, match="no reward"):
        asyncio.run(slime.reward_func(None, SimpleNamespace(prompt="p", response=LONG, label=None, metadata=context)))
    image = {"image": str(EXAMPLE.image)}
    question = json.dumps({"question": EXAMPLE.question})
    for prompt, label in ((EXAMPLE.question, "51"), ("p", question)):  # the question elsewhere than the image
        sample = SimpleNamespace(prompt=prompt, response=EXAMPLE.responses[0], label=label, metadata=image)
        assert close([asyncio.run(slime.reward_func(None, sample))], truth[:1])
    sample.label = json.dumps({**context, "image": "other.png"})
    with pytest.raises(InputError, match="different images"):
        asyncio.run(slime.reward_func(None, sample))


def test_ms_swift(target: str, truth: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the published signature; tests/integrations/test_libraries.py has the library itself."""
    for name in ("swift", "swift.rewards", "swift.rewards.prm"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules["swift.rewards.prm"], "PRM", type("PRM", (), {}), raising=False)
    from vprm.integrations.ms_swift import prm_class

    question = {"role": "user", "content": EXAMPLE.question}
    requests: list[Any] = [
        {"messages": [question, {"role": "assistant", "content": text}], "images": [str(EXAMPLE.image)]}
        for text in [*EXAMPLE.responses, LONG]
    ]
    part = [{"type": "image", "image": str(EXAMPLE.image)}, {"type": "text", "text": EXAMPLE.question}]
    turns = [{"role": "user", "content": part}, {"role": "assistant", "content": EXAMPLE.responses[1]}]
    requests.append(SimpleNamespace(messages=turns, images=[]))
    found = prm_class(target)()(requests, ground_truths=["51"] * 4, request_config=None)
    assert close([found[0], found[1], found[3]], [*truth, truth[1]])
    assert math.isnan(found[2])


def test_search_and_learn(target: str, demo_scorer: StepScorer) -> None:
    questions = ["What is 1 + 2?", "What is 2 + 2?"]
    outputs = [["It is 3.\n\nSo 3.", LONG], ["It is 4.", "It is 5.\n\nSo 5.\n\nYes."]]
    found = StepPRM(target).score(questions, outputs)
    for question, texts, scores in zip(questions, outputs, found, strict=True):
        for candidate, steps in zip(demo_scorer.score(None, question, texts), scores, strict=True):
            assert close(steps, candidate.step_scores) if candidate.error is None else math.isnan(steps[0])
    assert [len(steps) for scores in found for steps in scores] == [2, 1, 1, 3]


def test_vlmevalkit(target: str, demo_scorer: StepScorer) -> None:
    texts = [EXAMPLE.responses[1], LONG, EXAMPLE.responses[0]]
    best = [texts[2], texts[0], texts[1]]
    exact = RewardModel(target, image_of=lambda question: EXAMPLE.image)
    assert exact.select_best_response(None, EXAMPLE.question, texts) == best
    (tiles,) = demo_scorer.tiles(EXAMPLE.image)
    pixels = (tiles.transpose(0, 3, 1, 2) / 255 - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    model = RewardModel(target)
    if target.startswith("http"):
        with pytest.raises(InputError, match="a server takes images, not tiles"):
            model.select_best_response(None, EXAMPLE.question, texts, pixels.astype(np.float32), [len(tiles)])
        return
    found = model.select_best_response(None, EXAMPLE.question, texts, pixels.astype(np.float32), [len(tiles)])
    assert found == best
    with pytest.raises(InputError, match="adds up to"):
        model.select_best_response(None, EXAMPLE.question, texts, pixels, [99])
    with pytest.raises(InputError, match="no response can be scored"):
        model.select_best_response(None, EXAMPLE.question, [LONG])


def test_a_server_that_is_gone_or_wants_a_key_gives_no_reward(
    demo_bundle: Path, truth: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [Item(EXAMPLE.image, EXAMPLE.question, text) for text in EXAMPLE.responses]
    gone = Rewarder(Client("http://127.0.0.1:9", retries=0))
    assert gone.rewards(items) == [None, None]
    (tmp_path / "keys").write_text("secret\n")
    with running(Service(Settings(bundle=demo_bundle, api_key_file=tmp_path / "keys"))) as server:
        assert opened(server.url).rewards(items) == [None, None]
        monkeypatch.setenv("VPRM_API_KEY", "secret")
        assert close(opened(server.url).rewards(items), truth)


def test_options_reach_the_scorer(target: str, demo_scorer: StepScorer) -> None:
    items = [Item(EXAMPLE.image, EXAMPLE.question, text) for text in EXAMPLE.responses]
    found = opened(target, RewardOptions(aggregate="min", max_steps=2, max_tiles=1)).rewards(items)
    limits: dict[str, Any] = {"aggregate": "min", "max_steps": 2, "max_tiles": 1}
    assert close(found, demo_scorer.score(EXAMPLE.image, EXAMPLE.question, EXAMPLE.responses, **limits).scores)


def test_a_target_that_is_not_named_or_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(scoring.TARGET_VARIABLE, raising=False)
    scoring.from_environment.cache_clear()
    with pytest.raises(InputError, match="set VPRM_TARGET"):
        verl.compute_score("demo", "A.", "51", {"question": "q"})
    with pytest.raises((ValueError, MissingExtraError)):
        opened(tmp_path / "none")


def test_trl_images_in_messages_are_scored_and_lost_ones_are_not(target: str, truth: list[float]) -> None:
    text = {"type": "text", "text": EXAMPLE.question}
    turn = [{"role": "assistant", "content": EXAMPLE.responses[0]}]
    prompts = [[{"role": "user", "content": [part, text]}] for part in (
        {"type": "image", "image": str(EXAMPLE.image)}, {"type": "image_url", "image_url": {"url": str(EXAMPLE.image)}},
        {"type": "image"}, {"type": "image", "image": None},
    )]  # fmt: skip
    found = reward_function(target)(prompts=prompts, completions=[turn] * 4)
    assert close(found[:2], [truth[0]] * 2)
    assert found[2:] == [None, None]


def test_what_a_plug_cannot_read_has_no_reward_and_the_rest_has(target: str) -> None:
    reward, good = reward_function(target), "What is 1 + 1?"
    odd: list[Any] = [None, 5, ["q"], [5], [{"role": "user", "content": "q"}], "<|im_start|>user\nq<|im_end|>\n"]
    found = reward(prompts=[*odd, good], completions=["It is 2."] * 7)
    assert [value is None for value in found] == [True, True, True, True, False, True, False]
    found = reward(prompts=[good] * 7, completions=[None, 5, ["a"], [5], [], [{"role": "assistant"}], "It is 2."])
    assert found[:6] == [None] * 6 and found[6] is not None
    found = reward(prompts=[good] * 3, completions=["It is 2."] * 3, question=[[{"a": 1}], None, good])
    assert found[:2] == [None, None] and found[2] is not None
    assert math.isnan(verl.compute_score("demo", "A.", "51", {"question": ["q"]}))


def test_labels_that_are_no_json_or_ambiguous_are_refused(target: str) -> None:
    for label in ('{"a":' * 100_000, '{"question": "q", "question": "r"}'):
        with pytest.raises(InputError, match=r"no question|twice"):
            easyr1.compute_score([{"response": "A.", "response_length": 1, "ground_truth": label}])


def test_slime_takes_no_template_for_the_question_and_no_mark_for_the_response(target: str) -> None:
    def rewarded(prompt: str, response: str) -> float:
        sample = SimpleNamespace(prompt=prompt, response=response, label=None, metadata=None)
        return asyncio.run(slime.reward_func(None, sample))

    assert close([rewarded("What is 1 + 1?", "It is 2.<|im_end|>\n")], [rewarded("What is 1 + 1?", "It is 2.")])
    with pytest.raises(InputError, match="chat template"):
        rewarded("<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n", "It is 2.")


def test_a_request_of_ms_swift_that_lost_its_image_has_no_reward(target: str) -> None:
    from vprm.integrations.ms_swift import item_of

    turn = {"role": "assistant", "content": "It is 2."}
    for user in ([{"type": "image"}, {"type": "text", "text": "Which?"}], [{"type": "image", "image": None}], None):
        item = item_of({"messages": [{"role": "user", "content": user}, turn]})
        assert opened(target).rewards([item]) == [None]

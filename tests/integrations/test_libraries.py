"""Plugs in the libraries themselves, each if it is installed here: docs/training.md says how to run these."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serving.conftest import running

from vprm.integrations import scoring
from vprm_demo import example
from vprm_runtime import StepScorer
from vprm_serving.service import Service
from vprm_serving.settings import Settings

EXAMPLE = example()
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def truth(demo_scorer: StepScorer) -> list[float]:
    """The example's response scores."""
    return list(demo_scorer.score(EXAMPLE.image, EXAMPLE.question, EXAMPLE.responses).scores)


def test_grpo_of_trl_learns_from_step_scores(demo_bundle: Path, tmp_path: Path) -> None:
    """A random policy of a few thousand weights, three steps: rewards arrive and the weights move."""
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from vprm.integrations.trl import reward_function

    torch.manual_seed(0)
    words = [f"w{number}" for number in range(60)]
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **tokens)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    policy = LlamaForCausalLM(config)
    before = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
    rows = datasets.Dataset.from_dict({"prompt": ["w1 w2 w3"] * 8, "question": [EXAMPLE.question] * 8})
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_completion_length=8,
        max_steps=3, learning_rate=1e-2, logging_steps=1, report_to=[],
        use_cpu=True, save_strategy="no", seed=1, beta=0.0,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=policy, reward_funcs=reward_function(demo_bundle), args=arguments, train_dataset=rows,
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    rewards = [entry["rewards/vprm_reward/mean"] for entry in trainer.state.log_history if "reward" in entry]
    print("rewards", rewards)
    assert len(rewards) == 3
    assert all(0 < reward < 1 for reward in rewards)
    assert any(not torch.equal(weight, before[name]) for name, weight in policy.named_parameters())


@pytest.fixture
def target(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(scoring.TARGET_VARIABLE, str(demo_bundle))
    scoring.from_environment.cache_clear()
    return str(demo_bundle)


class WordTokenizer:
    """What verl's reward managers need of a tokenizer: texts by number."""

    eos_token = "</s>"

    def __init__(self, texts: list[str]) -> None:
        self._texts = texts

    def decode(self, ids: Any, skip_special_tokens: bool = True) -> str:
        return self._texts[int(ids[0])]


@pytest.mark.parametrize("manager", ["naive", "batch"])
def test_reward_managers_of_verl(manager: str, target: str, truth: list[float]) -> None:
    pytest.importorskip("verl", reason="verl is not installed")
    import importlib

    import torch
    from verl import DataProto  # type: ignore[import-not-found]

    from vprm.integrations.verl import compute_score, compute_scores

    module = importlib.import_module(f"verl.workers.reward_manager.{manager}")
    info = {"question": EXAMPLE.question, "image": str(EXAMPLE.image)}
    data = DataProto.from_dict(
        tensors={
            "prompts": torch.zeros(2, 1, dtype=torch.long),
            "responses": torch.tensor([[0], [1]]),
            "attention_mask": torch.ones(2, 2, dtype=torch.long),
        },
        non_tensors={
            "reward_model": np.array([{"ground_truth": "51"}] * 2, dtype=object),
            "data_source": np.array(["demo"] * 2, dtype=object),
            "extra_info": np.array([dict(info), dict(info)], dtype=object),
        },
    )
    tokenizer = WordTokenizer(EXAMPLE.responses)
    if manager == "naive":
        rewards = module.NaiveRewardManager(tokenizer, 0, compute_score)(data)
    else:
        rewards = module.BatchRewardManager(tokenizer, 0, compute_scores)(data)
    assert np.allclose(rewards.sum(1).numpy(), truth, atol=1e-6)


def test_sampling_of_ms_swift(target: str, truth: list[float]) -> None:
    pytest.importorskip("modelscope", reason="ms-swift is not installed")
    pytest.importorskip("swift", reason="ms-swift is not installed")
    from swift.pipelines.sampling.utils import get_reward  # type: ignore[import-not-found]
    from swift.rewards import prms  # type: ignore[import-not-found]

    from vprm.integrations.ms_swift import prm_class

    prms["vprm"] = prm_class(target)
    image = {"type": "image", "image": str(EXAMPLE.image)}
    question = {"role": "user", "content": [image, {"type": "text", "text": EXAMPLE.question}]}
    requests = [{"messages": [question, {"role": "assistant", "content": text}]} for text in EXAMPLE.responses]
    rewards, mask = get_reward(prms["vprm"](), requests, ground_truths=["51"] * 2, threshold=0.0)
    assert len(rewards) == len(mask) == 2
    assert np.allclose(prms["vprm"]()(requests), truth, atol=1e-6)


def test_reward_file_of_openrlhf(target: str, truth: list[float]) -> None:
    """OpenRLHF loads the file by its path and calls `reward_func`; or it asks a server."""
    pytest.importorskip("openrlhf", reason="OpenRLHF is not installed")
    agent = pytest.importorskip("openrlhf.utils.agent", reason="OpenRLHF's agent does not import here")
    import asyncio

    import vprm.integrations.openrlhf as plug

    executor = agent.SingleTurnAgentExecutor(os.fspath(plug.__file__))
    label = json.dumps({"question": EXAMPLE.question, "image": str(EXAMPLE.image)})
    queries = [f"p {text}" for text in EXAMPLE.responses]
    found = asyncio.run(executor._fetch_rewards_via_func(queries, ["p "] * 2, [label] * 2))
    assert np.allclose([item["rewards"][0] for item in found], truth, atol=1e-6)
    image_root = EXAMPLE.image.parent
    with running(Service(Settings(bundle=Path(target), image_root=image_root))) as server:
        remote = agent.SingleTurnAgentExecutor(f"{server.url}/get_reward")
        replies = asyncio.run(remote._fetch_rewards_via_http(queries, ["p "] * 2, [label] * 2))
    assert np.allclose([score for reply in replies for score in reply["rewards"]], truth, atol=1e-6)

"""Peers in an environment of their own: the protocol in this one, the real one if it is there, and what fails."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import vprm_demo
from vprm_benchmarks.speed.contenders.choice import choose_contenders
from vprm_benchmarks.speed.contenders.torch import TimedReference
from vprm_benchmarks.speed.models import Model
from vprm_benchmarks.speed.peers.contender import EXPORTED, PeerContender
from vprm_benchmarks.speed.peers.environment import environment_path, peer_python, python_of
from vprm_benchmarks.speed.workload import Workload, WorkloadSize, workload
from vprm_runtime import EngineError
from vprm_runtime.cli.main import main

SIZE = ["--tiles", "3", "--candidates", "2", "--steps", "2", "--step-tokens", "6", "--rounds", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def scorer() -> TimedReference:
    return TimedReference.load(vprm_demo.checkpoint_dir(), dtype=torch.float32, attention="sdpa")


@pytest.fixture
def work(tmp_path: Path) -> Workload:
    model = Model(vprm_demo.checkpoint_dir(), tmp_path)
    return workload(WorkloadSize(3, 2, 2, 6), model.tile_px, model.count_tokens)


def test_a_peer_in_a_process_of_its_own_has_the_same_model(
    scorer: TimedReference, work: Workload, tmp_path: Path
) -> None:
    """transformers' own class, which needs no other environment, on what is written for the exporters."""
    peer = PeerContender.open("transformers_4", Path(sys.executable), scorer, tmp_path / "language-model", 1)
    assert peer.text_difference_in_rms < 1e-4
    assert "transformers" in peer.description and any("image rows" in line for line in peer.cannot)
    together = peer.scores(work)
    assert together.shape == (4,) and ((together > 0) & (together < 1)).all()
    alone = [peer.scores(replace(work, candidates=(one,))) for one in work.candidates]  # without reuse of the prefix
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=0, atol=1e-5)
    assert len(set(peer.tokens(work))) >= 1
    with pytest.raises(EngineError, match="peer transformers_4 failed at score"):
        peer.prefill(1)()
        peer._process.ask({"call": "score", "rows": [[10**9]], "positions": [[0]], "prefix": 0})


def test_a_peer_that_dies_says_how(scorer: TimedReference, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'no module named optimum' >&2\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(EngineError, match=r"optimum_onnx failed at open: .*ended with 3: no module named optimum"):
        PeerContender.open("optimum_onnx", python, scorer, tmp_path / "language-model", 1)


def test_without_a_network_the_environment_is_not_made_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VPRM_CACHE", str(tmp_path / "cache"))
    run = subprocess.run

    def offline(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        """venv as it is; pip may look nowhere."""
        if "pip" in command:
            command = [*command[: command.index("install") + 1], "--no-index", *command[command.index("install") + 1 :]]
            options["env"] = {"PIP_CONFIG_FILE": "/dev/null", "PATH": "/usr/bin:/bin"}
        return run(command, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(subprocess, "run", offline)
    with pytest.raises(EngineError, match=r"pip install optimum-onnx.*needs a network once.*leave out --peers"):
        peer_python(lambda text: None)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_full_or_forbidden_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("VPRM_CACHE", str(tmp_path / "taken"))
    with pytest.raises(EngineError, match=r"cannot be made at .*VPRM_CACHE"):
        peer_python(lambda text: None)


def test_peers_are_added_to_those_that_take_part() -> None:
    names, _ = choose_contenders(["vprm_int8"], "demo", peers=True)
    assert names == ("vprm_int8", *EXPORTED)


def test_the_whole_command(capsys: pytest.CaptureFixture[str]) -> None:
    if not python_of(environment_path()).exists():
        pytest.skip("the peers' environment is not there: vprm bench best-of-n --peers makes it, with a network")
    name = "optimum_onnx"
    assert main(["bench", "best-of-n", *SIZE, "--contenders", "vprm_fp32", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    entry = found["contenders"][name]
    assert "skipped" not in entry, entry
    assert entry["vision_s"] == 0 < entry["language_s"] and len(entry["cannot"]) == 3
    assert found["accuracy"][name]["text_logit_difference_in_rms"] < 0.5
    assert found["ratios"][f"{name}_over_vprm_fp32_language"] > 0

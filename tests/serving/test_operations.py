"""What operators copy from the docs: the dashboard, the unit and the container file agree with the server."""

from __future__ import annotations

import argparse
import configparser
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.serving.conftest import RunningServer

import vprm
from vprm_demo import example
from vprm_runtime import StepScorer
from vprm_runtime.cli.main import build_parser
from vprm_runtime.errors import InputError
from vprm_serving import metrics
from vprm_serving.command import settings_of
from vprm_serving.settings import read_api_keys
from vprm_serving.short_turns import SHORT_TURN_NS, take_short_turns, turn_ns

DOCS = Path(__file__).parents[2] / "docs"
NAME = re.compile(r"\b(vprm_[a-z0-9_]+|process_[a-z_]+)\b")


def exported(server: RunningServer) -> set[str]:
    """Names of all samples, and of metrics without samples yet."""
    server.score({"question": "Which?", "responses": ["One."]})
    server.score({"question": "", "responses": ["One."]})
    lines = server.http.get("/metrics").text.splitlines()
    return {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}


def test_the_dashboard_asks_for_metrics_that_exist(server: RunningServer) -> None:
    dashboard = json.loads((DOCS / "serving" / "grafana-dashboard.json").read_text("utf-8"))
    asked = {
        name for panel in dashboard["panels"] for target in panel["targets"] for name in NAME.findall(target["expr"])
    }
    assert len(asked) > 10
    assert asked <= exported(server)


def test_every_metric_is_in_the_table(server: RunningServer) -> None:
    described = set(re.findall(r"\| (vprm_\w+)", metrics.__doc__ or ""))
    names = {name for name in exported(server) if not name.endswith("_created")}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    ours = {name for name in families if name.startswith("vprm_")}
    assert ours == described


def options_of_serve() -> set[str]:
    for action in build_parser("serve")._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {option for one in action.choices["serve"]._actions for option in one.option_strings}
    raise AssertionError("no serve")


def test_the_unit_starts_the_server_as_it_is() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DOCS / "serving" / "vprm.service")
    words = shlex.split(unit["Service"]["ExecStart"])
    assert {word for word in words if word.startswith("--")} <= options_of_serve()
    assert int(unit["Service"]["TimeoutStopSec"]) > int(words[words.index("--drain-s") + 1])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_unit() -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", str(DOCS / "serving" / "vprm.service")], capture_output=True, text=True
    )
    complaints = [line for line in done.stderr.splitlines() if "vprm.service" in line and "not executable" not in line]
    assert complaints == []


def test_the_container_file_names_what_exists() -> None:
    text = (DOCS / "serving" / "Dockerfile").read_text("utf-8")
    instructions = {line.split()[0] for line in text.splitlines() if re.match(r"[A-Z]+ ", line)}
    assert instructions <= {"FROM", "RUN", "COPY", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.M)[1])  # type: ignore[index]
    assert {word for word in entry if word.startswith("--")} <= options_of_serve()
    assert (DOCS.parent / "constraints.txt").exists()


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_a_unix_socket_is_enough(
    workers: list[str], demo_bundle: Path, demo_scorer: StepScorer, tmp_path: Path
) -> None:
    """Instead of a port; what a killed server left is replaced, one that lives is not."""
    path = tmp_path / "s"
    shown = example()
    wanted = demo_scorer.score(shown.image, shown.question, shown.responses).scores
    command = [sys.executable, "-m", "vprm", "serve", str(demo_bundle), "--device", "cpu", "--uds", str(path)]
    for number in (signal.SIGKILL, signal.SIGTERM):
        with subprocess.Popen([*command, *workers], stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                said = (json.loads(line) for line in process.stderr if line.startswith("{"))
                assert any(line["event"] == "listening" and line["address"] == f"unix:{path}" for line in said)
                with vprm.Client(uds=str(path)) as client:
                    found = client.score(shown.image, shown.question, shown.responses)
                    assert found.scores == pytest.approx(wanted, abs=1e-6)
                second = subprocess.run(command, capture_output=True, text=True, timeout=60)
                assert second.returncode == 2
                assert f"another server listens on {path}" in second.stderr
            finally:
                process.send_signal(number)
                process.stderr.read()
            assert process.wait(60) == (0 if number == signal.SIGTERM else -number)
        assert path.exists() == (number == signal.SIGKILL)


@pytest.mark.parametrize(
    ("path", "words"), [("none/s", "is not a directory"), ("file", "no socket"), ("s" * 120, "short")]
)
def test_a_path_that_no_socket_can_have_is_an_error(path: str, words: str, demo_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    command = [sys.executable, "-m", "vprm", "serve", str(demo_bundle), "--uds", str(tmp_path / path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_event_loop_takes_short_turns_and_what_it_starts_does_not() -> None:
    found: dict[str, int | None] = {"before": turn_ns()}
    if not found["before"]:
        pytest.skip("this system does not say how long turns are (Linux 6.12 does)")

    def loop() -> None:
        take_short_turns()
        found["loop"] = turn_ns()
        child = threading.Thread(target=lambda: found.update(child=turn_ns()))
        child.start()
        child.join()

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()
    assert found == {"before": turn_ns(), "loop": SHORT_TURN_NS, "child": turn_ns()}


@pytest.mark.parametrize(
    "words",
    [["--drain-s", "nan"], ["--drain-s", "inf"], ["--stall-s", "nan"], ["--port", "70000"], ["--port", "-1"],
     ["--api-key-file", "no-such-file"], ["--api-key-file", "."]],
)  # fmt: skip
def test_options_that_cannot_work_are_refused_by_name(words: list[str]) -> None:
    with pytest.raises(InputError, match=words[0]):
        settings_of(build_parser("serve").parse_args(["serve", *words]))


def test_a_file_of_keys_may_begin_with_a_mark_and_repeat_itself(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_bytes("\ufeff first \r\nключ\r\nfirst\r\n".encode())
    assert read_api_keys(keys) == (b"first", "ключ".encode())
    keys.write_bytes(b"\xff\xfe\0")
    with pytest.raises(InputError, match="not UTF-8"):
        read_api_keys(keys)

"""`python -m tests.ray.campaign [--rows N] [--kills K] [--seed S]`: SIGKILLs at random, and what they cost.

Demo rows are scored by two Ray workers of this machine. Scoring processes, actors, the driver and the raylet are killed
in random order, at random moments; the command is run again whenever it has ended. Then one undisturbed process scores
the same rows. Exit code 1 unless every id is there once, the outputs are equal byte for byte, and no more rows were
begun again than kills happened. The last line of stdout is a JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.shards import SITE

KINDS = ("scorer", "actor", "scorer", "driver", "raylet")
_TITLES = {"actor": "ray::_Actor", "raylet": "raylet/raylet", "scorer": "datasets.shard_worker"}
_FOLLOW_UP_ROWS = 10  # that a new command has begun before it is disturbed again


@dataclass
class Outcome:
    """What kills cost. `redone`: rows begun again, by the kind of kill that came before."""

    kills: list[str] = field(default_factory=list)
    rows: int = 0
    commands: int = 0
    exit_code: int = -1
    redone: Counter[str] = field(default_factory=Counter)


class Campaign:
    """A run of `vprm score --ray local --workers 2` that is disturbed. `folder` keeps the list of the rows begun."""

    def __init__(self, bundle: Path, rows: Path, output: Path, folder: Path, row_s: float = 0.0) -> None:
        self.begun, self.log = folder / "begun", folder / "log"
        site = folder / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(SITE)
        path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
        marks = {"VPRM_TEST_BEGUN": str(self.begun), "VPRM_TEST_ROW_S": str(row_s)}
        self.environment = {**os.environ, "PYTHONPATH": path, **marks}
        self.alone = [sys.executable, "-m", "vprm", "score", str(bundle), "--input", str(rows), "--output"]
        self.command = [*self.alone, str(output), "--ray", "local", "--workers", "2"]
        self.outcome = Outcome()
        self._read_bytes = 0
        self._lines: list[str] = []
        self._kill_rows: list[tuple[int, str]] = []

    def run(self, plan: Sequence[str], rows: int, seed: int, say: Callable[[str], None] = lambda text: None) -> Outcome:
        """Kill what the plan says, spread over the rows, and let the command finish."""
        chance = random.Random(seed)
        driver = self._start()
        try:
            for number, kind in enumerate(plan):
                left = rows - len(set(self.rows_begun()))
                wanted = max(_FOLLOW_UP_ROWS, round(chance.uniform(0.3, 1.0) * left / (len(plan) - number + 1)))
                driver = self._wait_for_rows(driver, len(self.rows_begun()) + wanted)
                time.sleep(chance.uniform(0, 0.1))
                driver = self._kill(driver, kind, chance)
                say(f"{time.strftime('%T')} {number + 1} of {len(plan)}: {kind}, {len(self.rows_begun())} rows begun")
            while driver.wait() != 0 and self.outcome.commands <= 3 * len(plan) + 3 and not self._is_done(driver):
                driver = self._start()
        finally:
            driver.kill()
        self.outcome.exit_code = driver.returncode
        self._count()
        return self.outcome

    def rows_begun(self) -> list[str]:
        """Numbers of all rows that were begun, in time's order."""
        if self.begun.exists():
            with self.begun.open("rb") as file:
                file.seek(self._read_bytes)
                content = file.read()
            content = content[: content.rfind(b"\n") + 1]
            self._read_bytes += len(content)
            self._lines += content.decode().split()
        return self._lines

    def processes(self, driver: int, kind: str) -> list[int]:
        """The cluster's processes of a kind. Those that score are no children of the driver's; their variables tell."""
        listed = subprocess.run(["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True).stdout
        parents = {int(pid): (int(up), args) for pid, up, args in (line.split(None, 2) for line in listed.splitlines())}

        def is_ours(pid: int) -> bool:
            if kind == "scorer":
                return self._has_our_variables(pid)
            while pid in parents and pid != driver:
                pid = parents[pid][0]
            return pid == driver

        found = [pid for pid, (_, args) in parents.items() if _TITLES[kind] in args and pid != driver]
        return [pid for pid in found if is_ours(pid)]

    def _has_our_variables(self, pid: int) -> bool:
        try:
            return str(self.begun).encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False

    def _start(self) -> subprocess.Popen[bytes]:
        self.outcome.commands += 1
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=log)

    def _wait_for_rows(self, driver: subprocess.Popen[bytes], rows: int) -> subprocess.Popen[bytes]:
        """Until so many rows were begun. A command that ended is run again."""
        while len(self.rows_begun()) < rows:
            if driver.poll() is not None:
                if driver.returncode == 0 or self.outcome.commands > 100:
                    raise RuntimeError(f"the command ended with {driver.returncode} too early: {self.log}")
                driver = self._start()
            time.sleep(0.05)
        return driver

    def _kill(self, driver: subprocess.Popen[bytes], kind: str, chance: random.Random) -> subprocess.Popen[bytes]:
        while True:
            victims = [driver.pid] if kind == "driver" else self.processes(driver.pid, kind)
            if driver.poll() is not None:
                driver = self._wait_for_rows(driver, len(self.rows_begun()) + _FOLLOW_UP_ROWS)
            elif victims:
                break
            else:
                time.sleep(0.1)
        os.kill(chance.choice(victims), signal.SIGKILL)
        self.outcome.kills.append(kind)
        self._kill_rows.append((len(self.rows_begun()), kind))
        if kind in ("driver", "raylet"):
            driver.wait(180)
            driver = self._start()
        return driver

    @staticmethod
    def _is_done(driver: subprocess.Popen[bytes]) -> bool:
        return driver.returncode == 1  # all rows are written, some of them set aside

    def _count(self) -> None:
        seen: set[str] = set()
        for place, row in enumerate(self.rows_begun()):
            if row in seen:
                before = [kind for at, kind in self._kill_rows if at <= place]
                self.outcome.redone[before[-1] if before else "none"] += 1
            seen.add(row)
        self.outcome.rows = len(seen)


def shuffled_plan(kills: int, seed: int) -> list[str]:
    """As many kills, of all kinds."""
    plan = [KINDS[number % len(KINDS)] for number in range(kills)]
    random.Random(seed).shuffle(plan)
    return plan


def main() -> int:
    """Run a campaign."""
    from vprm_demo import held_out_rows
    from vprm_runtime.demo import demo_hook

    parser = argparse.ArgumentParser(prog="python -m tests.ray.campaign", description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=20)
    args = parser.parse_args()

    def say(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    bundle, rows = demo_hook("bundle")(), held_out_rows(args.rows)
    with tempfile.TemporaryDirectory(prefix="vprm-campaign-") as work:
        folder = Path(work)
        output, plain = folder / "scores.jsonl", folder / "plain.jsonl"
        campaign = Campaign(bundle, rows, output, folder)
        outcome = campaign.run(shuffled_plan(args.kills, args.seed), args.rows, args.seed, say)
        say("the same rows by one process")
        subprocess.run([*campaign.alone, str(plain), "--threads", "1"], check=True, capture_output=True)
        found = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
        ids = Counter(document["id"] for document in found)
        checks = {
            "every_id_once": len(ids) == args.rows == ids.total(),
            "no_errors": not any("error" in document for document in found),
            "equal_to_one_process": output.read_bytes() == plain.read_bytes(),
            "at_most_a_row_a_kill": outcome.redone.total() <= len(outcome.kills) == args.kills,
        }
    facts = {**vars(outcome), "redone_rows": outcome.redone.total(), "killed": Counter(outcome.kills)}
    sys.stdout.write(json.dumps({"rows_asked": args.rows, "seed": args.seed, **facts, **checks}) + "\n")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Claim: a killed `normscope why` loses no finished run, leaves no half-written file, and goes on where it was.

    python benchmarks/kill.py --kills 20

Sends SIGKILL to the whole process group, looks at every file after each, and lets the last attempt finish. A first
command, left alone, says how many runs there are. Each attempt is killed a moment (.1 to 1.5 s) after some run of those
that are left has arrived, any of them with equal chance, or a moment after its start, so that kills fall inside of
the work on a machine of any speed. Where all runs are there the command is let finish and an empty folder begins.
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
from pathlib import Path


def main() -> int:
    """Kill, look, resume; 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--effort", default="quick")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as parent:
        start = time.monotonic()
        first = Attempts(Path(parent, "alone"), options.effort)
        code = first.finish()
        seconds, runs = time.monotonic() - start, len(first.look())
        print(f"left alone: {seconds:.0f} s, {runs} runs, exit code {code}", flush=True)
        kills, places = 0, [Attempts(Path(tempfile.mkdtemp(dir=parent)), options.effort)]
        while kills < options.kills:
            place = places[-1]
            before = len(place.kept)
            arrived, moment = draw.randint(before, runs), draw.uniform(0.1, 1.5)
            killed = before < runs and place.kill_after(arrived, moment)
            if killed:
                kills += 1
                found = len(place.look())
                kept = f"{found} of {runs} runs kept ({found - before} new)"
                print(f"{kills:3d} killed {moment:.1f} s after run {arrived} was there: {kept}", flush=True)
                continue
            code = place.finish() or code
            place.look()
            print(f"    let finish with {before} runs there: exit code {code}", flush=True)
            places.append(Attempts(Path(tempfile.mkdtemp(dir=parent)), options.effort))
        code = places[-1].finish() or code
        places[-1].look()
        lost, half = sum(place.lost for place in places), sum(place.half for place in places)
        print(f"last attempt left with {code}; {lost} finished runs lost or done twice, {half} half files")
    return 1 if lost or half or code else 0


class Attempts:
    """One folder, and the commands that work in it one after the other.

    Args:
        folder: Of the record.
        effort: Of the command.
    """

    def __init__(self, folder: Path, effort: str) -> None:
        self._folder = folder
        self._command = [sys.executable, "-m", "normscope", "why", "--effort", effort, "--out", str(folder)]
        self.kept: dict[str, int] = {}
        self.lost = self.half = 0

    def _start(self) -> subprocess.Popen[bytes]:
        silent = subprocess.DEVNULL
        return subprocess.Popen(self._command, stdout=silent, stderr=silent, start_new_session=True)

    def finish(self) -> int:
        """Run the command to its end; its exit code. What a kill left aside must be gone then."""
        code = self._start().wait()
        self.half += len(list(self._folder.rglob(".*")))
        return code

    def kill_after(self, arrived: int, moment: float) -> bool:
        """Start the command; kill it and all of its workers `moment` seconds after so many runs are there.

        False where it had finished by then.
        """
        process = self._start()
        while process.poll() is None and sum(1 for _ in self._folder.glob("runs/*.json")) < arrived:
            time.sleep(0.02)
        deadline = time.monotonic() + moment
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if process.poll() is not None:
            return False
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True

    def look(self) -> dict[str, int]:
        """Every finished run with its time stamp; counts those that are gone or were written again, and half files."""
        found = {path.name: path.stat().st_mtime_ns for path in self._folder.glob("runs/*.json")}
        self.lost += sum(found.get(name) != stamp for name, stamp in self.kept.items())
        self.half += sum(not _whole(path) for path in self._folder.rglob("*.json"))
        self.half += sum("</html>" not in page.read_text(encoding="utf-8") for page in self._folder.glob("*.html"))
        self.kept = found
        return found


def _whole(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())

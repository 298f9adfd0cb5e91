"""Claim: a killed `normscope why` loses no finished run, leaves no half-written file, and goes on where it was.

    python benchmarks/kill.py --kills 20

Sends SIGKILL to the whole process group at seeded random instants, looks at every file after each, and lets the last
attempt finish. A first command, left alone, says how long the whole work takes. Each attempt is killed at an instant
between .5 s after its start and the end of what is left of that work; an attempt that finishes before its instant
begins the work anew in an empty folder, so that every kill is one in the middle of something.
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
        kills, wrong, place = 0, [0, 0], Attempts(Path(tempfile.mkdtemp(dir=parent)), options.effort)
        while kills < options.kills:
            before = len(place.kept)
            # What comes after the last run (the page) is a part of the work too.
            left = 0.15 + 0.85 * (1 - before / max(1, runs))
            instant = draw.uniform(0.5, max(4.0, left * seconds))
            killed = place.kill_after(instant)
            found = place.look()
            state = f"killed after {instant:4.1f} s" if killed else "finished before its kill"
            kept = f"{len(found)} of {runs} runs kept ({len(found) - before} new)"
            print(f"{kills + killed:3d} {state}: {kept}", flush=True)
            kills += killed
            if not killed:
                wrong = [a + b for a, b in zip(wrong, (place.lost, place.half), strict=True)]
                place = Attempts(Path(tempfile.mkdtemp(dir=parent)), options.effort)
        code = place.finish() or code
        place.look()
        lost, half = (a + b for a, b in zip(wrong, (place.lost, place.half), strict=True))
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
        """Run the command to its end; its exit code."""
        return self._start().wait()

    def kill_after(self, seconds: float) -> bool:
        """Start the command and kill it and all of its workers; False where it had finished."""
        process = self._start()
        deadline = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
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

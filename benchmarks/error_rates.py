"""Claim: no claim's protocol is wrong more often than 5 %, and effects of interest are found.

    python benchmarks/error_rates.py --cases 1500 --pool 32 --out benchmarks/results/error_rates.json

Every claim's whole protocol, choice of learning rates included, on null and planted cases put together from a pool of
real, independently seeded trainings. The pool is kept under --keep, so that an interrupted command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed

from normscope.records import write_atomic
from normscope.why import calibrate, registry, study
from normscope.why.job import Job, Numbers
from normscope.why.store import Store
from normscope.why.worker import work

COMMAND = (
    "python benchmarks/error_rates.py --cases {cases} --pool {pool} --seeds {seeds}"
    " --out benchmarks/results/error_rates.json"
)

TEXT = """# How often the claims' protocols err

Measured, not asserted: each claim's whole protocol, choice of learning rates included, on {cases} cases of each
kind, put together from a pool of {pool} real, independently seeded trainings for each arm ({seeds} seeds a
case).

- *No effect*: runs of one and the same arm stand under every label; arms of one seed share its split and
  initialization and differ in the order of the examples. Support is wrong. A refutation is wrong where it rests on an
  effect in the other direction: an interval on the side against the claim that is not wholly inside the smallest
  effect of interest. (One that is wholly inside refutes a claim of an effect of interest, and rightly so.)
- *Reversed*, for the cases of no effect: how often the headline interval lay on the side against the claim,
  whatever the verdict; 2.5 % is nominal for a fixed comparison. Where labels choose their learning rates, two of
  them choose different ones now and then, and a real difference, smaller than the smallest effect, is what is found.
- *1 and 2 times the smallest effect*: an arm with an effect of about that size, by real training, stands under
  the treated label. Refutation is wrong; the share of supported cases is the power; in brackets that of the first
  regime alone, since a verdict needs all of its regimes to agree.
- For the two claims that something agrees with theory (`mini-batch-noise`, `additive-and-multiplicative`) it is
  the other way round: with nothing planted refutation is wrong; with a departure planted support is wrong, and
  the share of refuted cases is the power. A departure of exactly the margin is the hardest case there is.

The bound is the upper 95 % bound (Clopper-Pearson) of the larger error rate.

| claim | planted | median effect | wrong | bound | reversed | power |
|---|---|---|---|---|---|---|
{rows}

Made by

    {command}

with torch {torch} on {processor}. The same command takes a `--claims` list, and adds to what is there.
"""


def main() -> int:
    """Measure, print the table, write the JSON; 1 where a bound is above 5 %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1500)
    parser.add_argument("--pool", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--claims", default="")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, default=Path("runs/error_rates"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    keys = [key for key in options.claims.split(",") if key] or list(registry.KEYS)
    task = study.look(study.Options(jobs=options.jobs))
    store = Store(options.keep, study.salt(task))
    pool = calibrate.pool_of(options.pool, max(4, options.pool // 3))
    plan = calibrate.plan_of(pool, options.seeds)
    found: list[calibrate.Rate] = []
    start = time.monotonic()
    with Parallel(n_jobs=options.jobs, return_as="generator_unordered", pre_dispatch="all") as parallel:

        def execute(jobs: list[Job]) -> list[tuple[Job, list[Numbers]]]:
            kept = [(job, store.load(job)) for job in jobs]
            done = [(job, found[0]) for job, found in kept if found is not None]
            missing = [job for job, found in kept if found is None]
            for spec, members, seconds in parallel(delayed(work)(task, job.spec()) for job in missing):
                job = Job.of(spec)
                store.save(job, members, seconds)
                done.append((job, members))
            print(f"  {len(missing)} jobs trained, {len(jobs) - len(missing)} kept", file=sys.stderr, flush=True)
            return done

        for key in keys:
            claim = registry.claim(key)
            if claim.calibration is None:
                print(f"{key}: no calibration", file=sys.stderr)
                continue
            found += calibrate.calibrate(claim, task, plan, pool, options.cases, execute)
            _print(found[-1 - len(claim.calibration.planted) :])
    bad = [rate for rate in found if rate.bound > 0.05]
    print(f"{time.monotonic() - start:.0f} s; {len(bad)} bounds above 5 %")
    if options.out:
        settings = {"cases": options.cases, "pool": options.pool, "seeds": options.seeds}
        rates = _merged(options.out, settings, found)
        body = {
            "command": COMMAND.format(**settings),
            "settings": settings,
            "versions": study.versions(task),
            "rates": rates,
        }
        write_atomic(options.out, json.dumps(body, indent=1))
        write_atomic(Path("docs/error_rates.md"), _document(body))
    return 1 if bad else 0


def _merged(path: Path, settings: dict[str, int], found: list[calibrate.Rate]) -> list[dict[str, Any]]:
    """`found` beside what `path` holds of other claims under the same settings, in the order of the claims."""
    new = [dataclasses.asdict(rate) | {"wrong": rate.wrong, "bound": rate.bound, "power": rate.power} for rate in found]
    done = {rate.claim for rate in found}
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"settings": None, "rates": []}
    kept = [rate for rate in old["rates"] if rate["claim"] not in done and old["settings"] == settings]
    return sorted(kept + new, key=lambda rate: (registry.KEYS.index(rate["claim"]), rate["planted"]))


def _document(body: dict[str, Any]) -> str:
    """The table as a document, from the JSON alone."""
    rows = []
    for rate in body["rates"]:
        kind = "no effect" if rate["planted"] == 0 else f"{rate['planted']:g} x the smallest effect"
        wrong = "; ".join(f"{name} {count / rate['cases']:.1%}" for name, count in rate["wrong"].items())
        power = "" if rate["power"] is None else f"{rate['power']:.0%}"
        if power and not rate["equivalence"]:
            power += f" ({rate['leading'] / rate['cases']:.0%})"
        turned = "" if rate["planted"] or rate["equivalence"] else f"{rate['reversed'] / rate['cases']:.1%}"
        cells = (f"`{rate['claim']}`", kind, f"{rate['effect']:.3g}", wrong, f"{rate['bound']:.1%}", turned, power)
        rows.append(f"| {' | '.join(cells)} |")
    return TEXT.format(rows="\n".join(rows), **body["settings"], command=body["command"], **body["versions"])


def _print(rates: list[calibrate.Rate]) -> None:
    for rate in rates:
        kind = "no effect" if rate.planted == 0 else f"{rate.planted:g}x smallest"
        wrong = ", ".join(f"{name} {count / rate.cases:.1%}" for name, count in rate.wrong.items())
        power = "" if rate.power is None else f"  power {rate.power:.0%} (first regime {rate.leading / rate.cases:.0%})"
        print(
            f"{rate.claim:34s} {kind:12s} {rate.cases:4d} cases  median effect {rate.effect:8.4g}  {wrong}"
            f"  bound {rate.bound:.1%}{power}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())

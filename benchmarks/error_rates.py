"""Claim: no claim's protocol is wrong more often than 5 %, and effects of interest are found.

    python benchmarks/error_rates.py --cases 300 --pool 48 --out benchmarks/results/error_rates.json

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

from joblib import Parallel, delayed

from normscope.records import write_atomic
from normscope.why import calibrate, registry, study
from normscope.why.job import Job, Numbers
from normscope.why.store import Store
from normscope.why.worker import work


def main() -> int:
    """Measure, print the table, write the JSON; 1 where a bound is above 5 %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--pool", type=int, default=48)
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
    bad = [rate for rate in found if _worst(rate) > 0.05]
    print(f"{time.monotonic() - start:.0f} s; {len(bad)} bounds above 5 %")
    if options.out:
        body = {
            "command": " ".join(["python", *sys.argv]),
            "settings": {"cases": options.cases, "pool": options.pool, "seeds": options.seeds},
            "versions": study.versions(),
            "rates": [dataclasses.asdict(rate) | {"worst_upper": _worst(rate)} for rate in found],
        }
        write_atomic(options.out, json.dumps(body, indent=1))
    return 1 if bad else 0


def _worst(rate: calibrate.Rate) -> float:
    """Upper bound of the error rate: false support and reversal of a null, refutation of a planted effect."""
    if rate.planted == 0:
        return max(rate.upper(rate.supported), rate.upper(rate.reversed))
    return rate.upper(rate.refuted if rate.planted >= 1 else 0)


def _print(rates: list[calibrate.Rate]) -> None:
    for rate in rates:
        kind = "null" if rate.planted == 0 else f"{rate.planted:g}x smallest"
        print(
            f"{rate.claim:34s} {kind:12s} {rate.cases:4d} cases  supported {rate.supported / rate.cases:6.1%}"
            f"  refuted {rate.refuted / rate.cases:6.1%}  reversed {rate.reversed / rate.cases:6.1%}"
            f"  bound {_worst(rate):6.1%}  mean effect {rate.effect:.3g}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())

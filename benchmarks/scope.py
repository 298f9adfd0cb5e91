"""Claim: Scope with the moment probes on every layer at every step costs under 2 % of a training step.

The step is that of a ResNet-18 for 32 x 32 images at batch 64. Steps with and without Scope alternate, so that both
see the same machine. Each costlier probe is timed once beside it, and
`import normscope` is held against `import torch` (claim: under 1.2 x).

    python benchmarks/scope.py              writes benchmarks/results/scope.json, about two minutes
    python benchmarks/scope.py --render     puts the file's table into docs/scope.md

Before anything is timed, the moments that Scope reads are checked against float64.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from scipy.stats import t
from torch import Tensor, nn

import normscope
from normscope.model.attach import before_forward
from normscope.model.find import find
from normscope.probes.catalog import PROBES
from normscope.why.study import processor

if TYPE_CHECKING:
    from collections.abc import Callable

MOMENTS = ("moments", "drift", "range")
LIMIT_SCOPE, LIMIT_IMPORT = 0.02, 1.2
# Share of its threads that a step gets on a machine with nothing else to do, at least.
BUSY = 0.9
_AT_MOST = "share_of_a_step_at_most"
RESULTS = Path(__file__).resolve().parent / "results" / "scope.json"
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "scope.md"
BEGIN, END = "<!-- cost: python benchmarks/scope.py --render -->", "<!-- end of cost -->"


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch norm and a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """One residual block."""
        y = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(y)) + self.shortcut(x)).relu()


def resnet18() -> nn.Sequential:
    """ResNet-18 with the stem of the CIFAR variant: 20 batch-norm layers, 11.2 M parameters."""
    widths = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    blocks = [Block(*width) for width in [*widths, (512, 512, 1)]]
    stem = (nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class Spent(NamedTuple):
    """Time that passed: on the clock, and of the processor, which other work on the machine does not change."""

    clock: float
    processor: float

    @classmethod
    def now(cls) -> Spent:
        """Both clocks."""
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.clock - other.clock, self.processor - other.processor)


def median(spent: list[Spent]) -> Spent:
    """The median of each."""
    return Spent(*(statistics.median(times) for times in zip(*spent, strict=True)))


class Training:
    """One network, batch and optimizer, with the closure that Scope takes."""

    def __init__(self, device: str) -> None:
        torch.manual_seed(0)
        self.model = resnet18().to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.x = torch.randn(64, 3, 32, 32, device=device)
        self.y = torch.randint(10, (64,), device=device)

    def loss(self) -> Tensor:
        """Loss of the batch."""
        return nn.functional.cross_entropy(self.model(self.x), self.y)

    def step(self, scope: normscope.Scope | None) -> Spent:
        """One training step, Scope's part included."""
        self._wait()
        start = Spent.now()
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()
        if scope is not None:
            scope.step()
        self._wait()
        return Spent.now() - start

    def _wait(self) -> None:
        if self.x.is_cuda:
            torch.cuda.synchronize()


def verify(training: Training) -> float:
    """Largest error of Scope's moments against float64, in deviations; raises above 1e-4."""
    expected: dict[str, tuple[Tensor, Tensor]] = {}

    def enter(layer: object, _module: object, x: Tensor) -> None:
        rows = x.detach().double().movedim(1, 0).flatten(1)
        expected[layer.name] = (rows.mean(1), rows.std(1, correction=0))

    layers = find(training.model).layers
    with before_forward(layers, enter), normscope.Scope(training.model, probes=MOMENTS) as scope:
        training.step(scope)
    worst = 0.0
    for name, (mean, deviation) in expected.items():
        seen = scope.moments[name]
        errors = (seen.mean - mean.cpu()).abs(), (seen.deviation() - deviation.cpu()).abs()
        worst = max(worst, *(float((error / deviation.cpu()).max()) for error in errors))
    if not worst < 1e-4 or len(expected) != len(layers):
        raise SystemExit(f"moments are wrong by {worst} deviations: no speed claim on a red gate")
    return worst


class Stopwatch:
    """Time spent inside of the functions that it wraps, by the one thread that calls them."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Start again from nothing."""
        self.clock = self.processor = 0.0

    def wrap(self, function: Callable[..., object]) -> Callable[..., object]:
        """`function`, timed."""

        def call(*args: object, **kwargs: object) -> object:
            clock, processor = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.clock += time.perf_counter() - clock
                self.processor += time.thread_time() - processor

        return call


def moments_share(training: Training, steps: int) -> dict[str, Any]:
    """Steps with the moment probes over steps without, in pairs of changing order; and the time in Scope's own code.

    The second decides: whole steps differ by more than what is sought. Scope runs on one thread, and a step takes at
    least its processor time over its threads, so that 'at most' bounds the share on the clock; on a GPU the clock
    decides. The ratio of whole steps stands beside it, with its 95 % interval over the pairs, and may not contradict.
    """
    scope, watch = normscope.Scope(training.model, probes=MOMENTS), Stopwatch()
    collector = scope._collector  # there is no other way to time its hooks
    collector._seen, collector._after = watch.wrap(collector._seen), watch.wrap(collector._after)
    scope.step = watch.wrap(scope.step)
    with scope:
        training.step(scope)  # the look for functional calls and the first moments are not every step's
    plain, scoped, inside = [], [], []
    for index in range(steps):
        for with_scope in (True, False) if index % 2 else (False, True):
            if not with_scope:
                plain.append(training.step(None))
                continue
            with scope:
                watch.clear()
                scoped.append(training.step(scope))
                inside.append(Spent(watch.clock, watch.processor))
    step, own = median(plain), median(inside)
    return {
        "steps_of_each_kind": steps,
        "share_of_the_threads_that_a_step_got": step.processor / (step.clock * torch.get_num_threads()),
        "step_s": step.clock,
        "step_processor_s": step.processor,
        **whole(plain, scoped),
        "inside_scope_s": own.clock,
        "inside_scope_processor_s": own.processor,
        "share_of_a_step": own.clock / step.clock,
        _AT_MOST: own.processor / (step.processor / torch.get_num_threads()),
    }


def whole(plain: list[Spent], scoped: list[Spent]) -> dict[str, list[float]]:
    """Ratio of whole steps, by either clock: geometric mean over the pairs, and its 95 % interval by Student's t."""
    found = {}
    for name, clock in (("whole_step_ratio", 0), ("whole_step_ratio_processor", 1)):
        logs = [math.log(one[clock] / other[clock]) for one, other in zip(scoped, plain, strict=True)]
        half = statistics.stdev(logs) / len(logs) ** 0.5 * float(t.ppf(0.975, len(logs) - 1))
        middle = statistics.fmean(logs)
        found[name] = [math.exp(value) for value in (middle, middle - half, middle + half)]
    return found


def costlier(training: Training, step: float) -> dict[str, float]:
    """Each probe that runs the closure, once: its processor time in training steps of `step` processor seconds."""
    out = {}
    for name in PROBES:
        if name in MOMENTS:
            continue
        with normscope.Scope(training.model, loss=training.loss, optimizer=training.optimizer, probes=(name,)) as scope:
            taken = training.step(scope)
        out[name] = max(0.0, taken.processor - step) / step
        print(f"  {name}: {out[name]:.1f} training steps", file=sys.stderr, flush=True)
    return out


def import_ratio(repeats: int = 3) -> dict[str, float]:
    """Processor time of `import normscope`, and of first uses that bring torch in, over `import torch`; alternating."""
    codes = ("import torch", "import normscope", "import normscope; normscope.nn", "import normscope; normscope.Scope")
    seconds: dict[str, list[float]] = {code: [] for code in codes}
    for _ in range(repeats):
        for code, times in seconds.items():
            before = os.times()
            subprocess.run([sys.executable, "-c", code], check=True)
            after = os.times()
            times.append(sum(after[2:4]) - sum(before[2:4]))
    reference = statistics.median(seconds["import torch"])
    return {code: statistics.median(times) / reference for code, times in seconds.items()}


def main() -> None:
    """Verify, time, print, and fail if a claim does not hold; or show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="steps of each kind, with and without Scope")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--render", action="store_true")
    options = parser.parse_args()
    if options.render:
        render(json.loads(options.json.read_text(encoding="utf-8")))
        return
    torch.set_num_threads(options.threads)
    training = Training(options.device)
    error, share = verify(training), moments_share(training, options.steps)
    result = {
        "network": "ResNet-18, 32 x 32, batch 64",
        "device": options.device,
        "threads": options.threads,
        "processor": processor(),
        "torch": torch.__version__,
        "largest_error_of_the_moments": error,
        "moments_on_every_layer_at_every_step": share,
        "costlier_probes_in_training_steps": costlier(training, share["step_processor_s"]),
        "import": import_ratio(),
    }
    text = json.dumps(result, indent=1)
    print(text)
    options.json.write_text(text + "\n", encoding="utf-8")
    deciding = share["share_of_a_step" if training.x.is_cuda else _AT_MOST]
    held = max(deciding, share["whole_step_ratio"][1] - 1) < LIMIT_SCOPE
    held &= max(result["import"].values()) < LIMIT_IMPORT
    if share["share_of_the_threads_that_a_step_got"] < BUSY and not training.x.is_cuda:
        print("other work took processor time from the steps: measure again on a quiet machine", file=sys.stderr)
    print(f"claims {'hold' if held else 'FAIL'}")
    raise SystemExit(0 if held else 1)


def table(result: dict[str, Any]) -> str:
    """What was measured, as a table for people."""
    share, costly = result["moments_on_every_layer_at_every_step"], result["costlier_probes_in_training_steps"]
    whole = {key: "{:.3f} [{:.3f}, {:.3f}]".format(*share[f"whole_step_ratio{key}"]) for key in ("", "_processor")}
    where = f"{result['device']}, {result['threads']} threads, {result['processor']}, torch {result['torch']}"
    lines = [
        f"{result['network']}; {where}. `moments`, `drift` and `range` on every layer at every step:",
        "",
        "| | |",
        "|---|---|",
        f"| a training step | {share['step_s']:.3f} s |",
        f"| in `Scope`, on the clock | {1000 * share['inside_scope_s']:.1f} ms, {share['share_of_a_step']:.2%} |",
        f"| its processor time, over that of a step at full use of the threads | {share[_AT_MOST]:.2%} |",
        f"| whole steps with `Scope` over steps without [95 % interval], on the clock | {whole['']} |",
        f"| the same in processor time | {whole['_processor']} |",
        "",
        "One look of a costlier probe:",
        "",
        "| probe | training steps |",
        "|---|---|",
        *(f"| `{name}` | {steps:.1f} |" for name, steps in costly.items()),
        "",
        "| first use | times `import torch` |",
        "|---|---|",
        *(f"| `{code}` | {ratio:.2f} |" for code, ratio in result["import"].items() if code != "import torch"),
    ]
    return "\n".join(lines)


def render(result: dict[str, Any]) -> None:
    """Put the table between the document's marks."""
    before, rest = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table(result)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Claim: a network folded by `normscope.fold` is as fast as one whose pairs torch.nn.utils.fusion fused.

Eval-mode forwards of the architectures of the benchmark of faults and of a transformers ResNet, batch 64, in turns: as
trained, fused by torch's functions pair by pair, folded. Ratios are medians over rounds, and their quartiles; both
outputs are first compared with those of the network as it was. torch.nn.utils.fusion is told which pairs to fuse,
which is what fold finds out.

    pip install transformers
    python benchmarks/fold.py
"""

import copy
import statistics
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "faults"))

import networks
import public
import torch
import training
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

import normscope
from normscope.model.batch import output_of
from normscope.surgery.fold import pairs_of

ROUNDS, SECONDS = 41, 0.02
HEAD = """| network | pairs | milliseconds as trained | folded | by torch | folded / by torch | quartiles |
|---|---|---|---|---|---|---|"""


def fused(model):
    """A copy with every pair fused by torch's own functions."""
    twin = copy.deepcopy(model).eval()
    for norm, linear in pairs_of(twin).items():
        source, layer = twin.get_submodule(linear), twin.get_submodule(norm)
        fuse = fuse_linear_bn_eval if isinstance(source, nn.Linear) else fuse_conv_bn_eval
        twin.set_submodule(linear, fuse(source, layer))
        twin.set_submodule(norm, nn.Identity())
    return twin


def subjects():
    x = training.digits()[2][:64]
    for name in networks.ALL:
        if name != "dense":  # nothing in it can be folded
            yield name, training.healthy(name).eval(), x
    yield "transformers resnet", public.network("resnet").eval(), public.images(2, 32)[0][:64].contiguous()


def seconds(model, x, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        model(x)
    return (time.perf_counter() - start) / repeats


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    public.tf.logging.set_verbosity_error()
    print(HEAD)
    for name, model, x in subjects():
        result = normscope.fold(model)
        rivals = (model, result.model.eval(), fused(model))
        with torch.no_grad():
            wanted = output_of(model(x))
            for other in rivals[1:]:
                torch.testing.assert_close(output_of(other(x)), wanted, rtol=1e-3, atol=1e-4)
            repeats = max(1, round(SECONDS / seconds(model, x, 5)))
            rows = [[seconds(one, x, repeats) for one in rivals] for _ in range(ROUNDS)]
        low, middle, high = statistics.quantiles([row[1] / row[2] for row in rows], n=4)
        trained, folded, torchs = (1e3 * statistics.median(part) for part in zip(*rows, strict=True))
        print(
            f"| {name} | {len(result.changes)} | {trained:.2f} | {folded:.2f} | {torchs:.2f} | {middle:.3f} |"
            f" {low:.2f}, {high:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

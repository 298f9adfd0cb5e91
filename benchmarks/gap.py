"""Claim: the split of the gap gives causes that were planted in known amounts these amounts, and adds up exactly.

One batch-norm layer on normal data, dropout behind it, and the mean fourth power of the output as loss, which theory
gives for every subset of causes: (m4 + 6 d^2 + d^4) / keep^3, m4 = 3 (B - 1) / (B + 1) by a mini-batch's own
statistics and 3 by the population's, d the offset of the mean in deviations. The planted share of a cause is the
Shapley value of that formula; the share found has an interval over batches. Every channel of the data has mean 0 and
variance 1 exactly, so that what was planted is what is there.

    python benchmarks/gap.py
"""

import itertools
import math

import torch
from torch import nn

from normscope.check.gap import DROPOUT, SMALL, gap
from normscope.check.offsets import IMPOSSIBLE, SHIFT, STALE

BATCH, BATCHES, CHANNELS = 8, 500, 64
KEEP, OFF, SHIFTED, BROKEN = 0.9, 0.5, 0.4, 6.0
CAUSES = (SMALL, STALE, IMPOSSIBLE, SHIFT, DROPOUT)


def expected(thrown):
    """The loss by theory, with the causes of `thrown` in their eval state."""
    m4 = 3.0 if SMALL in thrown else 3 * (BATCH - 1) / (BATCH + 1)
    total = 0.0
    for channel in range(CHANNELS):
        broken = channel == 0
        d = SHIFTED * (SHIFT in thrown) + (BROKEN * (IMPOSSIBLE in thrown) if broken else OFF * (STALE in thrown))
        total += (m4 + 6 * d**2 + d**4) / CHANNELS
    return total * (1.0 if DROPOUT in thrown else KEEP**-3)


def planted():
    """Shapley value of every cause."""
    n, shares = len(CAUSES), dict.fromkeys(CAUSES, 0.0)
    for cause in CAUSES:
        others = [other for other in CAUSES if other != cause]
        for size in range(n):
            weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
            for subset in itertools.combinations(others, size):
                shares[cause] += weight * (expected({*subset, cause}) - expected(subset))
    return shares


def data(seed, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCHES * BATCH, CHANNELS, generator=generator, dtype=torch.float64)
    x = ((x - x.mean(0)) / x.std(0, correction=0)).float().view(BATCHES, BATCH, CHANNELS) + offset
    return [(part, torch.zeros(BATCH, CHANNELS)) for part in x]


def network():
    """With a stale mean in all channels but one, whose mean lies outside all values."""
    model = nn.Sequential(nn.BatchNorm1d(CHANNELS, affine=False), nn.Dropout(1 - KEEP))
    model[0].running_mean -= OFF
    model[0].running_mean[0] = -BROKEN
    return model


def fourth_power(output, _target):
    return output.double().pow(4).mean()


def main():
    torch.set_num_threads(1)
    found = gap(network(), data(1, SHIFTED), fourth_power, training=data(0))
    shares, whole = planted(), expected(CAUSES) - expected(())
    print("| cause | planted | found | 95 % interval |\n|---|---|---|---|")
    for share in found.causes:
        print(
            f"| {share.name} | {shares[share.name]:+.3f} | {share.value:+.3f} | {share.low:+.3f} to {share.high:+.3f} |"
        )
    assert found.evaluation is not None
    difference = found.evaluation - found.train
    total = math.fsum(share.value for share in found.causes)
    print(f"| all | {whole:+.3f} | {total:+.3f} | eval minus train mode: {difference:+.3f} |")
    print(f"\nShares and gap differ by {abs(total - difference):.1e}; {found.forwards} forward passes.")


if __name__ == "__main__":
    main()

"""Claim: in public architectures, trained properly, check finds nothing.

Architectures with batch norm from transformers' configurations, small and with random weights, looked at as they are
made, and after a few epochs on the embedded digits as 32 x 32 colour images, the rate falling to 0. Three of them are
made with momentum by TensorFlow's convention (.9997, .997, .99), which is to be found (BN012) and is set to .1 before
they are trained. Convolutions start as in He et al. and gammas at 1: from a deviation of .02, gammas of EfficientNet
included, networks this narrow have variances below eps, which check reports, rightly, and do not train.

    python benchmarks/faults/public.py [--only levit] [--epochs 3]
"""

import argparse
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
import training
import transformers as tf
from torch import nn

from normscope.check.run import check
from normscope.model.batch import Batch, output_of
from normscope.model.find import find

KERAS = {"BN012"}
# At 32 its last layers have one position, and the depthwise kernels one weight that sees any of it.
SIZES = {"MobileNetV1ForImageClassification": 64}
# Name: (configuration, model, what is wrong with it as it is made).
NETWORKS = {
    "resnet": (
        lambda: tf.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic"),
        "ResNetForImageClassification",
        set(),
    ),
    "resnet bottleneck": (
        lambda: tf.ResNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[2, 2]),
        "ResNetForImageClassification",
        set(),
    ),
    "mobilenet_v1": (
        lambda: tf.MobileNetV1Config(image_size=64, depth_multiplier=0.25, classifier_dropout_prob=0.0),
        "MobileNetV1ForImageClassification",
        KERAS,
    ),
    "mobilenet_v2": (
        lambda: tf.MobileNetV2Config(
            image_size=32, output_stride=16, depth_multiplier=0.35, classifier_dropout_prob=0.0
        ),
        "MobileNetV2ForImageClassification",
        KERAS,
    ),
    "efficientnet": (
        lambda: tf.EfficientNetConfig(
            image_size=32,
            width_coefficient=0.3,
            depth_coefficient=0.3,
            hidden_dim=384,
            dropout_rate=0.0,
            drop_connect_rate=0.0,
        ),
        "EfficientNetForImageClassification",
        KERAS,
    ),
    "regnet": (
        lambda: tf.RegNetConfig(embedding_size=16, hidden_sizes=[16, 32, 48], depths=[1, 1, 1], groups_width=8),
        "RegNetForImageClassification",
        set(),
    ),
    "levit": (
        lambda: tf.LevitConfig(
            image_size=32,
            hidden_sizes=[32, 48, 64],
            num_attention_heads=[2, 3, 4],
            depths=[1, 1, 1],
            key_dim=[8, 8, 8],
            drop_path_rate=0,
            patch_size=16,
        ),
        "LevitForImageClassification",
        set(),
    ),
    "cvt": (
        lambda: tf.CvtConfig(
            embed_dim=[16, 32, 64],
            num_heads=[1, 2, 4],
            depth=[1, 2, 3],
            drop_rate=[0.0] * 3,
            attention_drop_rate=[0.0] * 3,
            drop_path_rate=[0.0] * 3,
        ),
        "CvtForImageClassification",
        set(),
    ),
    "mobilevit": (
        lambda: tf.MobileViTConfig(
            image_size=32,
            hidden_sizes=[24, 32, 40],
            neck_hidden_sizes=[8, 16, 16, 24, 32, 40, 64],
            hidden_dropout_prob=0.0,
            classifier_dropout_prob=0.0,
        ),
        "MobileViTForImageClassification",
        set(),
    ),
    "mobilevitv2": (
        lambda: tf.MobileViTV2Config(image_size=32, width_multiplier=0.25, output_stride=16),
        "MobileViTV2ForImageClassification",
        set(),
    ),
    "swiftformer": (
        lambda: tf.SwiftFormerConfig(
            image_size=32, depths=[1, 1, 1, 1], embed_dims=[16, 24, 32, 48], drop_path_rate=0.0
        ),
        "SwiftFormerForImageClassification",
        set(),
    ),
    "hgnet_v2": (
        lambda: tf.HGNetV2Config(
            embedding_size=16,
            hidden_sizes=[16, 32, 48, 64],
            depths=[1, 1, 1, 1],
            stem_channels=[3, 8, 16],
            stage_in_channels=[16, 16, 32, 48],
            stage_mid_channels=[8, 8, 16, 16],
            stage_out_channels=[16, 32, 48, 64],
            stage_num_blocks=[1, 1, 1, 1],
            stage_numb_of_layers=[2, 2, 2, 2],
        ),
        "HGNetV2ForImageClassification",
        set(),
    ),
}


def network(name, seed=0):
    """One of `NETWORKS` for ten classes, random weights."""
    config, model, _ = NETWORKS[name]
    made = config()
    made.num_labels = 10
    torch.manual_seed(seed)
    network = getattr(tf, model)(made)
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out" if module.groups == 1 else "fan_in")
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.ones_(module.weight)
    return network


def images(at=0, size=32):
    """The digits as colour images of `size`, with targets: the training part, or at=2 the one held out."""
    x, y = training.digits()[at : at + 2]
    return nn.functional.interpolate(x, size=(size, size), mode="bilinear").expand(-1, 3, -1, -1), y


def batches(x, y, size=32):
    """Dicts, as transformers take them."""
    return [Batch((), {"pixel_values": xs}, ys) for xs, ys in zip(x.split(size), y.split(size), strict=True)]


def train(model, data, epochs, rate=2e-3):
    """Adam with a cosine; the optimizer, and what runs one step."""
    optimizer = torch.optim.Adam(model.parameters(), rate)

    def step(net, x, y, optimizer):
        optimizer.zero_grad()
        nn.functional.cross_entropy(output_of(net(pixel_values=x)), y).backward()
        optimizer.step()

    training.train(model, epochs, rate, data=data, step=step, optimizer=optimizer)
    return optimizer, step


def accuracy(model, x, y):
    with torch.no_grad():
        return float((output_of(model.eval()(pixel_values=x)).argmax(1) == y).double().mean())


def codes(report):
    """The codes of what was found, style apart."""
    return {finding.code for finding in report.findings if not finding.style}


def look(model, epochs):
    """Train a network and check it with everything that a rule could ask for: accuracy and report."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.1
    size = SIZES.get(type(model).__name__, 32)
    (x, y), held_out = images(0, size), images(2, size)
    optimizer, step = train(model, (x, y), epochs)
    return accuracy(model, *held_out), check(
        model,
        batches(x[:640], y[:640]),
        held_out=batches(*held_out, size=64),
        serving=batches(x[640:], y[640:]),
        optimizer=optimizer,
        step=lambda: step(model.train(), x[:32], y[:32], optimizer),
        max_forwards=64,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--epochs", type=float, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    tf.logging.set_verbosity_error()
    print(
        "| network | layers | found as made | expected | accuracy | found when trained | passes said, made | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, (_, _, expected) in NETWORKS.items():
        if given.only not in name:
            continue
        start = time.perf_counter()
        model = network(name)
        made = check(model)
        score, report = look(model, given.epochs)
        found, wrong = (", ".join(sorted(part)) or "none" for part in (codes(made), expected))
        print(
            f"| {name} | {len(find(model).layers)} | {found} | {wrong} | {score:.3f} |"
            f" {', '.join(sorted(codes(report))) or 'none'} | {report.planned}, {report.forwards} |"
            f" {time.perf_counter() - start:.0f} |",
            flush=True,
        )
        for f in report.findings:
            print(f"    {f.code} {f.layer}: {f.message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

import warnings

import pytest
import torch
from torch import nn

import normscope.nn
from normscope.errors import UnsupportedError
from normscope.model.find import canonical_name, find, is_compiled, kind_of


def names(model):
    return [layer.name for layer in find(model).layers]


def script(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(module)


def test_finds_torch_layers_and_subclasses_in_order(net):
    assert names(net) == ["1", "5"]
    assert [layer.kind for layer in find(net).layers] == ["torch", "torch"]
    assert [layer.channels for layer in find(net).layers] == [4, 3]


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.BatchNorm1d(3), "torch"),
        (nn.BatchNorm3d(3), "torch"),
        (nn.SyncBatchNorm(3), "torch"),
        (nn.LazyBatchNorm2d(), "torch"),
        (nn.BatchNorm2d(3, track_running_stats=False), "torch"),
        (normscope.nn.BatchNorm2d(3), "torch"),
        (nn.InstanceNorm2d(3, track_running_stats=True), None),
        (nn.LayerNorm(3), None),
        (nn.GroupNorm(1, 3), None),
    ],
)
def test_kinds_of_torch_modules(layer, kind):
    assert kind_of(layer) == kind


def test_foreign_layers_are_known_by_their_structure(kinds):
    model = nn.ModuleDict({name: kinds[name](4) for name in ("timm", "foreign", "frozen")})
    assert [(layer.name, layer.kind) for layer in find(model).layers] == [
        ("timm", "torch"),
        ("foreign", "foreign"),
        ("frozen", "frozen"),
    ]
    assert [layer.eps for layer in find(model).layers] == [1e-5, 1e-3, 1e-5]


def test_statistics_of_another_shape_are_no_batch_norm():
    module = nn.Module()
    module.register_buffer("running_mean", torch.zeros(3))
    module.register_buffer("running_var", torch.ones(4))
    assert kind_of(module) is None
    module.register_buffer("running_mean", torch.zeros(4, 1))
    module.register_buffer("running_var", torch.ones(4, 1))
    assert kind_of(module) is None


def test_a_shared_layer_is_listed_once_with_its_other_names():
    shared = nn.BatchNorm1d(3)
    (layer,) = find(nn.Sequential(shared, nn.ReLU(), shared)).layers
    assert layer.name == "0"
    assert layer.aliases == ("2",)


@pytest.mark.usefixtures("gloo")
def test_wrappers_do_not_change_names(net):
    plain = names(net)
    assert names(nn.DataParallel(net)) == plain
    assert names(nn.parallel.DistributedDataParallel(net)) == plain
    assert names(torch.compile(net, backend="eager")) == plain
    assert names(nn.DataParallel(torch.compile(net, backend="eager"))) == plain
    inside = nn.Sequential(nn.Identity(), torch.compile(nn.Sequential(nn.BatchNorm1d(3)), backend="eager"))
    assert names(inside) == ["1.0"]
    assert canonical_name("module._orig_mod.layer1.0.bn1") == "layer1.0.bn1"


def test_is_compiled_sees_every_way_to_compile(net):
    assert not is_compiled(net)
    assert is_compiled(torch.compile(net, backend="eager"))
    assert is_compiled(nn.Sequential(nn.Identity(), torch.compile(nn.BatchNorm1d(3), backend="eager")))
    net.compile(backend="eager")
    assert is_compiled(net)


def test_script_modules_are_named_once():
    model = nn.Sequential(nn.BatchNorm1d(3), script(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))))
    found = find(model)
    assert [layer.name for layer in found.layers] == ["0"]
    assert [part.name for part in found.unsupported] == ["1"]
    assert "ScriptModule" in found.unsupported[0].reason


def test_a_whole_script_module_is_unsupported_by_name():
    with pytest.raises(UnsupportedError, match=r"none that can be seen \(the network: a ScriptModule"):
        find(script(nn.Sequential(nn.BatchNorm1d(3)))).require()


def test_a_network_without_batch_norm_says_what_was_looked_for():
    with pytest.raises(UnsupportedError, match=r"at least one batch-norm layer, found none; normscope looks for"):
        find(nn.Linear(2, 2)).require()


def test_which_statistics_a_layer_would_use(kinds):
    def by_batch(module, *, training):
        module.train(training)
        return find(nn.Sequential(module)).layers[0].normalizes_by_batch

    assert by_batch(nn.BatchNorm1d(2), training=True)
    assert not by_batch(nn.BatchNorm1d(2), training=False)
    assert by_batch(nn.BatchNorm1d(2, track_running_stats=False), training=False)
    assert not by_batch(kinds["frozen"](2), training=True)

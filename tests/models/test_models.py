"""The networks: published numbers of parameters and flops, shapes, and samples that are too small."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from serial import Serial

from gridnn.errors import UserError
from gridnn.layers import AdaptiveAvgPool, Add, BatchNorm, Concat, GlobalAvgPool, Linear, SoftmaxCrossEntropy
from gridnn.layers.conv import Conv
from gridnn.models import MODELS, WITH_DROPOUT, get_model
from gridnn.models.summary import summarize, summarize_layers
from gridnn.network import INPUT
from gridnn.train.config import RunConfig
from gridnn.train.setup import prepare_run

NAMES = (
    "mlp lenet alexnet alexnet-onetower alexnet-cifar vgg11 vgg13 vgg16 vgg19 vgg11-cifar vgg16-cifar resnet18 "
    "resnet34 resnet50 resnet101 resnet18-cifar inception-v3 cosmoflow unet3d"
)
VOLUMES = ("cosmoflow", "unet3d")
# of Inception-v3, which ours lacks: two convolutions with norms, and a fully connected layer
SECOND = 768 * 128 + 2 * 128 + 25 * 128 * 768 + 2 * 768 + 768 * 1000 + 1000
PUBLISHED = {  # for the input and the classes of `MODELS`; torchvision's where nothing else is said
    "lenet": 61_706,
    "alexnet": 60_965_224,
    "alexnet-onetower": 61_100_840,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet18-cifar": 11_173_962,
    "inception-v3": 27_161_264 - SECOND,
    "vgg11-cifar": 9_220_480 + 2 * (512 * 512 + 512) + 5_130,
    "vgg16-cifar": 14_714_688 + 2 * (512 * 512 + 512) + 5_130,
}
GMACS = {  # as torchvision lists them for its weights
    "alexnet-onetower": 0.714,
    "vgg11": 7.609,
    "vgg13": 11.308,
    "vgg16": 15.470,
    "vgg19": 19.632,
    "resnet18": 1.814,
    "resnet34": 3.664,
    "resnet50": 4.089,
    "resnet101": 7.801,
    "inception-v3": 5.713,
}


def shipped(name, **options):
    model = MODELS[name]
    widths = {"widths": (128, 128)} if name == "mlp" else {}
    return get_model(name, model.input_shape, model.outputs, **widths, **options)


def test_the_names():
    assert list(MODELS) == NAMES.split()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameters(name):
    net = shipped(name)
    assert (net.parameter_count, net.shapes[net.output]) == (PUBLISHED[name], (MODELS[name].outputs,))
    net.add("loss", SoftmaxCrossEntropy())
    assert net.loss.name == "loss"


@pytest.mark.parametrize(
    ("name", "shape", "options", "count"),
    [
        ("mlp", (784,), {"widths": (512, 512, 512)}, 784 * 512 + 2 * 512 * 512 + 3 * 512 + 512 * 10 + 10),
        ("mlp", (28, 28, 1), {"widths": (100,)}, 784 * 100 + 100 + 100 * 10 + 10),
        ("mlp", (7,), {"widths": ()}, 80),
        ("lenet", (32, 32, 1), {}, 61_706),
        ("lenet", (8, 8, 1), {}, 156 + 2_416 + (64 * 120 + 120) + 10_164 + 850),
        ("alexnet-cifar", (32, 32, 3), {}, 23_272_266),
    ],
)
def test_parameters_of_other_sizes(name, shape, options, count):
    net = get_model(name, shape, 10, **options)
    assert (net.parameter_count, net.shapes[net.output]) == (count, (10,))


def test_alexnet_of_2012():
    """The weights of every layer without biases, and both sizes of the images."""
    wanted = [34_848, 307_200, 884_736, 663_552, 442_368, 37_748_736, 16_777_216, 4_096_000]
    for size in (224, 227):
        net = get_model("alexnet", (size, size, 3), 1000)
        rows = [row.weights for row in summarize_layers(net) if row.weights]
        assert (rows, sum(rows)) == (wanted, 60_954_656)
        sizes = {"conv1": 55, "pool1": 27, "pool2": 13, "conv5": 13, "pool3": 6}
        assert {name: net.shapes[name][0] for name in sizes} == sizes
    assert get_model("alexnet", (256, 256, 3), 10).shapes["flatten"] == (6 * 6 * 256,)


def test_alexnet_normalises_as_the_paper_says():
    """b = a / (2 + 1e-4 * sum over 5 channels of a**2) ** 0.75, section 3.3."""
    layer = next(node.layer for node in shipped("alexnet").nodes if node.name == "norm1")
    a = np.random.default_rng(0).normal(scale=50, size=(1, 2, 2, 9))
    squares = np.pad(a * a, ((0, 0),) * 3 + ((2, 2),))
    sums = sum(squares[..., i : i + 9] for i in range(5))
    np.testing.assert_allclose(Serial(layer, a.shape).forward(a), a / (2 + 1e-4 * sums) ** 0.75, rtol=1e-12)


def test_unet_counts_as_the_paper_does():
    """19,069,955: weights and one bias a convolution, here the shift of its norm; the scales of the norms on top."""
    net = get_model("unet3d", (32, 16, 24, 3), 3)
    scales = sum(net.shapes[node.name][-1] for node in net.nodes if isinstance(node.layer, BatchNorm))
    assert (net.parameter_count - scales, scales) == (19_069_955, 2_336)
    assert net.shapes[net.output] == (32, 16, 24, 3)
    widths = [net.shapes[node.name][-1] for node in net.nodes if isinstance(node.layer, Conv)]
    assert widths == [32, 64, 64, 128, 128, 256, 256, 512, 256, 256, 128, 128, 64, 64, 3]


@pytest.mark.parametrize(("side", "stages"), [(4, 2), (31, 4), (32, 5), (64, 5), (128, 5), (512, 5)])
def test_cosmoflow_stages(side, stages):
    net = get_model("cosmoflow", (side, side, side, 4), 4)
    widths = [net.shapes[node.name][-1] for node in net.nodes if isinstance(node.layer, Conv)]
    assert widths == [32, 64, 128, 256, 512][:stages]
    assert net.shapes[f"pool{stages}"][:3] == (side >> stages,) * 3


def test_cosmoflow_parameters():
    convolutions = sum(27 * i * o + o for i, o in ((4, 32), (32, 64), (64, 128), (128, 256), (256, 512)))
    dense = 4**3 * 512 * 128 + 128 + 128 * 64 + 64 + 64 * 4 + 4
    assert shipped("cosmoflow").parameter_count == convolutions + dense == 8_907_556


@pytest.mark.parametrize("name", GMACS)
def test_published_flops(name):
    """Multiplications and additions of convolutions and fully connected layers; the others add less than a tenth."""
    rows = summarize_layers(shipped(name))
    products = sum(row.flops for row in rows if row.weights)
    assert products / 2e9 == pytest.approx(GMACS[name], abs=6e-4)
    assert products <= sum(row.flops for row in rows) < 1.1 * products


@pytest.mark.parametrize("name", MODELS)
def test_summary_is_that_of_the_network(name):
    net = shipped(name)
    total, double = summarize(name, net), summarize(name, net, 2)
    assert (total.parameters, total.flops, total.layers) == (net.parameter_count, net.flops(1), len(net.nodes))
    assert total.weights <= total.parameters
    assert (double.flops, double.activations) == (2 * total.flops, 2 * total.activations)
    assert dataclasses.replace(double, flops=0, activations=0) == dataclasses.replace(total, flops=0, activations=0)


def test_lenet_on_digits():
    """8 x 8 images: the second convolution is padded, and leaves 2 x 2 x 16."""
    shapes = get_model("lenet", (8, 8, 1), 10).shapes
    assert [shapes[name] for name in ("conv1", "pool1", "conv2", "pool2")] == [
        (8, 8, 6),
        (4, 4, 6),
        (4, 4, 16),
        (2, 2, 16),
    ]
    assert get_model("lenet", (20, 20, 1), 10).shapes["conv2"] == (6, 6, 16)


def test_alexnet_cifar_shapes():
    shapes = get_model("alexnet-cifar", (32, 32, 3), 10).shapes
    sizes = {"conv1": 16, "pool1": 8, "conv2": 8, "pool2": 4, "conv5": 4, "pool3": 2}
    assert {name: shapes[name][0] for name in sizes} == sizes
    assert shapes["flatten"] == (2 * 2 * 256,)


@pytest.mark.parametrize("name", ["alexnet", "alexnet-onetower", "vgg16"])
def test_other_sizes_are_averaged_before_the_classifier(name):
    def pools(size):
        return [n.layer for n in get_model(name, (size, size, 3), 10).nodes if isinstance(n.layer, AdaptiveAvgPool)]

    assert pools(224) == []
    assert len(pools(160)) == len(pools(300)) == 1
    assert get_model(name, (160, 100, 3), 1000).parameter_count == PUBLISHED[name]


def test_every_sum_and_concatenation_is_a_node():
    def count(name, kind):
        return sum(isinstance(node.layer, kind) for node in shipped(name).nodes)

    assert [count(f"resnet{layers}", Add) for layers in (18, 34, 50, 101)] == [8, 16, 16, 33]
    assert (count("inception-v3", Concat), count("unet3d", Concat)) == (11, 3)
    shortcut = next(node for node in shipped("resnet18").nodes if node.name == "layer2.0.add")
    assert shortcut.inputs == ("layer2.0.bn2", "layer2.0.downsample.1")
    plain = next(node for node in shipped("resnet50").nodes if node.name == "layer1.1.add")
    assert plain.inputs == ("layer1.1.bn3", "layer1.0.relu")


def test_inception_shapes():
    shapes = shipped("inception-v3").shapes
    wanted = {"Conv2d_1a_3x3.relu": (149, 32), "maxpool2": (35, 192), "Mixed_5d.concat": (35, 288)}
    wanted |= {"Mixed_6a.concat": (17, 768), "Mixed_6e.concat": (17, 768), "Mixed_7c.concat": (8, 2048)}
    assert {name: shapes[name][1:] for name in wanted} == wanted


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_dropout_can_be_set(name):
    net = shipped(name, dropout=0.25)
    drops = 1 if name == "inception-v3" else 2
    assert [node.layer.p for node in net.nodes if node.name.startswith("drop")] == [0.25] * drops
    without = shipped(name, dropout=0)
    assert not any(node.name.startswith("drop") for node in without.nodes)
    assert without.parameter_count == net.parameter_count


@pytest.mark.parametrize("name", [name for name in MODELS if name != "mlp"])
def test_samples_of_another_kind(name):
    what = "volumes" if name in VOLUMES else "images"
    with pytest.raises(UserError, match=rf"model {name} needs {what} .* shape \(784,\): use --model mlp"):
        get_model(name, (784,), 10)
    other, fitting = ((9, 9, 1), "lenet") if name in VOLUMES else ((9, 9, 9, 1), "cosmoflow or unet3d")
    with pytest.raises(UserError, match=f"model {name} needs {what} .*: use --model {fitting}"):
        get_model(name, other, 10)


LEAST = {
    "lenet": (4, "pool2"),
    "alexnet": (64, "pool3"),
    "alexnet-onetower": (63, "pool3"),
    "alexnet-cifar": (15, "pool3"),
    **dict.fromkeys(("vgg11", "vgg13", "vgg16", "vgg19", "vgg11-cifar", "vgg16-cifar"), (32, "pool5")),
    "inception-v3": (75, "Mixed_7a.branch3x3_2.conv"),
    "cosmoflow": (2, "pool1"),
}


@pytest.mark.parametrize("name", LEAST)
def test_samples_that_are_too_small_are_told_the_layer_its_height_and_the_least_size(name):
    size, layer = LEAST[name]
    space = 3 if name in VOLUMES else 2
    least = "x".join([str(size)] * space)
    began = time.perf_counter()
    text = rf"model {name}: layer '{layer}': .* of a \d+x\d+.* input .* = 0 outputs; .* samples of at least {least}"
    with pytest.raises(UserError, match=text):
        get_model(name, (*[size - 1] * space, 3), 10)
    assert get_model(name, (*[size] * space, 3), 10).nodes
    assert time.perf_counter() - began < 5  # the least size is searched for


def test_networks_for_any_size():
    for name in ("resnet18", "resnet50", "resnet18-cifar"):
        assert get_model(name, (1, 1, 3), 10).shapes["fc"] == (10,)
    assert isinstance(shipped("resnet18").nodes[-2].layer, GlobalAvgPool)
    assert isinstance(shipped("resnet18").nodes[-1].layer, Linear)


def test_unet_needs_sides_that_can_be_halved():
    with pytest.raises(
        UserError, match=r"unet3d .* h = 20 = 2 x 8 \+ 4: use volumes with multiples of 8 \(h of 16 or 24"
    ):
        get_model("unet3d", (16, 20, 16, 1), 2)
    assert get_model("unet3d", (8, 8, 8, 1), 2).shapes["down4.relu2"] == (1, 1, 1, 512)


def test_unknown_name():
    with pytest.raises(UserError, match="unknown model 'lenett': did you mean lenet"):
        get_model("lenett", (28, 28, 1), 10)
    with pytest.raises(UserError, match="unknown model 'resnet-18': did you mean resnet18"):
        get_model("resnet-18", (28, 28, 1), 10)


def test_every_layer_is_read():
    """A node that feeds nothing would be a mistake of the definition."""
    for name in MODELS:
        net = shipped(name)
        read = {source for node in net.nodes for source in node.inputs}
        assert set(net.shapes) - read == {net.output}, name
        assert INPUT in read


def test_outputs_follow_the_targets(tmp_path):
    """Labels or numbers for every voxel fit networks that give back a volume, and no others."""
    x = np.random.default_rng(0).normal(size=(6, 8, 8, 8, 1)).astype(np.float32)
    targets = {
        "labels": (x[..., 0] > 0).astype(np.int64),
        "numbers": np.concatenate([x, -x], -1),
        "one": x[:, 0, 0, 0, 0],
    }
    for name, y in targets.items():
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)

    def network(model, name, **options):
        return prepare_run(RunConfig.of(model=model, dataset=str(tmp_path / f"{name}.npz"), **options), 1).network

    labels, numbers = {"classes": 2}, {"loss": "mse"}
    assert network("unet3d", "labels", **labels).shapes["conv"] == (8, 8, 8, 2)
    assert network("unet3d", "numbers", **numbers).shapes["conv"] == (8, 8, 8, 2)
    assert network("cosmoflow", "one", **numbers).shapes["fc3"] == (1,)
    text = (
        r"model cosmoflow gives an output of shape \(2,\) a sample, .* labels of shape \(8, 8, 8\), need one of shape"
    )
    with pytest.raises(UserError, match=text + r" \(8, 8, 8, 2\)"):
        network("cosmoflow", "labels", **labels)
    with pytest.raises(UserError, match=r"model unet3d .* numbers of shape \(1,\), need one of shape \(1,\)"):
        network("unet3d", "one", **numbers)

from __future__ import annotations

import pytest

from gridnn.layers import SoftmaxCrossEntropy
from gridnn.models import MODELS, get_model


@pytest.mark.parametrize(
    ("name", "shape", "options", "count"),
    [
        ("mlp", (784,), {"widths": (512, 512, 512)}, 784 * 512 + 2 * 512 * 512 + 3 * 512 + 512 * 10 + 10),
        ("mlp", (28, 28, 1), {"widths": (100,)}, 784 * 100 + 100 + 100 * 10 + 10),
        ("mlp", (7,), {"widths": ()}, 80),
        ("lenet", (28, 28, 1), {}, 61_706),
        ("lenet", (32, 32, 1), {}, 61_706),
        ("lenet", (8, 8, 1), {}, 156 + 2_416 + (64 * 120 + 120) + 10_164 + 850),
        ("alexnet-cifar", (32, 32, 3), {}, 23_272_266),
        ("vgg11-cifar", (32, 32, 3), {}, 9_220_480 + 2 * (512 * 512 + 512) + 5_130),
    ],
)
def test_parameters(name, shape, options, count):
    net = get_model(name, shape, 10, **options)
    assert (net.parameter_count, net.shapes[net.output]) == (count, (10,))
    net.add("loss", SoftmaxCrossEntropy())
    assert net.loss.name == "loss"


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


def test_alexnet_shapes():
    shapes = get_model("alexnet-cifar", (32, 32, 3), 10).shapes
    sizes = {"conv1": 16, "pool1": 8, "conv2": 8, "pool2": 4, "conv5": 4, "pool3": 2}
    assert {name: shapes[name][0] for name in sizes} == sizes
    assert shapes["flatten"] == (2 * 2 * 256,)


@pytest.mark.parametrize(("name", "drops"), [("alexnet-cifar", 2), ("vgg11-cifar", 2)])
def test_dropout_can_be_set(name, drops):
    nodes = get_model(name, (32, 32, 3), 10, dropout=0.25).nodes
    assert [node.layer.p for node in nodes if node.name.startswith("drop")] == [0.25] * drops
    assert not any(n.name.startswith("drop") for n in get_model(name, (32, 32, 3), 10, dropout=0).nodes)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "mlp"])
def test_samples_that_do_not_fit(name):
    with pytest.raises(ValueError, match=rf"model {name} needs images .* shape \(784,\): use --model mlp"):
        get_model(name, (784,), 10)
    with pytest.raises(ValueError, match=r"layer '\w+': .* = 0 outputs"):
        get_model(name, (1, 1, 3), 10)


def test_unknown_name():
    with pytest.raises(ValueError, match="unknown model 'lenett': did you mean lenet"):
        get_model("lenett", (28, 28, 1), 10)

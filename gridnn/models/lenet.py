"""LeNet-5 (LeCun et al. 1998) as it is built today: ReLU, max-pooling, padding 2 for 28 x 28 images."""

from __future__ import annotations

from gridnn.layers import Conv2d, MaxPool2d, ReLU
from gridnn.models.parts import add_classifier, image_network
from gridnn.network import Network

KERNEL = 5
FULL = 32  # the image of the paper, which needs no padding
SMALL = 10  # what the second convolution leaves less than 6 x 6 of


def lenet(input_shape: tuple[int, ...], outputs: int) -> Network:
    """Two 5 x 5 convolutions with pools, then 120, 84 and the outputs: 61,706 parameters for 28 x 28 x 1, 10 classes.

    The first convolution is padded by 2 where the image is smaller than 32 x 32 (the paper pads the images themselves).
    The second one is padded by 2 where its input is smaller than 10 x 10, as that of 8 x 8 digits is (4 x 4): no 5 x 5
    window fits on it otherwise.
    """
    net = image_network("lenet", input_shape)
    net.add("conv1", Conv2d(6, KERNEL, padding=2 if min(input_shape[:2]) < FULL else 0))
    net.add("relu1", ReLU())
    net.add("pool1", MaxPool2d(2))
    net.add("conv2", Conv2d(16, KERNEL, padding=2 if min(net.shapes["pool1"][:2]) < SMALL else 0))
    net.add("relu2", ReLU())
    net.add("pool2", MaxPool2d(2))
    add_classifier(net, (120, 84), outputs)
    return net

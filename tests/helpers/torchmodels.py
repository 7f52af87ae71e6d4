"""The networks of torchvision in PyTorch, with the same names in their state dicts, written out for the tests.

torchvision itself is no dependency of the tests: its wheels load beside one build of PyTorch only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def alexnet(classes):
    features = nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(), nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    )
    classifier = nn.Sequential(
        *(nn.Dropout(), nn.Linear(256 * 36, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()),
        nn.Linear(4096, classes),
    )
    return Classified(features, nn.AdaptiveAvgPool2d(6), classifier)


def vgg(depths, classes):
    features, channels = [], 3
    for width, depth in zip((64, 128, 256, 512, 512), depths, strict=True):
        for _ in range(depth):
            features += [nn.Conv2d(channels, width, 3, 1, 1), nn.ReLU()]
            channels = width
        features.append(nn.MaxPool2d(2))
    classifier = nn.Sequential(
        *(nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()),
        nn.Linear(4096, classes),
    )
    return Classified(nn.Sequential(*features), nn.AdaptiveAvgPool2d(7), classifier)


class Classified(nn.Module):
    def __init__(self, features, avgpool, classifier):
        super().__init__()
        self.features, self.avgpool, self.classifier = features, avgpool, classifier

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class Block(nn.Module):
    """Of a ResNet: basic with two convolutions, a bottleneck with three."""

    def __init__(self, channels, width, stride, bottleneck):
        super().__init__()
        out = 4 * width if bottleneck else width
        plan = [(1, 1, width), (3, stride, width), (1, 1, out)] if bottleneck else [(3, stride, out), (3, 1, out)]
        self.count, source = len(plan), channels
        for number, (kernel, step, target) in enumerate(plan, 1):
            setattr(self, f"conv{number}", nn.Conv2d(source, target, kernel, step, kernel // 2, bias=False))
            setattr(self, f"bn{number}", nn.BatchNorm2d(target))
            source = target
        self.downsample = None
        if stride > 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            y = F.relu(y) if number < self.count else y
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, depths, bottleneck, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        channels = 64
        for stage, (width, depth) in enumerate(zip((64, 128, 256, 512), depths, strict=True), 1):
            blocks = []
            for number in range(depth):
                blocks.append(Block(channels, width, 2 if stage > 1 and not number else 1, bottleneck))
                channels = 4 * width if bottleneck else width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class Basic(nn.Module):
    """Of Inception: a convolution, its norm and ReLU."""

    def __init__(self, channels, width, kernel=1, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


ACROSS, DOWN, SAME, HALF = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0)), (3, 1, 1), (3, 2)


class Mixed(nn.Module):
    """Branches side by side: a name and its convolutions (channels, *window); ``pool`` joins in by itself."""

    def __init__(self, channels, pool=None, **branches):
        super().__init__()
        self.pool, self.branches = pool, {}
        for branch, convolutions in branches.items():
            source, self.branches[branch] = channels, []
            for number, (width, *window) in enumerate(convolutions, 1):
                name = branch if len(convolutions) == 1 else f"{branch}_{number}"
                setattr(self, name, Basic(source, width, *window))
                self.branches[branch].append(name)
                source = width

    def forward(self, x):
        outputs = []
        for branch, names in self.branches.items():
            y = F.avg_pool2d(x, 3, 1, 1) if branch == "branch_pool" else x
            for name in names:
                y = getattr(self, name)(y)
            outputs.append(y)
        return torch.cat([*outputs, F.max_pool2d(x, 3, 2)] if self.pool == "max" else outputs, 1)


class Forked(nn.Module):
    """The last blocks of Inception: two branches end in a 1 x 3 and a 3 x 1 convolution side by side."""

    def __init__(self, channels):
        super().__init__()
        self.branch1x1 = Basic(channels, 320)
        self.branch3x3_1 = Basic(channels, 384)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Basic(channels, 448), Basic(448, 384, *SAME)
        for name in ("branch3x3_2", "branch3x3dbl_3"):
            setattr(self, f"{name}a", Basic(384, 384, (1, 3), 1, (0, 1)))
            setattr(self, f"{name}b", Basic(384, 384, (3, 1), 1, (1, 0)))
        self.branch_pool = Basic(channels, 192)

    def forward(self, x):
        three, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        forks = (self.branch3x3_2a(three), self.branch3x3_2b(three))
        twice = (self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double))
        return torch.cat([self.branch1x1(x), *forks, *twice, self.branch_pool(F.avg_pool2d(x, 3, 1, 1))], 1)


class Inception(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = Basic(3, 32, 3, 2), Basic(32, 32, 3)
        self.Conv2d_2b_3x3 = Basic(32, 64, *SAME)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = Basic(64, 80), Basic(80, 192, 3)
        for name, channels, pooled in (("Mixed_5b", 192, 32), ("Mixed_5c", 256, 64), ("Mixed_5d", 288, 64)):
            setattr(self, name, self._a(channels, pooled))
        self.Mixed_6a = Mixed(288, "max", branch3x3=[(384, *HALF)], branch3x3dbl=[(64,), (96, *SAME), (96, *HALF)])
        for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            setattr(self, name, self._c(width))
        self.Mixed_7a = Mixed(
            *(768, "max"),
            branch3x3=[(192,), (320, *HALF)],
            branch7x7x3=[(192,), (192, *ACROSS), (192, *DOWN), (192, *HALF)],
        )
        self.Mixed_7b, self.Mixed_7c = Forked(1280), Forked(2048)
        self.fc = nn.Linear(2048, classes)

    def _a(self, channels, pooled):
        return Mixed(
            channels,
            branch1x1=[(64,)],
            branch5x5=[(48,), (64, 5, 1, 2)],
            branch3x3dbl=[(64,), (96, *SAME), (96, *SAME)],
            branch_pool=[(pooled,)],
        )

    def _c(self, width):
        return Mixed(
            768,
            branch1x1=[(192,)],
            branch7x7=[(width,), (width, *ACROSS), (192, *DOWN)],
            branch7x7dbl=[(width,), (width, *DOWN), (width, *ACROSS), (width, *DOWN), (192, *ACROSS)],
            branch_pool=[(192,)],
        )

    def forward(self, x):
        x = F.max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))), 3, 2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = getattr(self, f"Mixed_{name}")(x)
        return self.fc(x.mean((2, 3)))


def make(model, classes):
    """The PyTorch network that is ``model`` here."""
    if model == "alexnet-onetower":
        return alexnet(classes)
    if model == "inception-v3":
        return Inception(classes)
    vggs = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
    if model in vggs:
        return vgg(vggs[model], classes)
    depths = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3), "50": (3, 4, 6, 3), "101": (3, 4, 23, 3)}
    number = model.removeprefix("resnet")
    return ResNet(depths[number], number in ("50", "101"), classes)

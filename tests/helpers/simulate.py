"""The ranks of one layer as threads: its split against the serial layer, without MPI and without a schedule.

Every rank gets the ghosted part of the global inputs that `Layer.cut_input` asks for; the parts of the output, the
gradients of the frames and those of the parameters are put together again: partial sums are added.
"""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from serial import LayerRun, Serial, SerialContext, ghosted, unghosted

from gridnn.layers.base import Layer, Loss, Shapes
from gridnn.layout.partition import Even
from gridnn.layout.split import Split, coordinates_of, index_at

TIMEOUT = 20  # seconds that a rank waits for the others


class RankContext(SerialContext):
    """One rank of a simulated split."""

    def __init__(self, layer: Layer, shapes: Shapes, split: Split, index: int, board: Board):
        super().__init__(layer, shapes, np.float64)
        self.split, self.index, self.board = split, index, board
        self.coordinates = coordinates_of(index, split.mesh)
        self.output_box = self.box(layer.cut_output(shapes, split))
        self.input_boxes = tuple(self.box(layer.cut_input(i, shapes, split)) for i in range(len(shapes.inputs)))
        self.counts = all(self.coordinates[i] == 0 for i in split.mesh_axes("replicas"))

    def part(self, axis):
        mine = self.split.mesh_axes(axis)
        return index_at([self.coordinates[i] for i in mine], [self.split.mesh[i] for i in mine])

    def box(self, cuts):
        """This rank's part of a tensor that is cut so."""
        return tuple(c.partition.interval(self.part(c.axis) if c.partition.parts > 1 else 0) for c in cuts)

    def slices(self, parameter):
        """This rank's part of a parameter."""
        axes = zip(parameter.shape, parameter.axes, strict=True)
        return slices(Even(n, self.split.parts(a)).interval(self.part(a)) if a else (0, n) for n, a in axes)

    def reduce(self, array, axes, operation):
        function = {"sum": np.add, "max": np.maximum}[operation]
        assert axes in {r.axes for r in self.layer.reductions(self.shapes, self.output_box, True)}
        self.reduced.append((axes, array.size))
        arrays = self.board.exchange(self.index, array.copy())
        free = self.split.mesh_axes(*axes)
        for other, (coordinates, theirs) in enumerate(zip(self.board.places, arrays, strict=True)):
            same = all(d == m or i in free for i, (d, m) in enumerate(zip(coordinates, self.coordinates, strict=True)))
            if other != self.index and same:
                array[...] = function(array, theirs)


class Board:
    """Where the ranks lay down what they exchange."""

    def __init__(self, split: Split):
        self.places = list(itertools.product(*(range(parts) for parts in split.mesh)))
        self.slots, self.barrier = [None] * len(self.places), threading.Barrier(len(self.places))

    def exchange(self, index, array):
        self.slots[index] = array
        self.barrier.wait(TIMEOUT)
        arrays = list(self.slots)
        self.barrier.wait(TIMEOUT)
        return arrays


class Simulation:
    """A layer under a split, beside the serial one with the same parameters."""

    def __init__(self, layer: Layer, split: Split, *arrays: np.ndarray, target=None):
        self.layer, self.arrays, self.target, self.rng = layer, arrays, target, np.random.default_rng(5)
        self.serial = Serial(layer, *(array.shape for array in arrays))
        self.shapes = self.serial.shapes
        layer.check(self.shapes, split)
        for value in self.serial.context.parameters.values():
            value[...] = self.rng.normal(size=value.shape)
        board = Board(split)
        self.ranks = [RankContext(layer, self.shapes, split, index, board) for index in range(split.ranks)]
        self.padded = [ghosted(layer, self.shapes, i, x) for i, x in enumerate(arrays)]

    def check(self, tolerance=1e-11) -> Simulation:
        """y, dx and the gradients of the parameters equal the serial ones."""
        y = self.serial.forward(*self.arrays, target=self.target)
        dy = 0.3 if isinstance(self.layer, Loss) else self.rng.normal(size=y.shape)
        wanted = self.serial.backward(dy)
        with ThreadPoolExecutor(len(self.ranks)) as pool:
            results = list(pool.map(lambda local: self._run(local, dy), self.ranks))
        counted = [(local, *result) for local, result in zip(self.ranks, results, strict=True) if local.counts]

        def close(pieces, like, expected, inside=lambda total: total):
            total = np.zeros_like(like)
            for place, piece in pieces:
                total[place] += piece
            np.testing.assert_allclose(inside(total), expected, rtol=tolerance, atol=tolerance)

        close([(self._output(local), out) for local, out, _ in counted], y, y)
        for i, dx in enumerate(wanted):
            pieces = [(self._frame(local, i), back[i]) for local, _, back in counted]
            close(pieces, self.padded[i], dx, lambda total, i=i: unghosted(self.layer, self.shapes, i, total))
        for name, p in self.layer.weights(self.shapes).items():
            expected = self.serial.gradient(name)
            close([(local.slices(p), local.gradients[name]) for local, *_ in counted], expected, expected)
        return self

    def _run(self, local: RankContext, dy):
        for name, p in self.layer.weights(self.shapes).items():
            local.parameters[name] = self.serial.context.parameters[name][local.slices(p)].copy()
            local.gradients[name] = np.full_like(local.parameters[name], np.nan)
        for name, p in self.layer.states(self.shapes).items():
            local.state[name] = np.full(p.shape, p.value)[local.slices(p)]
        target = None if self.target is None else self.target[slices(local.output_box[: self.target.ndim])]
        frames = [x[self._frame(local, i)].copy() for i, x in enumerate(self.padded)]
        run = LayerRun(self.layer, local)
        out = run.forward(*frames, target=target).copy()
        if isinstance(dy, float):
            local.scale = dy
            return out, run.backward()
        return out, run.backward(dy[slices(local.output_box)])

    def _output(self, local: RankContext):
        return ... if isinstance(self.layer, Loss) else slices(local.output_box)

    def _frame(self, local: RankContext, index: int):
        """Where the frame of an input lies in the padded global tensor."""
        windows = self.layer.windows(self.shapes)
        outputs = dict(zip(self.layer.output_axes(self.shapes), local.output_box, strict=True))
        box = []
        for axis, held in zip(self.layer.input_axes(index, self.shapes), local.input_boxes[index], strict=True):
            start, stop = windows[axis].inputs(outputs[axis]) if axis in windows else held
            before = windows[axis].before if axis in windows else 0
            box.append((start + before, stop + before))
        return slices(box)


def slices(box):
    """A box as an index."""
    return tuple(slice(*interval) for interval in box)

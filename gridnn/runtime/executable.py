"""A schedule that runs on this rank: a list of calls on arrays that are made once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from gridnn.comm.grid import Grid
from gridnn.comm.ledger import Where
from gridnn.comm.requests import Arrays, Reduction, Request, StartedSum, assign, bind_copy, bind_stage
from gridnn.layers.base import UNFUSED
from gridnn.program.arena import plan_arena
from gridnn.program.build import build
from gridnn.program.schedule import (
    Accumulate,
    Add,
    Begin,
    Compute,
    Copy,
    End,
    Fill,
    GroupSum,
    Load,
    Operation,
    Schedule,
    Sum,
    Update,
)
from gridnn.runtime.capture import Capture
from gridnn.runtime.context import LayerContext, Pass
from gridnn.runtime.memory import Memory
from gridnn.runtime.notes import notes
from gridnn.runtime.parameters import Parameters, join_groups
from gridnn.runtime.trace import Trace

Array = Any
Call = Callable[[], Any]
Numbered = Iterable[tuple[int, Call]]
Filler = Callable[[Sequence[Array], Array | None], None]


class Executable:
    """A schedule bound to memory, parameters and communicators; all ranks make it together.

    Parameters
    ----------
    schedule : Schedule
        Of this rank.
    grid : Grid
        Its place.
    parameters : Parameters
        Shared with the executables of other batch sizes.
    memory : Memory
        Shared likewise.
    seed : int
        Of dropout.
    capture : bool
        Whether what runs between two movements is launched as CUDA graphs.
    before_sum : callable, optional
        Called before ``result`` is summed over all ranks, at the end of the last pass of a batch.

    Attributes
    ----------
    result : array
        [3], float64: the loss adds this rank's share of (summed loss, right answers) to the first two.
    """

    _fill: Filler  # of the pass under way

    def __init__(
        self,
        schedule: Schedule,
        grid: Grid,
        parameters: Parameters,
        memory: Memory,
        *,
        seed: int = 0,
        result: Array | None = None,
        capture: bool = False,
        before_sum: Call | None = None,
    ) -> None:
        self.schedule, self.grid, self.parameters, self.memory = schedule, grid, parameters, memory
        self.arena = plan_arena(schedule)
        self.result = grid.backend.zeros((3,), "float64") if result is None else result
        self.run_numbers, self._seed = Pass(), seed
        self._capture = Capture(grid.backend.device.recorder()) if capture else None
        self._arrays: dict[str, Array] = {}
        self._calls: list[Call] = []
        self._numbered: list[tuple[int, Call]] = []  # with the number of their operation
        self._described = grid.recorder.describe(schedule.kind, lambda: notes(schedule))
        self._ending: list[Call] = []  # what follows the update
        self._before_sum = before_sum
        self._generation = -1
        join_groups(schedule.program, grid)
        self._contexts = self._make_contexts()
        memory.reserve(self.arena.size)
        self._bind()

    # -- running -----------------------------------------------------------------------------------------------

    def run(
        self, fill: Filler, *, step: int = 0, number: int = 0, scale: float = 1.0, trace: Trace | None = None
    ) -> None:
        """Run the pass.

        Parameters
        ----------
        fill : callable
            Writes this rank's boxes of the samples, and of the targets if there are any (else None).
        step, number : int
            Of the training step and of its pass: they name random numbers.
        scale : float
            What the gradient of the summed loss is multiplied by.
        trace : Trace, optional
            Where the seconds of every operation go; nothing is launched as a graph then.
        """
        self._start(fill, step, number, scale)
        recorder = self.grid.recorder
        recorder.begin(self._described, step, number)
        if trace:
            trace.run(self.schedule, self._placed(self._numbered), step, number)
        elif self._capture:
            self._capture.run(self.schedule.operations[: len(self._calls)], self._numbered, self._each)
        else:
            self._each(self._numbered)
        recorder.end()

    def finish(self, update: Call, trace: Trace | None = None) -> None:
        """Run what is left of the last pass of a batch: ``update``, which changes the parameters, and what follows."""
        calls = enumerate([update, *self._ending], len(self._calls))
        self.grid.recorder.go_on()
        if trace:
            trace.finish(self._placed(calls))
        else:
            self._each(calls)
        self.grid.recorder.end()

    def _each(self, numbered: Numbered) -> None:
        """Do calls; the number of the one under way is where others see it (`Recorder`)."""
        cells, at = self.grid.recorder.cells, self.grid.recorder.at
        for cells[at], call in numbered:
            call()

    def _placed(self, numbered: Numbered) -> Iterator[Call]:
        """Calls whose numbers are seen likewise, for somebody else to do."""
        cells, at = self.grid.recorder.cells, self.grid.recorder.at
        for cells[at], call in numbered:
            yield call

    def _start(self, fill: Filler, step: int, number: int, scale: float) -> None:
        self._fill = fill
        run = self.run_numbers
        run.step, run.number, run.scale = step, number, scale
        if self._generation != self.memory.generation:
            self._bind()

    @property
    def outputs(self) -> dict[str, Array]:
        """This rank's part of what a pass gives, by layer, until another pass runs."""
        return {layer: self.array(name) for layer, name in self.schedule.outputs.items()}

    @property
    def output(self) -> Array:
        """This rank's part of the last of the `outputs`."""
        return list(self.outputs.values())[-1]

    @property
    def captured(self) -> Capture | None:
        """The CUDA graphs."""
        return self._capture

    def array(self, name: str) -> Array:
        """The array of a buffer."""
        if name not in self._arrays:
            buffer = self.schedule.buffers[name]
            if buffer.base is None:
                made = self.memory.array(self.arena, name, self._dtype(buffer.dtype))
            else:
                base = self.array(buffer.base)
                made = (base if buffer.region is None else base[buffer.region]).reshape(buffer.shape)
            self._arrays[name] = made
        return self._arrays[name]

    def _dtype(self, name: str) -> Any:
        special = {"activation": self.parameters.dtype, "wide": self.parameters.wide}
        return special.get(name) or self.grid.backend.dtype(name)

    def first_non_finite(self, fill: Filler) -> str | None:
        """The first layer with an output that is not finite on some rank; all ranks call it together.

        The last forward pass is run once more, every layer by itself, since a fused activation may hide what made its
        input infinite.
        """
        policy, schedule, run = replace(self.schedule.policy, fuses=False), self.schedule, self.run_numbers
        plain = build(schedule.program, schedule.rank, policy, kind=schedule.kind)
        result = self.grid.backend.zeros((3,), "float64")
        made = Executable(plain, self.grid, self.parameters, self.memory, seed=self._seed, result=result)
        return made._check(fill, run)

    def _check(self, fill: Filler, run: Pass) -> str | None:
        self._start(fill, run.step, run.number, run.scale)
        finite: dict[str, bool] = {}
        operations = self.schedule.operations
        last = {
            (op.layer, op.section): number
            for number, op in enumerate(operations)
            if isinstance(op, Compute) and op.phase == "forward"
        }
        for number, (operation, call) in enumerate(zip(operations[: len(self._calls)], self._calls, strict=True)):
            if operation.phase != "forward":
                continue
            call()
            if isinstance(operation, Compute) and last[operation.layer, operation.section] == number:
                written = [self.array(operation.arrays[-1])] if "y" in operation.task.writes else [self.result]
                fine = all(bool(self.grid.backend.xp.isfinite(array).all()) for array in written)
                finite[operation.layer] = fine and finite.get(operation.layer, True)
        ranks = self.grid.all.gather_values(finite)
        return next((name for name in finite if not all(rank.get(name, True) for rank in ranks)), None)

    # -- binding -----------------------------------------------------------------------------------------------

    def _make_contexts(self) -> dict[tuple[int, int], LayerContext]:
        made: dict[tuple[int, int], LayerContext] = {}
        for section in self.schedule.sections:
            for place, step in enumerate(section.program.layers):
                context = made[section.number, place] = LayerContext(
                    step,
                    self.grid,
                    self.parameters,
                    self.run_numbers,
                    self.result,
                    seed=self._seed,
                    training=self.schedule.kind == "training",
                    fused=section.fused.get(place, UNFUSED),
                )
                microbatch = section.program.microbatch
                if microbatch is not None:
                    xp, parts = self.grid.backend.xp, (step.split.parts("n"), context.part("n"))
                    rows = [xp.arange(*samples) for samples in microbatch.samples(*parts)]
                    context.indices = (xp.concatenate(rows) if rows else xp.arange(0), *context.output_box[1:])
            for reader, maker in section.makers.items():
                made[section.number, reader].maker = made[section.number, maker]
        return made

    def _bind(self) -> None:
        """Make the arrays and the calls; again where the memory has been taken anew."""
        self._arrays.clear()
        self._generation = self.memory.generation
        if self._capture:
            self._capture.clear()
        requests: dict[int, Request] = {}
        operations = self.schedule.operations
        self._calls = calls = []
        self._ending = []
        for number, operation in enumerate(operations):
            if isinstance(operation, Begin):
                following = operations[number + 1] if number + 1 < len(operations) else None
                at_once = isinstance(following, End) and following.number == operation.number
                requests[operation.number] = self._request(operation, at_once)
                begin = requests[operation.number].begin
                movement = operation.movement
                if isinstance(movement, GroupSum) and movement.purpose == "loss" and self._before_sum:
                    begin = partial(_both, self._before_sum, begin)
                calls.append(begin)
            elif isinstance(operation, End):
                calls.append(requests[operation.number].end)
            elif isinstance(operation, Update):  # whoever runs the schedule does it: see `finish`
                calls = self._ending
            else:
                calls.append(self._call(operation))
        self._numbered = list(enumerate(self._calls))

    def _call(self, operation: Operation) -> Call:
        xp, kernels = self.grid.backend.xp, self.grid.backend.kernels
        reads, writes = (tuple(map(self.array, names)) for names in (operation.reads, operation.writes))
        if isinstance(operation, Compute):
            return self._compute(operation)
        if isinstance(operation, Fill):
            return partial(kernels.fill, writes[0], operation.slabs, operation.value)
        if isinstance(operation, Copy):
            return bind_copy(reads[0], writes[0], operation.index, operation.adjoint)
        if isinstance(operation, Add):
            return partial(assign, writes[0], reads[0]) if len(reads) == 1 else partial(_add, xp, reads, writes[0])
        if isinstance(operation, Accumulate):
            gradients = self.parameters.gradients
            targets = [self.parameters.shared(one.whose, gradients) for one in operation.targets]
            return partial(_accumulate, targets, operation.targets, reads)
        assert isinstance(operation, Load)
        return partial(self._load, writes)

    def _load(self, arrays: Sequence[Array]) -> None:
        inputs = len(self.schedule.inputs)
        self._fill(arrays[:inputs], arrays[inputs] if len(arrays) > inputs else None)

    def _compute(self, operation: Compute) -> Call:
        context = self._contexts[operation.section, operation.place]
        if operation.region is not None:
            box = zip(context.output_box, operation.region, strict=True)
            sizes = (stop - start for start, stop in context.output_box)
            limits = [(low, part.indices(size)) for ((low, _), part), size in zip(box, sizes, strict=True)]
            context = context.replaced(output_box=tuple((low + start, low + stop) for low, (start, stop, _) in limits))
        if operation.gradients:
            gradients = {name: self.array(buffer) for name, buffer in operation.gradients}
            context = context.replaced(gradients={**context.gradients, **gradients})
        method, task = getattr(context.layer, operation.task.method), operation.task
        return partial(method, context, *task.arguments, *map(self.array, operation.arrays))

    def _request(self, operation: Begin, at_once: bool) -> Request:
        movement, grid, parameters = operation.movement, self.grid, self.parameters
        where = Where(operation.layer, operation.phase)
        if isinstance(movement, GroupSum):
            if movement.purpose == "loss":
                return Reduction(grid.all, self.result, where)
            if movement.purpose == "gradients":
                described = parameters.buckets[movement.number]
                flat = parameters.gradients[parameters.ranges[movement.number]]
                return StartedSum(grid.group(described.members), flat, parameters.shares(described))
            return Reduction(grid.group(movement.members), self.array(operation.writes[0]), where, movement.operation)
        send, receive, out = operation.writes
        source = operation.reads[0]
        root = self.schedule.root
        shared = root(send) == root(source), root(receive) == root(out)
        arrays = Arrays(self.array(source), self.array(out), self.array(send), self.array(receive), *shared)
        full_sum = movement.adjoint and movement.kind == "all-reduce"
        return bind_stage(movement.stage, movement.adjoint, full_sum, grid, arrays, where, at_once)


def _add(xp: Any, reads: Sequence[Array], target: Array) -> None:
    xp.add(reads[0], reads[1], out=target)
    for array in reads[2:]:
        target += array


def _accumulate(targets: Sequence[Array], sums: Sequence[Sum], reads: Sequence[Array]) -> None:
    for target, one, array in zip(targets, sums, reads, strict=True):
        if one.is_first:
            target[...] = array
        else:
            target += array


def _both(first: Call, second: Call) -> None:
    first()
    second()

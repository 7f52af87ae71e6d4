"""A training step in rounds, run with sizes in place of arrays: it follows `gridnn.execute_rounds`."""

from __future__ import annotations

import math

from gridnn.cost.account import Account
from gridnn.cost.rehearsal import Gradients, Intake, Rehearsal, Seat
from gridnn.program.program import Program


class RehearsalInRounds:
    """What `gridnn.execute_rounds.ExecutableInRounds` is to arrays; the parameters are those of `Rehearsal`."""

    def __init__(self, program: Program, index: int, itemsize: int, account: Account) -> None:
        self._index, self._itemsize, self.account = index, itemsize, account
        front, *rounds = program.pieces
        self.front = Rehearsal(front, index, itemsize, account)
        self.rounds = [Rehearsal(piece, index, itemsize, account) for piece in rounds]

    @property
    def seats(self) -> list[Seat]:
        """The layers, those of the stack once a round."""
        return [seat for part in (self.front, *self.rounds) for seat in part.seats]

    @property
    def inputs(self) -> list[Intake]:
        """The network's input as its readers see it."""
        return self.front.inputs

    @property
    def target(self) -> tuple[int, ...]:
        """The local shape of what is compared with the targets in all rounds together."""
        piece = self.rounds[0].program
        loss = piece.steps[-1]
        start, stop = piece.turn.block(loss.split.parts("n"), loss.part(self._index, "n"))
        return (stop - start, *self.rounds[0].target[1:])

    def train(self, *, first: bool = True) -> None:
        """Forward and backward of one pass."""
        x = self.front.forward()
        edge = self.rounds[0].program.steps[0].edges[0]
        extents = (stop - start for start, stop in self.front.program.steps[-1].output.box(self._index))
        dx = self.account.take(self._itemsize * math.prod(extents)) if edge.needs_gradient else None
        for number, one in enumerate(self.rounds):
            gradients: Gradients = {}
            one.forward({edge.source: x})
            one.backward(first=first and number == 0, gradients=gradients)
            gradients.clear()
        del x
        self.front.backward(dx, first=first)


def rehearse(program: Program, index: int, itemsize: int) -> Rehearsal | RehearsalInRounds:
    """What rehearses ``program`` on rank ``index``, where an activation has ``itemsize`` bytes."""
    kind = Rehearsal if len(program.pieces) == 1 else RehearsalInRounds
    return kind(program, index, itemsize, Account())

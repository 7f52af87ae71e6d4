"""A run of gridnn that makes its training steps when it is told to: what `gpu.py` starts, alone or under mpirun."""

from __future__ import annotations

import json
import sys
from typing import Any

from gpu_kinds import by_kind

ARRAYS = ("gemm", "conv")  # layers whose work is products


def main() -> None:
    """Serve the request that is the only argument: options of a run, and how many steps warm it up."""
    from gridnn.comm.job import run

    request = json.loads(sys.argv[1])
    run(lambda job: serve(job, request))


def serve(job: Any, request: dict[str, Any]) -> None:
    """Answer every order with one line."""
    training = Training(job, request)
    training.steps(request["warm"])
    training.forget()
    answers = {
        "facts": training.facts,
        "round": lambda: {"seconds": job.comm.allreduce(training.steps(request["steps"])) / job.size},
        "kinds": lambda: by_kind(training.backend, lambda: training.steps(request["steps"]), request["steps"]),
        "moved": training.moved,
        "peak": lambda: {"flops": peak(training.backend, request["config"]["dtype"], request["square"])},
    }
    say(job, {"ready": True})
    while (order := job.comm.bcast(sys.stdin.readline().strip() if job.rank == 0 else None)) in answers:
        say(job, answers[order]())


def say(job: Any, answer: dict[str, Any]) -> None:
    """One line for `gpu_turns.Worker`."""
    if job.rank == 0:
        print(f"@{json.dumps(answer)}", flush=True)


class Training:
    """A session whose samples are on the device already, and its optimizer."""

    def __init__(self, job: Any, request: dict[str, Any]) -> None:
        import numpy as np

        from gridnn.train.config import RunConfig
        from gridnn.train.session import Session
        from gridnn.train.setup import make_optimizer

        config = RunConfig.of(**request["config"])
        config.validate()
        self.session = session = Session(config, job)
        self.backend, self.number, self.copied = session.grid.backend, 0, 0
        session.reader = resident(session)
        self.indices = np.arange(session.batch)
        self.optimizer = make_optimizer(config.train).start(session.parameters)
        self.lr = config.train.lr

    def steps(self, count: int) -> float:
        """The seconds of so many steps, the loss of each read as in training, between two events of the GPU."""
        device = self.backend.device
        start = device.mark()
        for _ in range(count):
            self.number += 1
            self.session.step(self.indices, self.number)
            self.session.update(self.optimizer, self.lr)
        end = device.mark()
        device.wait(end)
        return device.seconds(start, end)

    def forget(self) -> None:
        """What has moved until now does not count."""
        self.session.ledger.clear()
        self.copied = self.session.grid.copied_to_host

    def facts(self) -> dict[str, Any]:
        """What figures depend on, and what a step is."""
        pool = self.backend.pool
        return {
            **self.backend.facts(),
            "kernels": self.backend.kernels.described(self.session.config.device.dtype),
            "transport": str(self.session.transports),
            "flops": flops(self.session.network, self.session.batch),
            "peak bytes": pool.peak,
            "taken bytes": pool.taken,
        }

    def moved(self) -> dict[str, Any]:
        """What this rank has moved since the first step that counts, by grid dimension and kind of call."""
        rows: dict[str, dict[str, float]] = {}
        for key, tally in self.session.ledger.steps():
            row = rows.setdefault(
                f"{key.dimension} {key.kind}", dict.fromkeys(("words", "bytes", "calls", "seconds"), 0)
            )
            for name in row:
                row[name] += getattr(tally, name)
        return {"rows": rows, "copied to host": self.session.grid.copied_to_host - self.copied}


def resident(session: Any) -> Any:
    """A reader like the session's that reads its first batch only, as often as it is asked."""
    from gridnn.train.reader import Reader

    class Resident(Reader):
        held = None

        def read(self, schedule: Any, batch: Any) -> Any:
            self.held = self.held or super().read(schedule, batch)
            return self.held

    return Resident(session.grid.backend, session.parameters.wide)


def flops(network: Any, batch: int) -> float:
    """The operations of the products of a step: forward, both gradients, and no gradient of the samples."""
    layers = [(node.layer, node.layer.flops(network.sizes(node, batch))) for node in network.nodes]
    products = [count for layer, count in layers if layer.bound_by in ARRAYS]
    return 3 * sum(products) - products[0]


def peak(backend: Any, dtype: str, size: int, repeats: int = 20) -> float:
    """Operations a second of a large square product, the most that products of this type do here."""
    kind, device = backend.dtype(dtype), backend.device
    a, b, out = (backend.full((size, size), 0.5, kind) for _ in range(3))

    def run(count: int) -> float:
        start = device.mark()
        for _ in range(count):
            backend.kernels.matmul(a, b, out)
        end = device.mark()
        device.wait(end)
        return device.seconds(start, end)

    run(3)
    return 2 * size**3 * repeats / run(repeats)


if __name__ == "__main__":
    main()

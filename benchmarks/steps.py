"""Training steps with each of the kernels: one rank, one thread, float32, in one interleaved run.

    python benchmarks/steps.py [MODEL ...] [--batch B] [--rounds N]

Times are CPU seconds of the process for forward, backward and update of one batch of synthetic 32x32x3 images.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

KERNELS = ("reference", "numba", "onednn")


def main() -> None:
    """Times the models one after the other."""
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # before NumPy is imported
    from gridnn.comm.job import run

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["alexnet-cifar", "vgg11-cifar"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    run(lambda job: [show(model, times(job, model, options)) for model in options.models] and None)


def times(job, model: str, options: argparse.Namespace) -> dict[str, list[float]]:
    """CPU seconds of every step but the first, by kernels."""
    import numpy as np

    from gridnn.train.config import RunConfig
    from gridnn.train.session import Session
    from gridnn.train.setup import make_optimizer

    job.use_threads(1)
    runs = []
    for kernels in KERNELS:
        config = RunConfig.of(model=model, dataset="synthetic", samples=256, batch=options.batch, kernels=kernels)
        config.validate()
        session = Session(config, job)
        runs.append((kernels, session, make_optimizer(config.train).start(session.parameters)))
    seconds: dict[str, list[float]] = {kernels: [] for kernels in KERNELS}
    for number in range(options.rounds + 1):
        for kernels, session, optimizer in runs:
            start = time.process_time()
            session.step(np.arange(session.batch), number + 1)
            session.update(optimizer, 1e-3)
            if number:
                seconds[kernels].append(time.process_time() - start)
    return seconds


def show(model: str, seconds: dict[str, list[float]]) -> None:
    """Milliseconds a step, and how many times faster than the reference."""
    for kernels, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds["reference"], values, strict=True))
        print(f"{model}, {kernels}: {1e3 * statistics.median(values):.0f} ms a step, {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()

"""No rank holds a whole sample that is divided: what a rank holds and what it reads both shrink with the ranks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from launch import HELPERS, ROOT, clean_environment, mpirun, run
from volume_memory import SAMPLES

SIDE = 256
SAMPLE = SIDE**3 * 4  # bytes


def make(path):
    """Two volumes to train with and one to test, 64 MiB each."""
    h5py = pytest.importorskip("h5py")
    plane = np.random.default_rng(0).random((SIDE, SIDE, 1), "float32")
    with h5py.File(path, "w") as file:
        for part, samples in (("train", 2), ("test", 1)):
            x = file.create_dataset(f"x_{part}", (samples, SIDE, SIDE, SIDE, 1), "float32")
            for sample in range(samples):
                for d in range(SIDE):
                    x[sample, d] = plane * ((d + sample) % 7)
            file[f"y_{part}"] = np.arange(samples * 4.0).reshape(samples, 4)


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts with /proc")
def test_memory_and_bytes_read_shrink_with_the_ranks(tmp_path, capsys):
    path = tmp_path / "volumes.h5"
    make(path)
    held, read, losses = {}, {}, {}
    for ranks, domain in ((1, "1x1x1"), (2, "2x1x1"), (4, "2x2x1")):
        done = mpirun(ranks, sys.executable, HELPERS / "volume_memory.py", path, domain, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr
        everyone = json.loads(done.stdout)
        held[ranks] = max(rank["held"] for rank in everyone)
        read[ranks] = max(rank["read"] for rank in everyone) / len(SAMPLES)
        losses[ranks] = everyone[0]["losses"]
    table = [f"{n} ranks hold {held[n] / 2**20:.0f} and read {read[n] / 2**20:.1f} MiB each" for n in held]
    with capsys.disabled():
        print("\nof a sample of 64 MiB,", *table, sep="\n    ")
    for ranks in (2, 4):
        np.testing.assert_allclose(losses[ranks], losses[1], rtol=1e-4)
        assert held[ranks] < held[1] * (1 / ranks + 0.15)
        assert read[ranks] < SAMPLE / ranks * 1.1
    assert SAMPLE <= read[1] < SAMPLE * 1.1
    assert held[4] < SAMPLE  # though the box is held twice: as it is read ahead, and as it is worked on


def test_a_map_is_read_and_held_in_part(tmp_path):
    """Of a .npy file the pages of the box are touched, and let go of after the read."""
    np.save(tmp_path / "x.npy", np.ones((2, 128, 256, 512, 1), "float32"))
    code = """
import sys
from pathlib import Path
import numpy as np
from gridnn.data.sources import Mapped
from volume_memory import status
source, out = Mapped(Path(sys.argv[1])), np.zeros((1, 32, 256, 512, 1), "float32")
out[...] = 2  # the pages are there
before = status("VmRSS")
source.read(np.array([1]), ((32, 64), (0, 256), (0, 512), (0, 1)), out, np.array([0]))
assert (out == 1).all()
print(status("VmHWM") - before, status("VmRSS") - before)
"""
    env = clean_environment(PYTHONPATH=f"{ROOT}:{HELPERS}")
    done = run([sys.executable, "-c", code, str(tmp_path / "x.npy")], 60, env)
    assert done.returncode == 0, done.stderr
    peak, after = map(int, done.stdout.split())
    box = 32 * 256 * 512 * 4
    assert peak < 1.5 * box < 128 * 256 * 512 * 4
    assert after < 0.3 * box

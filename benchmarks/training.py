"""The training job that benchmarks run beside: LightGBM at nice 10 with two threads, for as long as they live."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TRAINING = """
import numpy, lightgbm, os
parent = os.getppid()
os.nice(10)
rng = numpy.random.default_rng(1)
x = rng.normal(size=(100_000, 132)); y = rng.normal(size=len(x))
data = lightgbm.Dataset(x, y).construct()
print("training", flush=True)
while os.getppid() == parent:
    lightgbm.train({"num_threads": 2, "verbosity": -1}, data, 50)
"""


@contextmanager
def training_job() -> Iterator[None]:
    """Keep the job running, from its first tree on. Raises RuntimeError if it ended by itself."""
    with subprocess.Popen([sys.executable, "-c", TRAINING], stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        try:
            if job.stdout.readline().strip() != "training":
                raise RuntimeError("the training job did not start")
            yield
            if job.poll() is not None:
                raise RuntimeError("the training job ended by itself")
        finally:
            job.kill()

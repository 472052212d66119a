"""mlfinpy's triple barriers in an environment of its own (`make bench-env`): `.venv-peers/bin/python FILE FOLDER`.

Reads FOLDER/close.npy and FOLDER/target.npy (one value a minute), prints its versions as a JSON line, then labels both
sides once for every line on standard input and answers {"ns": …}. FOLDER/touch.npy gets int64[2, n]: the minute of the
first touch of each minute's long and short barriers.
"""

import json
import sys
import time
from pathlib import Path

import mlfinpy
import numba
import numpy as np
import pandas as pd
from mlfinpy.labeling.labeling import get_events

LIMIT = 360
BARRIERS = [1.5, 1.0]


def main() -> None:
    folder = Path(sys.argv[1])
    index = pd.date_range("2026-01-01", periods=len(np.load(folder / "close.npy")), freq="min")
    close = pd.Series(np.load(folder / "close.npy"), index)
    events = index[:-LIMIT]
    target = pd.Series(np.load(folder / "target.npy"), index)[events]
    vertical = pd.Series(index[LIMIT:], index=events)
    version = getattr(mlfinpy, "__version__", "0.1.2")
    versions = {"mlfinpy": version, "numba": numba.__version__, "numpy": np.__version__, "pandas": pd.__version__}
    print(json.dumps(versions), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter_ns()
        found = []
        for side in (1.0, -1.0):
            sides = pd.Series(side, index=events)
            found.append(get_events(close, events, BARRIERS, target, 0.0, 1, vertical, sides, verbose=False))
        taken = time.perf_counter_ns() - started
        minutes = [index.get_indexer(pd.DatetimeIndex(one["t1"])) for one in found]
        np.save(folder / "touch.npy", np.array(minutes, np.int64))
        print(json.dumps({"ns": taken}), flush=True)


main()

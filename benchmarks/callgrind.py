"""Instruction counts of the deterministic paths, under valgrind's callgrind: they do not depend on the machine's load.

`make bench-instructions` (some five minutes) holds them against `budget.toml`, or says why it cannot count. The process
that is counted runs on valgrind's processor, which has no AVX-512: kernels are compiled for PORTABLE, the forest walks
its portable form. Only what runs between two client requests is counted. Two runs differ by about 0.1 %.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

from benchmarks.path_rig import START_MS, PathRig

PORTABLE = {"NUMBA_CPU_NAME": "haswell", "PYTHONHASHSEED": "0"}
CALLS = 5
LIMIT_S = 900
ZERO, DUMP_AT, START, STOP = 0x43540001, 0x43540003, 0x43540004, 0x43540005  # callgrind's client requests
# the request of valgrind.h for amd64, its six words at the address in rdi; on a real processor it does nothing
REQUEST = bytes.fromhex("4889f8 31d2 48c1c703 48c1c70d 48c1c73d 48c1c733 4887db 4889d0 c3".replace(" ", ""))


def why_not() -> str:
    """Return why instructions cannot be counted on this machine; "" when they can."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed"
    if os.uname().machine != "x86_64":
        return f"the client requests are for x86_64, this is {os.uname().machine}"
    return ""


def counts(folder: Path) -> dict[str, float]:
    """Return instructions per call of each path. Raises RuntimeError with the end of the log where valgrind fails."""
    environment = os.environ | PORTABLE | {"TA_COMPILE_CACHE": str(folder / "kernels")}
    itself = [sys.executable, "-m", "benchmarks.callgrind", "--inside"]
    subprocess.run([*itself, "1", str(folder / "dry")], env=environment, check=True, capture_output=True)  # compiles
    line = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder / 'out'}", *itself]
    done = subprocess.run(
        [*line, str(CALLS), str(folder / "run")], env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2_000:])
    return read(folder)


def read(folder: Path) -> dict[str, float]:
    """Return the counts that callgrind left in `folder`. Raises RuntimeError where it counted nothing."""
    found = {}
    for path in folder.glob("out.*"):
        text = path.read_text(errors="replace")
        name = re.search(r"^desc: Trigger: Client Request: (\w+)$", text, re.M)
        totals = re.search(r"^totals: (\d+)", text, re.M)
        if name and totals and int(totals[1]):
            found[name[1]] = int(totals[1]) / CALLS
    if not found:
        raise RuntimeError("callgrind counted nothing between the client requests")
    return found


def paths(rig: PathRig, pair: PathRig) -> dict[str, Callable[[], list[bytes]]]:
    """Return for each path what gives the frames of its next call; feeding them to the rig's decoder is the path."""

    def kline() -> list[bytes]:
        rig.larger_bars()
        return rig.closing_frames()

    def mark() -> list[bytes]:
        rig.now_ms += 1_000
        return [
            f'{{"e":"markPriceUpdate","E":{rig.now_ms},"s":"BTCUSDT","p":"100.01","r":"0.0001",'
            f'"T":{START_MS + 360_000_000}}}'.encode()
        ]

    def book() -> list[bytes]:
        rig.now_ms += 1
        return [
            f'{{"stream":"btcusdt@bookTicker","data":{{"e":"bookTicker","u":{rig.now_ms},"s":"BTCUSDT","b":"99.99",'
            f'"B":"5.007","a":"100.01","A":"2.5","T":{rig.now_ms},"E":{rig.now_ms},"st":1}}}}'.encode()
        ]

    def closes() -> list[bytes]:
        pair.larger_bars()
        return pair.closing_frames()

    return {"kline_frame_to_decision": kline, "minute_close_of_two": closes, "book_frame": book, "mark_frame": mark}


def inside(calls: int, folder: Path) -> None:
    """Run each path `calls` times; only what lies between the requests is counted."""
    request, rigs = _requests(), []
    for name, symbols in (("one", 1), ("pair", 2)):
        (folder / name).mkdir(parents=True)
        rigs.append(PathRig(folder / name, symbols, rounds=100))
        rigs[-1].quotes()
    for name, frames_of in paths(*rigs).items():
        feed = (rigs[1] if name == "minute_close_of_two" else rigs[0]).decoder.feed
        for turn in range(2 + calls):
            frames = frames_of()
            if turn == 2:
                request(ZERO, b"")  # what the first calls alone do is not the path's
            request(START, b"")
            for frame in frames:
                feed(frame, 1)
            request(STOP, b"")
        request(DUMP_AT, name.encode())


def _requests() -> Callable[[int, bytes], int]:
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(REQUEST)
    code = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    words = (ctypes.c_size_t * 6)()

    def request(number: int, text: bytes) -> int:
        kept = ctypes.create_string_buffer(text)
        words[0], words[1] = number, ctypes.addressof(kept)
        return int(code(ctypes.addressof(words)))

    request.memory = memory  # type: ignore[attr-defined]  # as long as the function
    return request


def main() -> int:
    """Count, print, and return 1 when a budget is exceeded; 0 also where nothing can be counted, which is said."""
    if sys.argv[1:2] == ["--inside"]:
        inside(int(sys.argv[2]), Path(sys.argv[3]))
        return 0
    if reason := why_not():
        print(f"no instruction counts: {reason}")
        return 0
    budgets = tomllib.loads((Path(__file__).parent / "budget.toml").read_text())["instructions"]
    with tempfile.TemporaryDirectory() as folder:
        found = counts(Path(folder))
    over = 0
    for name, budget in budgets.items():
        exceeded = found[name] > budget
        over += exceeded
        print(f"{name:<28} {found[name]:12,.0f} of {budget:10,.0f} instructions  {'OVER BUDGET' if exceeded else 'ok'}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())

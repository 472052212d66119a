"""Building the tl2cgen libraries of a bundle, in the background and never in the engine.

`python -m engine.model.building BUNDLE DATA_DIR` builds, and asks the engine that serves the bundle to switch.
"""

from __future__ import annotations

import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from engine.errors import DataError
from engine.model.compiled import COMPILED_FOLDER
from engine.model.opening import open_packed
from kernels.schema import TARGETS

COMPILER = "gcc"


def build(bundle: Path) -> Path:
    """Compile the bundle's treelite checkpoints to shared libraries and prove them on the golden rows.

    Takes about 30 s of gcc for 8 × 200 trees × 31 leaves. Raises DataError without a compiler or on a wrong prediction.
    """
    import tl2cgen
    import treelite

    if shutil.which(COMPILER) is None:
        raise DataError(f"predictor tl2cgen: expected a C compiler named {COMPILER} on the PATH, found none")
    final = bundle / COMPILED_FOLDER
    partial = Path(tempfile.mkdtemp(prefix=".compiled-", dir=bundle))
    try:
        for target in TARGETS:
            model = treelite.Model.deserialize(str(bundle / f"{target}.treelite"))
            parameters = {"parallel_comp": max(1, model.num_tree // 25)}  # gcc is not linear in a file's size
            tl2cgen.export_lib(model, COMPILER, str(partial / f"{target}.so"), params=parameters, nthread=1)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        try:
            open_packed(bundle, "tl2cgen")
        except DataError:
            shutil.rmtree(final)
            raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


def build_and_select(bundle: Path, data_dir: Path) -> str:
    """Build; if the engine that runs on `data_dir` serves this bundle and is to use tl2cgen, ask it to switch now.

    Returns the backend that serves then, or why no engine was asked.
    """
    from engine.link import command

    build(bundle)

    def ask(verb: str, args: dict[str, Any]) -> dict[str, Any]:
        answer = command(data_dir, verb, actor="tl2cgen build", args=args, command_id=secrets.token_hex(16))
        if not answer.get("ok"):
            raise DataError(f"the engine refused: {answer.get('error')}")
        return dict(answer["result"])

    try:
        status = ask("status", {})
        if status["model_id"] != bundle.name or status["predictor"] != "tl2cgen":
            return str(status["backend"])
        return str(ask("predictor", {"predictor": "tl2cgen"})["backend"])
    except ConnectionError:
        return "no engine runs"


if __name__ == "__main__":
    print(build_and_select(Path(sys.argv[1]), Path(sys.argv[2])))

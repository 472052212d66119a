"""The engine's door: checks what needs no code of the engine, sets its helper to work, then loads and runs it."""

from __future__ import annotations

import uvloop

from engine.config import Config, without_keys
from engine.log import to_stderr
from engine.opening import Opening, lock_folder
from engine.urgency import check_cpu

__all__ = ["lock_folder", "serve"]


def serve(config: Config) -> None:
    """Run the engine until SIGTERM or Ctrl-C. Raises ConfigError for what cannot start."""
    to_stderr()
    config = without_keys(config)
    check_cpu(config.cpu)

    async def run() -> None:
        opening = Opening(config)
        await opening.begin()
        import kernels.compile  # noqa: F401 (first: it loads numba without what no kernel needs)
        from engine.process import Engine  # a second or two: the helper fetches meanwhile

        await Engine(config, opening).run()

    uvloop.run(run())

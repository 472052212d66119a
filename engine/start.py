"""What a run started from, kept beside its journal: configuration, bars and samples, for replay to fold them again.

The journal holds what came in; the feature states also depend on the bars that were in the bar files before the first
of it, and those rings move on. One file per run, `<engine>-<run id>.start` (an uncompressed .npz), written before the
streams open: about 100 bytes per folded bar, 2 MB for 4 symbols, some 300 MB for 600. Only the newest are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from engine.config import Config
from engine.errors import DataError
from engine.market.panel import Panel
from engine.market.rings import BarFile, bar_path
from engine.market.samples import FUNDING, OPEN_INTEREST
from kernels.records import TIMEFRAMES

KEPT = 8  # runs that can be replayed; a crash loop must not fill the disk


class _Recorded(Config):
    """A configuration as it was: this process's environment has no say."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def start_path(journal_folder: Path, engine_id: str, run_id: int) -> Path:
    """Return where a run's start is kept."""
    return journal_folder / f"{engine_id}-{run_id}.start"


def keep_start(config: Config, run_id: int, panel: Panel) -> Path:
    """Keep configuration, bars and samples of a panel that is about to be seeded; older starts beyond KEPT go.

    Raises OSError, and leaves nothing, when the disk has no room for it.
    """
    folder = config.data_dir / "journal"
    path = start_path(folder, config.engine_id, run_id)
    text = config.model_dump_json(exclude={"secrets", "data_dir"})
    parts: dict[str, Any] = {"config": np.frombuffer(text.encode(), np.uint8)}
    for symbol, name in enumerate(panel.symbols):
        for timeframe, label in enumerate(TIMEFRAMES):
            file = panel.files[timeframe][symbol]
            parts[f"bars/{name}.{label}"] = file.ordered(panel.warmup[symbol])
        for kind in (OPEN_INTEREST, FUNDING):
            parts[f"samples/{name}.{kind}"] = panel.samples[symbol].held(kind)
    partial = path.with_suffix(".new")
    try:
        with open(partial, "wb") as out:
            np.savez(out, allow_pickle=False, **parts)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    partial.rename(path)
    for old in sorted(folder.glob(f"{config.engine_id}-*.start"), key=lambda p: p.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def panel_of(config: Config, folder: Path, symbols: list[str], on_vector: Any) -> Panel:
    """Return the panel that a run with this configuration has over the bar files in `folder`."""
    market = config.market
    return Panel(
        folder,
        symbols,
        on_vector,
        deadline_ms=market.deadline_ms,
        btc_symbol=market.btc_symbol,
        warmup_bars=market.warmup_bars,
        btc_warmup_bars=market.btc_warmup_bars,
        ring_bars=market.ring_bars,
        btc_ring_bars=market.btc_ring_bars,
    )


class Start:
    """A run's start, read back."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise DataError(
                f"{path}: the run's start is not there; it is written when an engine starts, the newest {KEPT} are kept"
            )
        with np.load(path, allow_pickle=False) as parts:
            self._parts = {name: parts[name] for name in parts.files}
        text = self._parts["config"].tobytes().decode()
        self.config: Config = cast(Config, _Recorded.model_validate_json(text))
        self.symbols = list(self.config.market.symbols)

    def write_bar_files(self, folder: Path) -> None:
        """Write the kept bars as bar files, from which a panel folds what the run folded."""
        market = self.config.market
        for name in self.symbols:
            capacity = market.btc_ring_bars if name == market.btc_symbol else market.ring_bars
            for timeframe, label in enumerate(TIMEFRAMES):
                file = BarFile.create(bar_path(folder, name, timeframe), name, timeframe, capacity)
                file.rewrite(self._parts[f"bars/{name}.{label}"])
                file.close()

    def samples(self, name: str, kind: int) -> Any:
        """Return SAMPLE[] of one kind, as they were known at the start."""
        return self._parts[f"samples/{name}.{kind}"]

    def panel(self, folder: Path, on_vector: Any) -> Panel:
        """Return a panel over its own bar files in `folder`, seeded as the run's was."""
        self.write_bar_files(folder)
        panel = panel_of(self.config, folder, self.symbols, on_vector)
        for symbol, name in enumerate(self.symbols):
            for kind in (OPEN_INTEREST, FUNDING):
                panel.seed_samples(symbol, kind, self.samples(name, kind))
        return panel

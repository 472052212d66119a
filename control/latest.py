"""The newest signal of each symbol: of 600 only those are put together anew that have changed."""

from __future__ import annotations

from control import present
from control.shapes import Signal
from engine.link import SnapshotView


class LatestSignals:
    """Keeps the signals of one engine run, by symbol."""

    def __init__(self) -> None:
        self._run = -1
        self._signals: dict[str, Signal] = {}
        self._newest_seq = 0

    def read(self, view: SnapshotView) -> list[Signal]:
        """Return the newest signal of each symbol, newest first, then by name."""
        run = int(view.status["run_id"][0])
        if run != self._run:
            self._run, self._newest_seq, self._signals = run, 0, {}
        for item in present.latest_signals(view, after_seq=self._newest_seq):
            self._signals[item.symbol] = item
        self._newest_seq = int(view.signals["seq"].max(initial=0))
        return sorted(self._signals.values(), key=lambda item: (-item.decision_ms, item.symbol))

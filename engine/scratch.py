"""What replay and backtest put in the journal's place: kernels build their records in scratch words, one at a time."""

from __future__ import annotations

from engine.journal import BAR_RUNS, BAR_SLOTS, WORDS_PER_SLOT, Writer
from kernels.records import MAX_RECORD_BYTES, SLOTS, Kind

SCRATCH_WORDS = max(MAX_RECORD_BYTES // 8, BAR_SLOTS * WORDS_PER_SLOT)


class Scratch(Writer):
    """A writer without files: kernels build in `words`, uint64[SCRATCH_WORDS]; `placed` takes from its beginning."""

    def together(self) -> None:
        """There are no segments."""

    def place(self, kind: Kind) -> int:
        """Return where a kernel may build a record: always at the beginning of `words`."""
        return 0

    def place_bar(self, known: int = 0) -> int:
        """Return where a kernel may build the records of a closed bar in a row: at the beginning of `words` too."""
        self.dropping = known
        return 0

    def placed_bar(self, count: int) -> int:
        """Take the records of a closed bar, each moved to the beginning in its turn."""
        at, seq = 0, self.seq
        for kind in BAR_RUNS[self.dropping][count][0]:
            size = SLOTS[kind] * WORDS_PER_SLOT
            self.words[:size] = self.words[at : at + size]
            seq, at = self.placed(kind), at + size
        return seq

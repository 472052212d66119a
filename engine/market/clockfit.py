"""Exchange time from a few questions to its time endpoint: offset and rate against the monotonic clock. Pure."""

from __future__ import annotations

from collections import deque

SAMPLES = 128  # at one in 5 s: the last ten minutes
BEST_SHARE = 4  # the quarter of the samples with the shortest round trips decides
STALE_S = 120.0
RESOLUTION_MS = 0.5  # the exchange tells whole milliseconds, cut off: half of one is added
MAX_ERROR_MS = 250.0
MAX_DRIFT_PPM = 500.0  # a quartz is within 100; more means that a sample lied
STEP_MS = 1_000.0  # a sample this far from the fit, beyond its own round trip, and repeated, is a step of the clock


class ClockFit:
    """Fits server_ms = offset + rate · mono over the samples with the shortest round trips.

    The exchange read its clock somewhere between sending and receiving, so a sample's error is at most half of its
    round trip; short ones are best. Without enough spread in time the rate is 1.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int, float]] = deque(maxlen=SAMPLES)  # middle ns, round trip ns, server ms
        self._base_ns = 0
        self._base_ms = 0.0
        self._rate = 1.0
        self._error_ms = float("inf")
        self._off = 0
        self.steps = 0

    def add(self, sent_ns: int, received_ns: int, server_ms: int) -> None:
        """Take one answer: monotonic nanoseconds of sending and receiving, the exchange's milliseconds."""
        if received_ns < sent_ns:
            return
        middle_ns, trip_ns = (sent_ns + received_ns) // 2, received_ns - sent_ns
        said_ms = server_ms + RESOLUTION_MS
        if self._samples and abs(self.exchange_ms(middle_ns) - said_ms) > STEP_MS + trip_ns / 2e6:
            self._off += 1
            if self._off < 3:
                return
            self._samples.clear()
            self.steps += 1
        self._off = 0
        self._samples.append((middle_ns, trip_ns, said_ms))
        self._fit()

    def slept(self, ns: int) -> None:
        """Take note that the machine slept: the monotonic clock stood still for so long, the exchange's went on."""
        self._samples = deque(((at - ns, trip, said) for at, trip, said in self._samples), maxlen=SAMPLES)
        self._base_ns -= ns

    def _fit(self) -> None:
        chosen = sorted(self._samples, key=lambda sample: sample[1])[: max(1, len(self._samples) // BEST_SHARE)]
        base_ns, base_ms = chosen[0][0], chosen[0][2]
        x = [(middle - base_ns) / 1e6 for middle, _, _ in chosen]
        y = [said - base_ms - dx for (_, _, said), dx in zip(chosen, x, strict=True)]
        mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
        spread = sum((dx - mean_x) ** 2 for dx in x)
        slope = 0.0
        if len(chosen) >= 8 and max(x) - min(x) > 60_000.0:
            slope = sum((dx - mean_x) * (dy - mean_y) for dx, dy in zip(x, y, strict=True)) / spread
            slope = max(-MAX_DRIFT_PPM * 1e-6, min(MAX_DRIFT_PPM * 1e-6, slope))
        self._rate = 1.0 + slope
        self._base_ns = base_ns
        self._base_ms = base_ms + mean_y - slope * mean_x
        self._error_ms = max(trip for _, trip, _ in chosen) / 2e6 + RESOLUTION_MS

    def exchange_ms(self, mono_ns: int) -> float:
        """Return the exchange's time at a moment of the monotonic clock; 0.0 before the first sample."""
        if not self._samples:
            return 0.0
        return self._base_ms + (mono_ns - self._base_ns) / 1e6 * self._rate

    @property
    def samples(self) -> int:
        """How many answers the fit rests on."""
        return len(self._samples)

    @property
    def drift_ppm(self) -> float:
        """How much faster than ours the exchange's clock runs, in parts per million."""
        return (self._rate - 1.0) * 1e6

    @property
    def error_ms(self) -> float:
        """Bound on the error at the newest samples: half of the longest round trip that was used."""
        return self._error_ms

    def good(self, mono_ns: int) -> bool:
        """Tell whether orders may rely on the time: a bounded error and a sample not older than `STALE_S`."""
        if not self._samples or self._off:
            return False
        return self._error_ms <= MAX_ERROR_MS and mono_ns - self._samples[-1][0] <= STALE_S * 1e9

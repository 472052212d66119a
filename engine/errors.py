"""The kinds of error: bugs (ordinary exceptions), the exchange's faults, refusals to start, and ends that may pass."""

from __future__ import annotations


class ConfigError(Exception):
    """Refuse to start: every fault found, one per line. The command line prints it and exits with code 2."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


class ExchangeError(Exception):
    """What the exchange answered or did wrong: counted, repaired, survived."""

    def __init__(self, status: int, code: int, message: str) -> None:
        self.status = status
        self.code = code
        self.message = message
        super().__init__(f"HTTP {status}, code {code}: {message}" if status else message)


class DataError(Exception):
    """Data that cannot be accepted: names the file, the row, what was expected and what was found."""


class FencedError(Exception):
    """Another process took over this engine's key while it stood still; it must end, and may be started again."""


class NotNowError(Exception):
    """Refuse to start for a reason that may pass (the exchange does not answer): exit code 1, so it is tried again."""

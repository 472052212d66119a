"""What the store refuses, and why."""

from __future__ import annotations


class StoreError(Exception):
    """The store cannot be reached or refuses a statement; the message says what to do."""


class ImportRefused(Exception):
    """A file is not accepted; nothing of it was stored. Names the file, the row, what is wrong and the remedy."""

    def __init__(self, path: str, reason: str, *, row: int | None = None, remedy: str = "") -> None:
        self.path, self.reason, self.row, self.remedy = path, reason, row, remedy
        where = f"{path}, row {row}" if row is not None else path
        super().__init__(f"{where}: {reason}" + (f"; {remedy}" if remedy else ""))

"""How the exchange says no."""

from __future__ import annotations


class Refusal(Exception):
    """An answer with the exchange's error body `{"code":…,"msg":…}` and its HTTP status."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        self.code = code
        self.message = message
        self.status = status
        super().__init__(f"{code} {message}")

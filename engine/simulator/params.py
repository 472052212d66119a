"""Request parameters: typed, with the exchange's refusals; no input makes anything but a Refusal."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from engine.simulator.errors import Refusal

MAX_TIME_MS = 10**15
_INTEGER = re.compile(r"^[+-]?\d{1,18}$")
_DECIMAL = re.compile(r"^[+-]?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})$")


class Params:
    """The parameters of one request; where query and body both have one, the query's counts."""

    def __init__(self, query: str, body: str = "") -> None:
        self.values: dict[str, str] = {}
        for part in (body, query):
            for name, value in parse_qsl(part, keep_blank_values=True, max_num_fields=200) if part else []:
                self.values[name] = value

    @classmethod
    def of(cls, values: dict[str, object]) -> Params:
        """Return the parameters of a JSON object: numbers and booleans as the text they would have been in a query."""
        made = cls("")
        for name, value in values.items():
            if isinstance(value, bool):
                made.values[name] = str(value).lower()
            elif isinstance(value, (str, int)):
                made.values[name] = str(value)
            elif isinstance(value, float):
                made.values[name] = f"{value:.12f}".rstrip("0").rstrip(".")
            elif value is not None:
                raise Refusal(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
        return made

    def has(self, name: str) -> bool:
        """Return whether the parameter was sent with a value."""
        return bool(self.values.get(name))

    def optional(self, name: str) -> str | None:
        """Return the value, or None when absent or empty."""
        return self.values.get(name) or None

    def text(self, name: str) -> str:
        """Return a mandatory value."""
        value = self.values.get(name)
        if value is None:
            raise Refusal(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
        if not value:
            raise Refusal(-1105, f"Parameter '{name}' was empty.")
        return value

    def choice(self, name: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        """Return one of `allowed`."""
        value = self.values.get(name) or default
        if value is None:
            self.text(name)
        if value not in allowed:
            raise Refusal(-1130, f"Data sent for parameter '{name}' is not valid.")
        return value

    def integer(self, name: str, default: int | None, low: int, high: int) -> int:
        """Return an integer within [low, high]."""
        value = self.values.get(name)
        if value is None or value == "":
            if default is None:
                self.text(name)
            return default  # type: ignore[return-value]
        if not _INTEGER.match(value):
            raise Refusal(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
        number = int(value)
        if not low <= number <= high:
            raise Refusal(-1130, f"Data sent for parameter '{name}' is not valid.")
        return number

    def time(self, name: str) -> int | None:
        """Return a time in ms, or None."""
        return self.integer(name, 0, 0, MAX_TIME_MS) if self.has(name) else None

    def boolean(self, name: str, default: bool = False) -> bool:
        """Return a "true"/"false" value."""
        value = (self.values.get(name) or str(default)).lower()
        if value not in ("true", "false"):
            raise Refusal(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
        return value == "true"

    def units(self, name: str, decimals: int) -> int | None:
        """Return a decimal value as an integer of 10^-decimals, or None when absent; too precise is refused (-1111)."""
        value = self.values.get(name)
        if value is None or value == "":
            return None
        return to_units(value, decimals, name)


def to_units(value: str, decimals: int, name: str) -> int:
    """Return the decimal text as an integer of 10^-decimals."""
    if not _DECIMAL.match(value):
        raise Refusal(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    sign = -1 if value.startswith("-") else 1
    whole, _, part = value.lstrip("+-").partition(".")
    part = part.rstrip("0")
    if len(part) > decimals:
        raise Refusal(-1111, "Precision is over the maximum defined for this asset.")
    return sign * (int(whole or "0") * 10**decimals + int((part or "0").ljust(decimals, "0") if decimals else 0))

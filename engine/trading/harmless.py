"""Keeps an onlooker's faults away from trading: what only observes may be wrong, but never stops an order."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from engine.log import get_logger

T = TypeVar("T")
log = get_logger(__name__)


def harmless(*names: str) -> Callable[[type[T]], type[T]]:
    """Make these methods of a class report what they raise instead of raising it; `faults` of the object counts."""

    def wrap(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def guarded(self: Any, *arguments: Any, **named: Any) -> Any:
            try:
                return method(self, *arguments, **named)
            except Exception as error:
                self.faults += 1
                trace = "".join(traceback.format_exception(error))
                log.error("onlooker_failed", who=type(self).__name__, what=method.__name__, error=trace)
                return None

        return guarded

    def decorate(cls: type[T]) -> type[T]:
        for name in names:
            setattr(cls, name, wrap(getattr(cls, name)))
        return cls

    return decorate

"""Run the promotion gate on stored candles that neither model has seen, by the engine's own backtest."""

from __future__ import annotations

from control.jobs.backtest import instruments
from control.jobs.inputs import choose_symbols, history
from engine.backtest.history import Progress
from engine.config import Config
from engine.model import load
from engine.model.gate import Verdict, judge, unseen_from
from engine.model.opening import read_manifest
from engine.model.policy import Earned, Market, earn
from engine.model.registry import Entry, Event, Registry
from store.client import Store

EVER_MS = 1 << 42


def stored_market(store: Store, config: Config, symbols: list[str], to_ms: int = EVER_MS) -> Market:
    """Return what is stored of `symbols` before `to_ms`, for a backtest."""
    histories = [history(store, symbol, to_ms) for symbol in symbols]
    btc_symbol = config.market.btc_symbol
    btc = next((found for found in histories if found.symbol == btc_symbol), None)
    return Market(config, histories, btc or history(store, btc_symbol, to_ms), instruments(store, symbols))


def examine(
    store: Store, config: Config, registry: Registry, candidate: Entry, production: Entry | None,
    progress: Progress = lambda what, done, total: None,
) -> Verdict:  # fmt: skip
    """Judge a candidate against the production model, or against not trading."""
    models = [candidate, *([production] if production is not None else [])]
    from_ms = unseen_from([read_manifest(registry.path(entry.model_id)) for entry in models])
    market = stored_market(store, config, choose_symbols(store, config, []))
    if not any(len(found.bars) and found.bars["open_ms"][-1] >= from_ms for found in market.histories):
        return judge(None, None)
    earned: list[Earned] = []
    for entry in models:
        tell = lambda what, done, total, name=entry.model_id: progress(f"{name}: {what}", done, total)  # noqa: E731
        earned.append(earn(market, load(registry.path(entry.model_id)), from_ms, progress=tell))
    return judge(earned[0], earned[1] if production is not None else None)


def already_tried(events: list[Event], candidate: str, found: Verdict) -> str:
    """Return why a passing or failing comparison needs force, or "": the bundle was refused, or the period was used.

    A second look at the same days is a search for a lucky one. Tries that found too little evidence do not count.
    """
    for event in events:
        evidence = event.evidence or {}
        if evidence.get("verdict") not in ("pass", "not better"):
            continue
        if event.model_id == candidate and event.action == "refused":
            return "this bundle was refused before"
        if evidence["from_ms"] <= found.to_ms and found.from_ms <= evidence["to_ms"]:
            return f"the gate has already compared a model ({event.model_id}) on these days"
    return ""

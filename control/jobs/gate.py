"""Run the promotion gate on stored candles and labels that neither model has seen."""

from __future__ import annotations

from control.jobs.inputs import choose_symbols, read_symbol
from engine.config import Config
from engine.errors import DataError
from engine.model import load
from engine.model.dataset import Dataset, SymbolData, build
from engine.model.gate import Verdict, judge, unseen_from
from engine.model.policy import PolicySettings
from engine.model.predictor import read_manifest
from engine.model.registry import Entry, Event, Registry
from store import queries
from store.client import Store

EVER_MS = 1 << 42


def policy_settings(config: Config) -> PolicySettings:
    """Return the decision's thresholds and sizes as configured."""
    decision, risk = config.decision, config.risk
    return PolicySettings(
        decision.min_er,
        decision.max_tail,
        decision.max_mae_atr,
        decision.min_hold_minutes,
        decision.max_hold_minutes,
        risk.risk_fraction,
        risk.max_leverage,
    )


def examine(store: Store, config: Config, registry: Registry, candidate: Entry, production: Entry | None) -> Verdict:
    """Judge a candidate against the production model, or against not trading."""
    models = [candidate, *([production] if production is not None else [])]
    manifests = [read_manifest(registry.path(entry.model_id)) for entry in models]
    rows = _rows(store, config, unseen_from(manifests))
    predictors = [load(registry.path(entry.model_id)) for entry in models]
    return judge(rows, predictors[0], predictors[1] if production is not None else None, policy_settings(config))


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


def _rows(store: Store, config: Config, from_ms: int) -> Dataset | None:
    """Return the labelled rows at or after `from_ms`, in time order, or None."""
    parts = []
    for symbol in choose_symbols(store, config, []):
        long, short = (queries.labels(store, side, symbol, from_ms, EVER_MS) for side in ("long", "short"))
        if len(long):
            inputs = read_symbol(store, config, symbol, EVER_MS)
            parts.append(SymbolData(symbol, inputs.close_ms, inputs.vectors, long, short))
    try:
        return build(parts, config.barriers.time_limit_minutes)
    except DataError:
        return None  # labels without a ready vector beside them

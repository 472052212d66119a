"""What a restart knows: the newest segment's snapshot, the records after it, and the durable file beyond them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from engine import journal
from engine.errors import DataError
from engine.market.routes import PAPER
from engine.trading.account import ALLOW, HALT, STOPPED, Account
from engine.trading.positions import Positions, as_row
from engine.trading.twin import LIVE_RESULT
from kernels.records import HEAD, RECORDS, Kind, OrderState, PositionEvent, Reason
from kernels.stops import POSITION

ORDER_FIELDS = (
    "position_id", "side", "state", "reason", "reduce_only", "order_type", "qty", "price", "filled_qty",
    "average_price", "order_id",
)  # fmt: skip
FILL_FIELDS = ("position_id", "side", "maker", "qty", "price", "fee_usdt", "trade_id", "event_ms")
APPLIED = frozenset(
    {
        Kind.SNAPSHOT,
        Kind.INSTRUMENT,
        Kind.SIGNAL,
        Kind.POSITION,
        Kind.ORDER,
        Kind.FILL,
        Kind.ACCOUNT,
        Kind.TRADE,
        Kind.TWIN,
        Kind.COMMAND,
    }
)
MONEY = (("realised_usdt", 1.0), ("fees_usdt", -1.0), ("funding_usdt", 1.0))
SNAPSHOT_FORMAT = 2  # raised whenever a key of the snapshot changes its meaning or a new one cannot be done without
SNAPSHOT_PART_BYTES = RECORDS[Kind.SNAPSHOT]["payload"].itemsize


@dataclass
class Restored:
    """State of the previous run. Symbols are names: indices belong to a run's own instrument table."""

    run_id: int = 0
    last_seq: int = 0
    whose: str = ""  # the account that the run traded on: `engine.market.routes.account_of`
    account: Account | None = None
    positions: list[dict[str, Any]] = field(default_factory=list)
    open_orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    entries: dict[int, dict[str, Any]] = field(default_factory=dict)  # by position id: what open entry orders asked for
    model_path: str = ""
    session: dict[str, Any] = field(default_factory=dict)
    closed_trades: int = 0
    twins: dict[int, dict[str, Any]] = field(default_factory=dict)  # by position id: the open ones
    trade_ids: dict[str, set[int]] = field(default_factory=dict)  # booked executions of open orders by client order id
    booked: dict[int, set[int]] = field(default_factory=dict)  # booked executions by open position
    touched_ms: dict[str, int] = field(default_factory=dict)  # the newest trade by symbol
    half_booked: dict[str, Any] | None = None  # the last FILL, when a run died before its position was written
    resumed: bool = False  # what was open is the desk's now, and no longer what stands here
    closing: dict[int, tuple[float, float]] = field(default_factory=dict)  # exited quantity and notional, by position
    untraded: dict[int, dict[str, Any]] = field(default_factory=dict)  # closed positions without their TRADE record
    exits: dict[int, int] = field(default_factory=dict)  # why open positions are being left, by position id
    stopped_ms: dict[str, int] = field(default_factory=dict)  # the newest stopped-out trade by symbol: its cooldown


def pack_state(
    account: Account,
    positions: Positions,
    symbols: list[str],
    model_path: str,
    session: dict[str, Any],
    open_orders: dict[str, dict[str, Any]],
    entries: dict[int, dict[str, Any]],
    twins: list[dict[str, Any]],
    booked: dict[int, set[int]],
    touched_ms: dict[str, int],
    closing: dict[int, tuple[float, float]],
    untraded: dict[int, dict[str, Any]],
    half_booked: dict[str, Any] | None,
    exits: dict[int, int],
    whose: str,
) -> bytes:
    """Return the snapshot's payload: everything a restart needs, symbols by name."""
    names = POSITION.names or ()
    rows = []
    for row in positions.rows[: positions.count]:
        values = dict(zip(names, row.item(), strict=True))
        values["symbol"] = symbols[values["symbol"]]
        values["model_id"] = positions.model_of.get(values["position_id"], b"").decode()
        rows.append(values)
    state = account.state()
    state["halted_symbols"] = [symbols[i] for i in state["halted_symbols"]]
    state["cooldown_until_ms"] = [(symbols[i], t) for i, t in state["cooldown_until_ms"]]
    return orjson.dumps(
        {"format": SNAPSHOT_FORMAT, "account": state, "positions": rows, "model_path": model_path, "session": session,
         "open_orders": open_orders, "entries": {str(i): values for i, values in entries.items()},
         "booked": {str(i): sorted(ids) for i, ids in booked.items()}, "touched_ms": touched_ms, "twins": twins,
         "closing": {str(i): done for i, done in closing.items()}, "untraded": list(untraded.values()),
         "half_booked": half_booked, "exits": {str(i): reason for i, reason in exits.items()}, "whose": whose}
    )  # fmt: skip


def write_snapshot(writer: journal.Writer, payload: bytes, mono_ns: int, now_ms: int) -> None:
    """Write the payload as a series of SNAPSHOT records."""
    parts = -(-len(payload) // SNAPSHOT_PART_BYTES)
    for part in range(parts):
        piece = payload[part * SNAPSHOT_PART_BYTES : (part + 1) * SNAPSHOT_PART_BYTES]
        writer.write(Kind.SNAPSHOT, mono_ns, now_ms, len(piece), part, parts, piece)


def restore(folder: Path, engine_id: str, symbols: list[str], whose: str = "") -> Restored:
    """Rebuild the state of the newest run from its newest segment that holds a whole snapshot.

    whose: the newest run on this account ("": on whichever): paper positions are no real ones, nor is one exchange's
    equity the peak of another's. A position or limit of a symbol that is no longer configured raises ValueError: it
    must not lose its guard silently; so does a real position or order that an engine on another account would leave
    behind. DataError: the snapshot was written by a release whose snapshots this one cannot read.
    """
    segments = journal.segments(folder, engine_id) if folder.is_dir() else []
    index = {name: i for i, name in enumerate(symbols)}
    others: set[int] = set()
    for segment in reversed(segments):
        if segment.run_id in others:
            continue
        records = journal.read_records(segment, APPLIED)
        payload = _snapshot(records)
        if payload is None:
            continue
        result = Restored(segment.run_id)
        _load(result, _readable(payload, str(segment.path)), index)
        records += _durable_beyond(folder, segment, records)
        _apply(result, records, index)
        if whose and result.whose and result.whose != whose:
            _require_flat(result, whose)
            others.add(segment.run_id)
            continue
        _require_known(result, index)
        _take_marks(result, segment, records)
        return result
    return Restored()


def from_snapshot(records: list[tuple[Kind, np.void]], symbols: list[str]) -> Restored | None:
    """Return the state that the first whole snapshot in `records` holds; None where there is none."""
    payload = _snapshot(records)
    if payload is None:
        return None
    result = Restored()
    _load(result, _readable(payload, "the recorded run"), {name: i for i, name in enumerate(symbols)})
    return result


def _take_marks(result: Restored, segment: journal.SegmentFile, records: list[tuple[Kind, np.void]]) -> None:
    """Give the open positions their last marks: at those of their last own record (often the entry) the first equity
    of the new run would show neither profit nor loss, and a peak or a day could begin with it.
    """
    if not result.positions:
        return
    marks = journal.read_kind(segment, Kind.MARK)
    index = {bytes(r["symbol"]).decode(): int(r["index"]) for kind, r in records if kind is Kind.INSTRUMENT}
    for values in result.positions:
        own = np.flatnonzero(marks["symbol"] == index.get(values["symbol"], -1))
        if len(own):
            values["mark_price"] = float(marks["price"][own[-1]])


def _snapshot(records: list[tuple[Kind, np.void]]) -> bytes | None:
    parts: list[bytes] = []
    for kind, record in records:
        if kind is Kind.SNAPSHOT:
            parts.append(record["payload"].tobytes()[: int(record["bytes"])])
            if int(record["part"]) + 1 == int(record["parts"]):
                return b"".join(parts)
    return None


def _readable(payload: bytes, source: str) -> dict[str, Any]:
    """Return the snapshot's content. Raises DataError when it is not of this release's format."""
    state: dict[str, Any] = orjson.loads(payload)
    found = state.get("format", 1)
    if found != SNAPSHOT_FORMAT:
        raise DataError(
            f"{source}: its snapshot has format {found}; this release reads {SNAPSHOT_FORMAT}. Close the positions "
            "with the release that wrote it and move the journal folder away, or go on with that release"
        )
    return state


def _load(result: Restored, state: dict[str, Any], index: dict[str, int]) -> None:
    account = state["account"]
    account["halted_symbols"] = [index[name] for name in account["halted_symbols"] if name in index]
    account["cooldown_until_ms"] = [(index[n], t) for n, t in account["cooldown_until_ms"] if n in index]
    result.account = Account.from_state(account)
    result.positions = state["positions"]
    result.model_path, result.session = state["model_path"], state["session"]
    result.open_orders, result.whose = state["open_orders"], state.get("whose", "")
    result.entries = {int(i): values for i, values in state["entries"].items()}
    result.twins = {int(values["position_id"]): values for values in state["twins"]}
    result.booked = {int(i): set(ids) for i, ids in state["booked"].items()}
    result.touched_ms = dict(state["touched_ms"])
    result.trade_ids = {name: set(values["trade_ids"]) for name, values in result.open_orders.items()}
    result.closing = {int(i): (done[0], done[1]) for i, done in state.get("closing", {}).items()}
    result.untraded = {int(values["position_id"]): values for values in state.get("untraded", [])}
    result.half_booked = state.get("half_booked")
    result.exits = {int(i): reason for i, reason in state.get("exits", {}).items()}


def _durable_beyond(
    folder: Path, segment: journal.SegmentFile, records: list[tuple[Kind, np.void]]
) -> list[tuple[Kind, np.void]]:
    """Records that the durable file has and the segment lost (a power cut)."""
    last_seq = int(records[-1][1]["seq"]) if records else 0
    path = folder / f"{segment.engine_id}-{segment.run_id}.durable"
    if not path.exists():
        return []
    return [(kind, r) for kind, r in journal.read_durable(path) if int(r["seq"]) > last_seq]


def _apply(result: Restored, records: list[tuple[Kind, np.void]], index: dict[str, int]) -> None:
    """Carry the snapshot forward over the records that follow it."""
    names: dict[int, str] = {}
    models: dict[int, str] = {}
    signals: dict[int, np.void] = {}
    open_by_id = {p["position_id"]: p for p in result.positions}
    assert result.account is not None
    for number, (kind, record) in enumerate(records, 1):
        result.last_seq = int(record["seq"])
        half = result.half_booked
        if half is not None and _tells(kind, record, half, open_by_id, result.open_orders):
            _apply_fill(result, open_by_id, half)
            result.half_booked = None
        if kind is Kind.INSTRUMENT:
            names[int(record["index"])] = bytes(record["symbol"]).decode()
        elif kind is Kind.SIGNAL:
            models[int(record["seq"])] = bytes(record["model_id"]).decode()
            if record["entered"]:
                signals[int(record["seq"])] = record
        elif kind is Kind.POSITION:
            _apply_position(result, open_by_id, record, names, models)
        elif kind is Kind.ORDER:
            _apply_order(result, record, names)
            _apply_entry(result, record, signals, names)
        elif kind is Kind.FILL:
            fill = {name: record[name].item() for name in FILL_FIELDS} | {"symbol": names[int(record["symbol"])]}
            fill["client_order_id"] = bytes(record["client_order_id"]).decode()
            if number < len(records):
                _apply_fill(result, open_by_id, fill)
            else:  # its position's record follows at once, or its order's
                result.half_booked = fill
        elif kind is Kind.ACCOUNT:
            _apply_account(result.account, record)
        elif kind is Kind.TRADE:
            result.untraded.pop(int(record["position_id"]), None)
            _apply_trade(result, record, names[int(record["symbol"])])
        elif kind is Kind.COMMAND:
            _apply_halt(result.account, record, index)
        elif kind is Kind.TWIN:
            _apply_twin(result.twins, record, names)
    result.positions = list(open_by_id.values())
    result.trade_ids = {name: ids for name, ids in result.trade_ids.items() if name in result.open_orders}
    for name, values in result.open_orders.items():  # the next run's first snapshot holds them as they are here
        values["trade_ids"] = sorted(result.trade_ids.get(name, ()))
    result.booked = {i: ids for i, ids in result.booked.items() if i in open_by_id}
    result.closing = {i: done for i, done in result.closing.items() if i in open_by_id or i in result.untraded}
    result.exits = {i: reason for i, reason in result.exits.items() if i in open_by_id}


def _tells(
    kind: Kind, record: np.void, half: dict[str, Any], open_by_id: dict[int, dict[str, Any]],
    open_orders: dict[str, dict[str, Any]],
) -> bool:  # fmt: skip
    """Whether a record tells that its run has booked the fill which the one before it left without its position."""
    if kind is Kind.POSITION and int(record["position_id"]) == half["position_id"]:
        held = open_by_id.get(half["position_id"])
        return held is None or int(record["event"]) == PositionEvent.FINAL or float(record["qty"]) != held["qty"]
    if kind is Kind.ORDER and bytes(record["client_order_id"]).decode() == half["client_order_id"]:
        return float(record["filled_qty"]) > open_orders.get(half["client_order_id"], {}).get("filled_qty", 0.0)
    return False


def _apply_fill(result: Restored, open_by_id: dict[int, dict[str, Any]], fill: dict[str, Any]) -> None:
    name, trade_id, position_id, symbol = (
        fill["client_order_id"], fill["trade_id"], fill["position_id"], fill["symbol"],
    )  # fmt: skip
    qty, notional = fill["qty"], fill["qty"] * fill["price"]
    result.trade_ids.setdefault(name, set()).add(trade_id)
    result.booked.setdefault(position_id, set()).add(trade_id)
    result.touched_ms[symbol] = max(result.touched_ms.get(symbol, 0), fill["event_ms"])
    order = result.open_orders.get(name)
    if order is not None:  # its own record follows the position's: a run may die between the two
        total = order["filled_qty"] + qty
        order["average_price"] = (order["average_price"] * order["filled_qty"] + notional) / total
        order["filled_qty"] = total
    held = open_by_id.get(position_id)
    if held is not None and held["side"] == -fill["side"]:
        done_qty, done_notional = result.closing.get(position_id, (0.0, 0.0))
        result.closing[position_id] = done_qty + qty, done_notional + notional


def _apply_trade(result: Restored, trade: np.void, symbol: str) -> None:
    """Take a TRADE record into the state: streak, cooldown, and the live side of its twin."""
    position_id, reason = int(trade["position_id"]), int(trade["reason"])
    assert result.account is not None
    result.closed_trades += 1
    result.closing.pop(position_id, None)
    result.account.losing_streak = result.account.losing_streak + 1 if trade["net_usdt"] < 0.0 else 0
    if reason in STOPPED:
        result.stopped_ms[symbol] = int(trade["time_ms"])
    twin = result.twins.get(position_id)
    if twin is not None and not twin["live_closed_ms"]:
        twin |= {"live_reason": reason, "live_closed_ms": int(trade["closed_ms"])}
        twin |= {f"live_{name}": float(trade[name]) for name in LIVE_RESULT}


def _apply_halt(account: Account, record: np.void, index: dict[str, int]) -> None:
    """Carry over which symbols rest until a person looks: a restart never lifts it."""
    name = bytes(record["argument"]).decode()
    if name not in index or int(record["phase"]) != 1 or int(record["code"]):
        return
    verb = bytes(record["verb"]).decode()
    if verb == HALT:
        account.halted_symbols.add(index[name])
    elif verb == ALLOW:
        account.halted_symbols.discard(index[name])


def _apply_position(
    result: Restored, open_by_id: dict[int, dict[str, Any]], record: np.void, names: dict[int, str],
    models: dict[int, str],
) -> None:  # fmt: skip
    position_id = int(record["position_id"])
    values = {name: record[name].item() for name in POSITION.names or ()}
    values["symbol"] = names[values["symbol"]]
    before = open_by_id.get(position_id, {})
    values["model_id"] = models.get(position_id) or before.get("model_id", "")
    assert result.account is not None  # until its next record: what this event moved
    result.account.wallet_usdt += sum(sign * (values[name] - before.get(name, 0.0)) for name, sign in MONEY)
    if int(record["event"]) != PositionEvent.FINAL:
        open_by_id[position_id] = values
        return
    open_by_id.pop(position_id, None)
    if int(record["reason"]) != Reason.ADJUST:  # an adjustment is no trade
        result.untraded[position_id] = values | {"closed_ms": int(record["time_ms"])}


def _apply_twin(twins: dict[int, dict[str, Any]], record: np.void, names: dict[int, str]) -> None:
    position_id = int(record["position_id"])
    if int(record["event"]) == PositionEvent.FINAL:
        twins.pop(position_id, None)
        return
    own = [name for name in record.dtype.names or () if name not in (HEAD.names or ())]
    twins[position_id] = {name: record[name].item() for name in own} | {"symbol": names[int(record["symbol"])]}


def _apply_order(result: Restored, record: np.void, names: dict[int, str]) -> None:
    name = bytes(record["client_order_id"]).decode()
    if record["reduce_only"] and name.endswith("-x"):  # of ours, not the exchange's or a person's
        result.exits[int(record["position_id"])] = int(record["reason"])
    state = OrderState(int(record["state"]))
    done = state in (
        OrderState.FILLED, OrderState.CANCELLED, OrderState.REJECTED, OrderState.EXPIRED, OrderState.ABSENT,
    )  # fmt: skip
    if done:
        result.open_orders.pop(name, None)
        return
    values = {field: record[field].item() for field in ORDER_FIELDS}
    values["symbol"], values["trade_ids"] = names[int(record["symbol"])], []
    values["created_ms"] = result.open_orders.get(name, {}).get("created_ms", int(record["time_ms"]))
    result.open_orders[name] = values


def _apply_entry(result: Restored, record: np.void, signals: dict[int, np.void], names: dict[int, str]) -> None:
    """Keep what an open entry order asked for, so that its fill after a restart gets its guard."""
    position_id = int(record["position_id"])
    if record["reduce_only"]:
        return
    if bytes(record["client_order_id"]).decode() not in result.open_orders:
        result.entries.pop(position_id, None)
    elif position_id in signals and position_id not in result.entries:
        signal = signals[position_id]
        fields = ("tp_price", "sl_price", "atr_15m", "decision_ms", "side")
        result.entries[position_id] = {name: signal[name].item() for name in fields} | {
            "symbol": names[int(signal["symbol"])], "qty": record["qty"].item(), "limit_price": record["price"].item(),
            "model_id": bytes(signal["model_id"]).decode(),
        }  # fmt: skip


def _apply_account(account: Account, record: np.void) -> None:
    account.wallet_usdt, account.known_ms = float(record["wallet_usdt"]), int(record["time_ms"])
    account.equity_usdt = float(record["equity_usdt"])
    account.peak_equity_usdt = float(record["peak_equity_usdt"])
    account.day_start_equity_usdt = account.equity_usdt - float(record["day_pnl_usdt"])
    account.day_ms = int(record["day_start_ms"])
    account.losing_streak = int(record["losing_streak"])
    account.run_state = int(record["run_state"])


def _require_flat(result: Restored, whose: str) -> None:
    held = [*result.positions, *result.open_orders.values()]
    if held and result.whose != PAPER:
        names = ", ".join(sorted({values["symbol"] for values in held}))
        raise ValueError(
            f"the journal's newest run traded {result.whose} and holds {names}; an engine on {whose} would leave that "
            f"unguarded: start {result.whose} again and close it first, or take another data folder"
        )


def _require_known(result: Restored, index: dict[str, int]) -> None:
    lost = sorted({p["symbol"] for p in result.positions if p["symbol"] not in index})
    if lost:
        raise ValueError(
            f"open positions of the previous run in {', '.join(lost)}, which market.symbols no longer names: "
            "add them back, or close the positions first"
        )


def reopen(result: Restored, positions: Positions, symbols: list[str]) -> None:
    """Put the restored positions into the desk's array."""
    index = {name: i for i, name in enumerate(symbols)}
    for values in result.positions:
        row = np.array([as_row(values, index)], POSITION)
        row["reason"] = int(Reason.ENTRY)
        positions.open(row, values["model_id"].encode())

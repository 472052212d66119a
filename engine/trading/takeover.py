"""Live trading over its journal, and the moment when it takes over what stands on the exchange. Opens no socket.

A live engine comes here with its sockets behind the door, a replay with the recorded answers.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy.typing as npt
import orjson

from engine.assemble import Parts
from engine.config import Config
from engine.exchange.order_budget import OrderBudget
from engine.exchange.replies import Reply
from engine.exchange.requests import TAKE_PROFIT, Call, Request
from engine.exchange.steps import Step
from engine.exchange.venue import Sender
from engine.log import get_logger
from engine.trading.carry import resume_orders, resume_twins
from engine.trading.live import LiveGateway
from engine.trading.margin import Tier
from engine.trading.orders import Order, is_ours
from engine.trading.preflight import Report
from engine.trading.session import LiveTrading
from kernels.records import Kind, RunState

log = get_logger(__name__)


@dataclass
class Found:
    """What a start finds beside the restored state, which the snapshot at the head of the journal holds.

    fresh: no earlier run is known.
    """

    report: Report
    fresh: bool = False

    def pack(self) -> bytes:
        """Return it as JSON; `unpack` gives the same back, digit for digit."""
        return orjson.dumps({"report": asdict(self.report), "fresh": self.fresh})

    @staticmethod
    def unpack(payload: bytes) -> Found:
        """Return what `pack` was called on."""
        values = orjson.loads(payload)
        report = values["report"]
        report["tiers"] = {name: [Tier(**tier) for tier in tiers] for name, tiers in report["tiers"].items()}
        report["most_usdt"] = {n: math.inf if most is None else most for n, most in report["most_usdt"].items()}
        return Found(Report(**report), values["fresh"])


def steps_of(instruments: npt.NDArray[Any]) -> list[tuple[Step, Step]]:
    """Return price step and quantity step of each INSTRUMENT row."""
    return [Step.of(row) for row in instruments]


def join(
    config: Config,
    symbols: list[str],
    instruments: npt.NDArray[Any],
    parts: Parts,
    gateway: LiveGateway,
    sender: Sender,
    budget: OrderBudget,
) -> LiveTrading:
    """Put live trading around an assembled core whose orders leave through `gateway`."""
    core = parts.core

    def feed_mark(symbol: int, price: float, time_ms: int) -> None:
        core.on_mark(symbol, price, core.funding_rate[symbol], core.next_funding_ms[symbol], time_ms, 0)

    trading = LiveTrading(
        config.live, symbols, instruments, core.marks, core.mark_ms, core.desk, gateway, sender, budget,
        (config.engine_id, parts.journal.run_id), feed_mark,
    )  # fmt: skip
    gateway.on_answer = _Answers(parts)
    return trading


class _Answers:
    """Journals what the exchange answered about an order, in columns: INPUT holds the answer itself."""

    def __init__(self, parts: Parts) -> None:
        self._journal = parts.journal

    def __call__(self, order: Order, answer: int, reply: Reply, now_ms: int) -> None:
        result = reply.result if isinstance(reply.result, dict) else {}
        self._journal.write(
            Kind.GATEWAY, time.monotonic_ns(), now_ms, order.symbol, answer, reply.code,
            order.client_order_id.encode(), int(result.get("orderId") or 0), float(result.get("executedQty") or 0),
            float(result.get("avgPrice") or 0), str(result.get("status", reply.outcome.name)).encode()[:24],
            reply.message.encode()[:96],
        )  # fmt: skip


def take_over(
    parts: Parts, trading: LiveTrading, config: Config, symbols: list[str], found: Found, now_ms: int
) -> None:
    """Make our books start from what the exchange states: wallet, positions, stops, orders of unknown fate."""
    report, restored = found.report, parts.restored
    desk, index = trading.desk, {name: i for i, name in enumerate(symbols)}
    trading.admission.untraded = {index[name]: why for name, why in report.untraded.items()}
    trading.admission.closed = "; ".join(report.closed)
    if report.closed:
        why = trading.admission.closed
        trading.alarm("entries_closed", -1, f"{why}; what is held is guarded, entries begin after a start without it")
    trading.brackets.caps_usdt = parts.core.notional_caps_usdt
    trading.brackets.most_usdt = {index[name]: most for name, most in report.most_usdt.items()}
    trading.brackets.take(report.tiers, now_ms)
    parts.core.on_listing = trading.admission.relist
    for asset in report.fee_assets:
        trading.fees.watch(asset)
    account = desk.account
    if found.fresh:
        account.equity_usdt = account.peak_equity_usdt = account.day_start_equity_usdt = report.wallet_usdt
    account.transfer(report.transferred_usdt)
    account.wallet_usdt, account.known_ms = report.wallet_usdt, now_ms
    if account.run_state == RunState.RUNNING and not config.control.live_auto_start:
        account.run_state = int(RunState.STOPPED)  # in live entries begin again by command alone; a halt stays
    for slot in range(desk.positions.count):
        row = desk.positions.rows[slot]
        trading.reconciler.event(int(row["symbol"]), int(row["opened_ms"]))
        for trade_id in desk.booked.get(int(row["position_id"]), ()):
            trading.foreign.remember(int(row["symbol"]), trade_id)
    for symbol, time_ms in desk.touched_ms.items():
        trading.reconciler.event(symbol, time_ms)
    held_ids = desk.positions.rows["position_id"][: desk.positions.count].tolist()
    trading.inherited = frozenset(held_ids) | frozenset(restored.entries)
    _take_stops(parts, trading, config, report, index, now_ms)
    resume_twins(restored, parts.core.twins, desk, symbols, now_ms)
    resumed = resume_orders(restored, desk, trading.gateway, symbols, now_ms)
    held = [int(desk.positions.rows[slot]["symbol"]) for slot in range(desk.positions.count)]
    foreign = [index[row["symbol"]] for row in report.positions if row["symbol"] in index]
    trading.reconciler.on_read(report.positions, sorted({*held, *foreign}), now_ms)
    desk.mark_account(now_ms)
    desk.write_account(now_ms)
    trading.begin(now_ms)
    log.info("live", positions=len(held), resumed_orders=resumed, untraded=report.untraded, changed=report.changed)


def _take_stops(
    parts: Parts, trading: LiveTrading, config: Config, report: Report, index: dict[str, int], now_ms: int
) -> None:
    """Adopt our standing stops of positions that we hold, or may hold; cancel those of positions that are gone."""
    positions = trading.desk.positions
    held = {
        int(row["symbol"]): (int(row["position_id"]), int(row["side"])) for row in positions.rows[: positions.count]
    }
    for position_id, entry in parts.restored.entries.items():  # its fill may be what the stop stands for
        if entry["symbol"] in index:
            held.setdefault(index[entry["symbol"]], (position_id, int(entry["side"])))
    # takes first: a stop that is adopted arms the take profit that is missing
    takes_first = sorted(report.algos, key=lambda row: row["orderType"] != TAKE_PROFIT)
    for row in takes_first:
        name, symbol = str(row["clientAlgoId"]), index.get(row["symbol"], -1)
        if not is_ours(name, config.engine_id):
            continue
        position_id, held_side = held.get(symbol, (0, 0))
        side = 1 if row["side"] == "SELL" else -1
        protection = trading.takes if row["orderType"] == TAKE_PROFIT else trading.protection
        if held_side == side and protection.may_enter(symbol):
            protection.adopt(position_id, symbol, side, str(row["triggerPrice"]), name, int(row["algoId"]), now_ms)
        else:
            trading.sender.send(Request(Call.ALGO_CANCEL, {"clientAlgoId": name}), lambda reply: None)

"""What is looked at before the first live order: modes, rights, margin, leverage, strangers, and a canary stop.

The judging functions are pure; `preflight` asks and judges. It never closes, cancels or changes what is not ours.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.config import LiveConfig
from engine.exchange.replies import Outcome, Reply
from engine.exchange.requests import Call, Request, canary_stop
from engine.exchange.steps import Step
from engine.log import get_logger
from engine.trading.foreign import SPECIAL
from engine.trading.income import TRANSFER
from engine.trading.margin import Tier, read_brackets
from engine.trading.orders import is_ours

log = get_logger(__name__)

CANARY = "cnry-"
FORCED = tuple(prefix for prefix, _ in SPECIAL)  # client order ids of the exchange's own orders
NO_CHANGE_NEEDED = -4046
CANARY_AWAY = 0.75  # of the mark: 25 % below
CANARY_WAIT_S = 5.0
LAG_S = 6.0  # REST may show what is over for so long: a stranger must still be there after it
LOOK_AGAIN_S = 0.5
FORBIDDEN_RIGHTS = ("enableWithdrawals", "enableInternalTransfer", "permitsUniversalTransfer")


class Caller(Protocol):
    """Makes REST calls."""

    async def ask(self, request: Request) -> Reply:
        """Return the reply of a call that may be repeated."""
        ...

    async def call(self, request: Request) -> Reply:
        """Return the reply."""
        ...


class Watched:
    """Calls that are remembered when nobody answered them with a yes or a no: what they end in may pass."""

    def __init__(self, rest: Caller) -> None:
        self._rest, self.unanswered = rest, 0

    async def ask(self, request: Request) -> Reply:
        """Return the reply of a call that may be repeated."""
        return self._note(await self._rest.ask(request))

    async def call(self, request: Request) -> Reply:
        """Return the reply."""
        return self._note(await self._rest.call(request))

    def _note(self, reply: Reply) -> Reply:
        self.unanswered += reply.outcome in (Outcome.NOT_DONE, Outcome.UNKNOWN)
        return reply


@dataclass
class Report:
    """faults: why live trading is refused; passing: not for good, the exchange did not answer. closed: what would be a
    fault, but something is held: it is guarded, and entries stay closed. untraded: symbols that rest, with the reason.
    """

    faults: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    untraded: dict[str, str] = field(default_factory=dict)
    tiers: dict[str, list[Tier]] = field(default_factory=dict)
    most_usdt: dict[str, float] = field(default_factory=dict)  # maxNotionalValue of symbolConfig
    wallet_usdt: float = 0.0
    transferred_usdt: float = 0.0  # what was moved in or out of the wallet while nobody listened
    positions: list[dict[str, Any]] = field(default_factory=list)
    algos: list[dict[str, Any]] = field(default_factory=list)
    fee_assets: list[str] = field(default_factory=list)  # held assets that fees may be paid in
    changed: list[str] = field(default_factory=list)
    passing: bool = False


def judge_sides(config: dict[str, Any]) -> list[str]:
    """Return whether accountConfig says hedge mode, in which not one of our orders would be accepted."""
    if config.get("dualSidePosition"):
        return ["the account is in hedge mode; this system needs one-way mode (dualSidePosition=false)"]
    return []


def judge_modes(config: dict[str, Any]) -> list[str]:
    """Return what else is wrong with accountConfig: single-asset margin and the right to trade are required."""
    faults = []
    if config.get("multiAssetsMargin"):
        faults.append("the account is in multi-assets mode; this system needs single-asset margin")
    if config.get("canTrade") is False:
        faults.append("the account may not trade (canTrade=false)")
    return faults


def judge_rights(reply: Reply, production: bool) -> list[str]:
    """Return what is wrong with the key's rights. Unreachable rights are a fault in production only."""
    if not reply.ok or not isinstance(reply.result, dict):
        text = f"the key's restrictions could not be read (HTTP {reply.status}, code {reply.code})"
        return [text] if production else []
    rights = reply.result
    faults = [f"the key has the right {name}; make one without it" for name in FORBIDDEN_RIGHTS if rights.get(name)]
    if not rights.get("enableFutures"):
        faults.append("the key may not trade futures (enableFutures=false)")
    if production and not rights.get("ipRestrict"):
        faults.append("the key is not restricted to IP addresses; restrict it")
    return faults


def judge_strangers(
    positions: list[dict[str, Any]], orders: list[dict[str, Any]], algos: list[dict[str, Any]], engine_id: str,
    known: set[str], adopt: bool,
) -> list[str]:  # fmt: skip
    """Return positions and orders on the account that this system did not open; none when `adopt`.

    The exchange's own forced orders (liquidation, auto-deleveraging, settlement) are nobody's to close: refusing to
    start beside one would leave the account without its guards, and REST may show it for seconds after its end.
    """
    if adopt:
        return []
    faults = [
        f"foreign position {row['symbol']} {row['positionAmt']}"
        for row in positions
        if float(row["positionAmt"]) and row["symbol"] not in known
    ]
    faults += [
        f"foreign order {row['symbol']} {row['clientOrderId']}"
        for row in orders
        if not is_ours(str(row["clientOrderId"]), engine_id) and not str(row["clientOrderId"]).startswith(FORCED)
    ]
    faults += [
        f"foreign algo order {row['symbol']} {row['clientAlgoId']}"
        for row in algos
        if not is_ours(str(row["clientAlgoId"]), engine_id) and not str(row["clientAlgoId"]).startswith(CANARY)
    ]
    return [f"{fault}; close it, or start with live.adopt" for fault in faults]


async def preflight(
    rest: Caller,
    settings: LiveConfig,
    engine_id: str,
    symbols: list[str],
    steps: list[tuple[Step, Step]],
    least_qty: list[float],
    least_notional: list[float],
    known: set[str],
    production: bool,
    unlisted: frozenset[str] = frozenset(),
) -> Report:
    """Ask everything, change margin type and leverage where they differ, place and cancel the canary.

    known: symbols in which this system already holds a position by its own journal; nothing that speaks against entries
    keeps their guards from them. unlisted: those that the listing does not let us trade: no place for a canary; where
    there is no other, what is known is guarded without one.
    """
    watched = Watched(rest)
    report = await _look(
        watched, settings, engine_id, symbols, steps, least_qty, least_notional, known, production, unlisted
    )
    report.passing = bool(report.faults and watched.unanswered)
    return report


async def _look(
    rest: Caller, settings: LiveConfig, engine_id: str, symbols: list[str], steps: list[tuple[Step, Step]],
    least_qty: list[float], least_notional: list[float], known: set[str], production: bool, unlisted: frozenset[str],
) -> Report:  # fmt: skip
    report = Report()
    config = await rest.ask(Request(Call.ACCOUNT_CONFIG))
    if not config.ok:
        report.faults.append(
            f"the account could not be read: HTTP {config.status}, code {config.code}: {config.message}"
        )
        return report
    report.faults += judge_sides(config.result)
    speaks = judge_modes(config.result) + judge_rights(await rest.ask(Request(Call.KEY_RIGHTS)), production)
    await _read_account(rest, report)
    if not report.faults:
        speaks += await _strangers(rest, report, engine_id, known, settings.adopt)
    theirs = any(row["symbol"] in symbols and row["symbol"] not in known for row in report.positions)
    if report.faults or not known or (theirs and not settings.adopt):  # theirs would be closed: a person decides
        report.faults += speaks
    if report.faults:
        return report
    await _sweep_canaries(rest, report)
    await _symbol_settings(rest, settings, symbols, report)
    index = next((i for i, name in enumerate(symbols) if name not in {*report.untraded, *unlisted}), None)
    if index is None and not known:
        whys = dict.fromkeys(sorted(unlisted), "not tradable by the exchange's listing") | report.untraded
        report.faults.append("no symbol can be traded: " + "; ".join(f"{s}: {w}" for s, w in whys.items()))
    elif index is not None:
        speaks += await _canary(rest, symbols[index], steps[index], least_qty[index], least_notional[index])
    (report.closed if known else report.faults).extend(speaks)
    return report


async def check_again(rest: Caller, settings: LiveConfig, symbols: list[str], tiers: dict[str, list[Tier]],
                      production: bool) -> Report:  # fmt: skip
    """Look at modes, rights, margin types and leverages once more: somebody changed the account's settings.

    What differs is set right again, as at start. No canary: positions may be open.
    """
    report = Report(tiers=tiers)
    config = await rest.ask(Request(Call.ACCOUNT_CONFIG))
    if not config.ok:
        report.faults.append(f"the account could not be read: code {config.code}: {config.message}")
        return report
    report.faults += judge_sides(config.result) + judge_modes(config.result)
    report.faults += judge_rights(await rest.ask(Request(Call.KEY_RIGHTS)), production)
    if not report.faults:
        await _symbol_settings(rest, settings, symbols, report)
    return report


async def transferred(rest: Caller, from_ms: int, to_ms: int) -> float:
    """Return what was moved into the wallet in between, less what was moved out: no result of trading."""
    params: dict[str, str | int] = {"incomeType": TRANSFER, "startTime": from_ms, "endTime": to_ms, "limit": 1_000}
    reply = await rest.ask(Request(Call.INCOME, params))
    if not reply.ok:
        log.warning("transfers_unknown", code=reply.code, text="money moved since the last run counts as a result")
        return 0.0
    return sum(float(row["income"]) for row in reply.result if row["asset"] == "USDT")


async def _strangers(rest: Caller, report: Report, engine_id: str, known: set[str], adopt: bool) -> list[str]:
    """Look for strangers until there are none or REST has had time to forget what is over: a restart right after an
    exit still sees the position, and refusing to start then would leave the account without its guards.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LAG_S
    while True:
        orders = await rest.ask(Request(Call.OPEN_ORDERS))
        if not orders.ok:
            return [f"open orders could not be read: code {orders.code}"]
        faults = judge_strangers(report.positions, orders.result or [], report.algos, engine_id, known, adopt)
        if not faults or loop.time() > deadline:
            return faults
        await asyncio.sleep(LOOK_AGAIN_S)
        positions, algos = await rest.ask(Request(Call.POSITIONS)), await rest.ask(Request(Call.OPEN_ALGOS))
        if positions.ok and algos.ok:
            report.positions, report.algos = _open(positions), algos.result


def _open(positions: Reply) -> list[dict[str, Any]]:
    return [row for row in positions.result if float(row["positionAmt"])]


async def _read_account(rest: Caller, report: Report) -> None:
    account = await rest.ask(Request(Call.ACCOUNT))
    positions = await rest.ask(Request(Call.POSITIONS))
    algos = await rest.ask(Request(Call.OPEN_ALGOS))
    brackets = await rest.ask(Request(Call.BRACKETS))
    for name, reply in (("account", account), ("positions", positions), ("algo orders", algos), ("brackets", brackets)):
        if not reply.ok:
            report.faults.append(f"{name} could not be read: HTTP {reply.status}, code {reply.code}: {reply.message}")
    if report.faults:
        return
    assets = {row["asset"]: row for row in account.result["assets"]}
    report.wallet_usdt = float(assets.get("USDT", {}).get("walletBalance", 0))
    report.fee_assets = [name for name in ("BNB",) if float(assets.get(name, {}).get("walletBalance", 0)) > 0.0]
    report.positions = _open(positions)
    report.algos = algos.result
    report.tiers = read_brackets(brackets.result)


async def _sweep_canaries(rest: Caller, report: Report) -> None:
    for row in report.algos:
        if str(row["clientAlgoId"]).startswith(CANARY):
            await rest.call(Request(Call.ALGO_CANCEL, {"clientAlgoId": row["clientAlgoId"]}))
    report.algos = [row for row in report.algos if not str(row["clientAlgoId"]).startswith(CANARY)]


async def _symbol_settings(rest: Caller, settings: LiveConfig, symbols: list[str], report: Report) -> None:
    """Margin type and leverage by symbolConfig; changed only where different, a refusal rests the symbol."""
    reply = await rest.ask(Request(Call.SYMBOL_CONFIG))
    if not reply.ok:
        report.faults.append(f"symbol configuration could not be read: code {reply.code}: {reply.message}")
        return
    now = {row["symbol"]: row for row in reply.result}
    for name in symbols:
        row = now.get(name)
        if row is None:
            report.untraded[name] = "not in symbolConfig"
            continue
        most = str(row.get("maxNotionalValue", ""))
        report.most_usdt[name] = float(most) if most.replace(".", "", 1).isdigit() else math.inf
        if row["marginType"] != settings.margin_type:
            change = Request(Call.MARGIN_TYPE, {"symbol": name, "marginType": settings.margin_type})
            answer = await rest.call(change)
            if not answer.ok and answer.code != NO_CHANGE_NEEDED:
                report.untraded[name] = f"margin type refused: code {answer.code}: {answer.message}"
                continue
            report.changed.append(f"{name} {settings.margin_type}")
        tiers = report.tiers.get(name)
        leverage = min(settings.leverage, tiers[0].leverage) if tiers else settings.leverage
        if int(row["leverage"]) != leverage:
            answer = await rest.call(Request(Call.LEVERAGE, {"symbol": name, "leverage": leverage}))
            if not answer.ok:
                report.untraded[name] = f"leverage refused: code {answer.code}: {answer.message}"
                continue
            report.changed.append(f"{name} {leverage}x")


async def _canary(
    rest: Caller, symbol: str, steps: tuple[Step, Step], least_qty: float, least_notional: float
) -> list[str]:
    """Place a harmless stop, see it, cancel it: the whole path of protection works with this key today."""
    mark = await rest.ask(Request(Call.MARK, {"symbol": symbol}))
    if not mark.ok:
        return [f"canary: no mark price of {symbol}: code {mark.code}"]
    price = float(mark.result["markPrice"])
    trigger = steps[0].floor(price * CANARY_AWAY)
    qty = steps[1].ceil(max(least_qty, least_notional / float(trigger)))
    name = f"{CANARY}{int(mark.result['time']):x}"
    placed = await rest.call(canary_stop(symbol, qty, trigger, name))
    if not placed.ok:
        return [f"canary: a far stop was refused: HTTP {placed.status}, code {placed.code}: {placed.message}"]
    seen = False
    deadline = asyncio.get_running_loop().time() + CANARY_WAIT_S
    while not seen and asyncio.get_running_loop().time() < deadline:
        query = await rest.ask(Request(Call.ALGO_QUERY, {"clientAlgoId": name}))
        seen = query.ok and query.result.get("algoStatus") == "NEW"
        if not seen:
            await asyncio.sleep(0.1)  # a query may lag behind the order
    gone = await rest.call(Request(Call.ALGO_CANCEL, {"clientAlgoId": name}))
    faults = [] if seen else ["canary: the far stop was accepted but never seen by a query"]
    return faults + ([] if gone.ok else [f"canary: could not be cancelled: code {gone.code}: {gone.message}"])

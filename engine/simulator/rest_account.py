"""The account over REST: balances, positions, switches, history, listen keys."""

from __future__ import annotations

from typing import Any

from engine.simulator import intake
from engine.simulator.errors import Refusal
from engine.simulator.instruments import MONEY, decimal
from engine.simulator.ledger import Account
from engine.simulator.margin import account_json, balance_row, max_notional_usdt, position_row
from engine.simulator.orders import order_json
from engine.simulator.params import Params
from engine.simulator.rest_orders import window
from engine.simulator.venue import Venue

DONE = {"code": 200, "msg": "success"}


class AccountDesk:
    """The handlers. Queries read the lagging view at the marks of now; switches act at once."""

    def __init__(self, venue: Venue) -> None:
        self.venue = venue

    def _seen(self, account: Account) -> tuple[Account, Any]:
        view = self.venue.views.of(account)
        return view.account, self.venue.summary(view.account, view.open_orders())

    async def account_v2(self, account: Account, params: Params) -> Any:
        """GET v2/account."""
        return account_json(self.venue.ledger, *self._seen(account), 2)

    async def account_v3(self, account: Account, params: Params) -> Any:
        """GET v3/account."""
        return account_json(self.venue.ledger, *self._seen(account), 3)

    async def balance(self, account: Account, params: Params) -> Any:
        """GET balance, v2 and v3."""
        return [balance_row(*self._seen(account))]

    async def positions_v2(self, account: Account, params: Params) -> Any:
        """GET v2/positionRisk: all symbols."""
        seen, summary = self._seen(account)
        rows = self._rows(params)
        sides = ("LONG", "SHORT") if seen.hedge else ("BOTH",)
        ledger, mark = self.venue.ledger, self.venue.mark
        return [position_row(ledger, seen, summary, s, side, mark(s), 2) for s in rows for side in sides]

    async def positions_v3(self, account: Account, params: Params) -> Any:
        """GET v3/positionRisk: symbols with a position or an open order."""
        seen, summary = self._seen(account)
        rows = set(self._rows(params))
        ledger, mark = self.venue.ledger, self.venue.mark
        return [position_row(ledger, seen, summary, s, side, mark(s), 3) for s, side in summary.parts if s in rows]

    def _rows(self, params: Params) -> list[int]:
        if params.has("symbol"):
            return [intake.symbol_index(self.venue, params)]
        return list(range(len(self.venue.ledger.instruments)))

    async def symbol_config(self, account: Account, params: Params) -> Any:
        """GET symbolConfig."""
        rows = []
        for s in self._rows(params):
            setting = account.setting(s)
            notional = str(max_notional_usdt(self.venue.ledger, s, setting.leverage))
            rows.append({
                "symbol": self.venue.instrument(s).symbol, "marginType": "ISOLATED" if setting.isolated else "CROSSED",
                "isAutoAddMargin": False, "leverage": setting.leverage, "maxNotionalValue": notional,
            })  # fmt: skip
        return rows

    async def account_config(self, account: Account, params: Params) -> Any:
        """GET accountConfig."""
        return {
            "feeTier": 0, "canTrade": account.can_trade, "canDeposit": True, "canWithdraw": True,
            "dualSidePosition": account.hedge, "updateTime": 0, "multiAssetsMargin": account.multi_assets,
            "tradeGroupId": -1,
        }  # fmt: skip

    # --- switches ---

    def _open_orders(self, account: Account, s: int | None = None) -> bool:
        orders = any(s in (None, order.s) for order in self.venue.matcher.of(account).open.values())
        return orders or any(s in (None, algo.s) for algo in self.venue.algos.open_of(account))

    def _in_position(self, account: Account, s: int | None = None) -> bool:
        return any(position.qty for (row, _), position in account.positions.items() if s in (None, row))

    async def dual_side(self, account: Account, params: Params) -> Any:
        """GET positionSide/dual."""
        return {"dualSidePosition": account.hedge}

    async def set_dual_side(self, account: Account, params: Params) -> Any:
        """POST positionSide/dual."""
        params.text("dualSidePosition")
        wanted = params.boolean("dualSidePosition")
        if wanted == account.hedge:
            raise Refusal(-4059, "No need to change position side.")
        if self._open_orders(account):
            raise Refusal(-4067, "Position side cannot be changed if there exists open orders.")
        if self._in_position(account):
            raise Refusal(-4068, "Position side cannot be changed if there exists position.")
        account.hedge = wanted
        self.venue.views.at_once(account)
        return DONE

    async def multi_assets(self, account: Account, params: Params) -> Any:
        """GET multiAssetsMargin."""
        return {"multiAssetsMargin": account.multi_assets}

    async def set_multi_assets(self, account: Account, params: Params) -> Any:
        """POST multiAssetsMargin."""
        params.text("multiAssetsMargin")
        wanted = params.boolean("multiAssetsMargin")
        if wanted == account.multi_assets:
            raise Refusal(-4171, "No need to change margin mode.")
        if wanted and any(setting.isolated for setting in account.settings.values()):
            message = "Unable to adjust to Multi-Assets mode with symbols of USDⓈ-M Futures under isolated-margin mode."
            raise Refusal(-4167, message)
        if self._open_orders(account):
            raise Refusal(-4170, "Unable to adjust Multi-Assets Mode with open orders in USDⓈ-M Futures")
        account.multi_assets = wanted
        self._config(account, {"ai": {"j": wanted}})
        self.venue.views.at_once(account)
        return DONE

    async def set_leverage(self, account: Account, params: Params) -> Any:
        """POST leverage."""
        s = intake.symbol_index(self.venue, params)
        params.text("leverage")
        leverage = params.integer("leverage", None, -(10**9), 10**9)
        item, setting = self.venue.instrument(s), account.setting(s)
        if not 1 <= leverage <= item.max_leverage:
            raise Refusal(-4028, f"Leverage {leverage} is not valid")
        if setting.isolated and leverage < setting.leverage and self._in_position(account, s):
            message = "Leverage reduction is not supported in Isolated Margin Mode with open positions."
            raise Refusal(-4161, message)
        before, setting.leverage = setting.leverage, leverage
        summary = self.venue.summary(account)
        largest = max((abs(part.notional) for (row, _), part in summary.parts.items() if row == s), default=0)
        bound = summary.position_initial + summary.order_initial
        if largest > max_notional_usdt(self.venue.ledger, s, leverage) * MONEY:
            setting.leverage = before
            raise Refusal(-2027, "Exceeded the maximum allowable position at current leverage.")
        if leverage < before and bound > summary.cross_wallet + summary.unrealised:
            setting.leverage = before
            raise Refusal(-2019, "Margin is insufficient.")
        self._config(account, {"ac": {"s": item.symbol, "l": leverage}})
        self.venue.views.at_once(account)
        notional = max_notional_usdt(self.venue.ledger, s, leverage)
        return {"leverage": leverage, "maxNotionalValue": str(notional), "symbol": item.symbol}

    def _config(self, account: Account, body: dict[str, Any]) -> None:
        now_ms = self.venue.now_ms()
        self.venue.users.publish(account, {"e": "ACCOUNT_CONFIG_UPDATE", "E": now_ms, "T": now_ms, **body})

    async def set_margin_type(self, account: Account, params: Params) -> Any:
        """POST marginType."""
        s = intake.symbol_index(self.venue, params)
        kind = params.text("marginType")
        if kind not in ("ISOLATED", "CROSSED"):
            raise Refusal(-4055, "Invalid margin type.")
        wanted = kind == "ISOLATED"
        setting = account.setting(s)
        if wanted and account.multi_assets:
            raise Refusal(-4168, "Unable to adjust to isolated-margin mode under the Multi-Assets mode.")
        if wanted == setting.isolated:
            raise Refusal(-4046, "No need to change margin type.")
        if self._open_orders(account, s):
            raise Refusal(-4047, "Margin type cannot be changed if there exists open orders.")
        if self._in_position(account, s):
            raise Refusal(-4048, "Margin type cannot be changed if there exists position.")
        setting.isolated = wanted
        self.venue.views.at_once(account)
        return DONE

    async def position_margin(self, account: Account, params: Params) -> Any:
        """POST positionMargin."""
        s = intake.symbol_index(self.venue, params)
        params.text("amount")
        amount = params.units("amount", 8) or 0
        kind = params.integer("type", 0, 1, 2)
        side = params.optional("positionSide") or "BOTH"
        position = account.positions.get((s, side))
        if amount <= 0:
            raise Refusal(-4050, "Amount must be positive.")
        if position is None or not position.qty or not account.setting(s).isolated:
            raise Refusal(-4054, "Cannot add position margin: position is 0.")
        change = amount if kind == 1 else -amount
        summary = self.venue.summary(account)
        if change > summary.available:
            raise Refusal(-4051, "Isolated balance insufficient.")
        part = summary.parts[s, side]
        if position.isolated_wallet + change + min(0, part.unrealised) < part.position_initial and kind == 2:
            raise Refusal(-4051, "Isolated balance insufficient.")
        position.isolated_wallet += change
        self.venue.account_event(account, "MARGIN_TRANSFER", [(s, side)])
        return {"amount": float(decimal(amount, 8)), "code": 200, "msg": "Successfully modify position margin.",
                "type": kind}  # fmt: skip

    # --- history and facts ---

    async def user_trades(self, account: Account, params: Params) -> Any:
        """GET userTrades."""
        s = intake.symbol_index(self.venue, params)
        limit = params.integer("limit", 500, 1, 1_000)
        first, number = params.integer("fromId", 0, 0, 2**62), params.integer("orderId", 0, 0, 2**62)
        start, end = window(params, self.venue.now_ms())
        item = self.venue.instrument(s)
        places, lots = item.price_decimals, item.qty_decimals
        found = []
        for order, fill, time_ms in self.venue.views.of(account).trades:
            if order.s != s or (number and order.id != number) or (first and fill.trade_id < first):
                continue
            if not first and not start <= time_ms <= end:
                continue
            found.append({
                "buyer": order.sign > 0, "commission": decimal(fill.fee, 8), "commissionAsset": "USDT",
                "id": fill.trade_id, "maker": fill.maker, "orderId": order.id, "price": decimal(fill.price, places),
                "qty": decimal(fill.qty, lots), "quoteQty": decimal(fill.qty * fill.price, places + lots),
                "realizedPnl": decimal(fill.realised, 8), "side": "BUY" if order.sign > 0 else "SELL",
                "positionSide": order.position_side, "symbol": item.symbol, "time": time_ms,
                "baseQty": "0", "marginAsset": "USDT", "pair": item.symbol,
            })  # fmt: skip
        return found[:limit] if first or params.has("startTime") else found[-limit:]

    async def income(self, account: Account, params: Params) -> Any:
        """GET income."""
        symbol, kind = params.optional("symbol"), params.optional("incomeType")
        limit = params.integer("limit", 100, 1, 1_000)
        start, end = params.time("startTime"), params.time("endTime")
        rows = [
            row
            for row in self.venue.views.of(account).income
            if symbol in (None, row["symbol"])
            and kind in (None, row["incomeType"])
            and (start is None or row["time"] >= start)
            and (end is None or row["time"] <= end)
        ]
        return rows[:limit] if start is not None else rows[-limit:]

    async def commission(self, account: Account, params: Params) -> Any:
        """GET commissionRate."""
        s = intake.symbol_index(self.venue, params)
        rates = {"makerCommissionRate": "0.000200", "takerCommissionRate": "0.000500", "rpiCommissionRate": "0.000000"}
        return {"symbol": self.venue.instrument(s).symbol} | rates

    async def brackets(self, account: Account, params: Params) -> Any:
        """GET leverageBracket: a list, or with a symbol its one object in a list's place."""
        rows = [
            {
                "symbol": self.venue.instrument(s).symbol,
                "brackets": [
                    {
                        "bracket": number, "initialLeverage": tier.max_leverage, "notionalCap": tier.cap_usdt,
                        "notionalFloor": tier.floor_usdt, "maintMarginRatio": tier.maintenance_ppm / 1e6,
                        "cum": tier.cum / MONEY,
                    }
                    for number, tier in enumerate(self.venue.instrument(s).brackets, 1)
                ],
            }
            for s in self._rows(params)
        ]  # fmt: skip
        return rows[0] if params.has("symbol") else rows

    async def adl_quantile(self, account: Account, params: Params) -> Any:
        """GET adlQuantile."""
        rows = []
        for s in self._rows(params):
            held = {side: 1 for (row, side), position in account.positions.items() if row == s and position.qty}
            if held or params.has("symbol"):
                quantile = {"LONG": held.get("LONG", 0), "SHORT": held.get("SHORT", 0), "BOTH": held.get("BOTH", 0)}
                rows.append({"symbol": self.venue.instrument(s).symbol, "adlQuantile": quantile})
        return rows

    async def force_orders(self, account: Account, params: Params) -> Any:
        """GET forceOrders: the account's liquidation and ADL orders."""
        rows = [
            order_json(order, self.venue.instrument(order.s))
            for order in self.venue.views.of(account).orders.values()
            if order.client_id.startswith(intake.RESERVED)
        ]
        return rows[-params.integer("limit", 50, 1, 100) :]

    async def restrictions(self, account: Account, params: Params) -> Any:
        """GET /sapi/v1/account/apiRestrictions."""
        return {
            "ipRestrict": True, "createTime": 1_698_645_219_000, "enableReading": True, "enableWithdrawals": False,
            "enableInternalTransfer": False, "permitsUniversalTransfer": False, "enableFutures": account.can_trade,
            "enableSpotAndMarginTrading": False, "enableMargin": False, "enableVanillaOptions": False,
        }  # fmt: skip

    async def coins(self, account: Account, params: Params) -> Any:
        """GET /sapi/v1/capital/config/getall: nothing but USDT."""
        return [{"coin": "USDT", "name": "TetherUS", "free": "0", "locked": "0", "networkList": [],
        "isLegalMoney": False, "depositAllEnable": False, "withdrawAllEnable": False, "trading": True}]  # fmt: skip

    async def fee_burn(self, account: Account, params: Params) -> Any:
        """GET feeBurn."""
        return {"feeBurn": False}

    # --- listen keys ---

    async def listen_open(self, account: Account, params: Params) -> Any:
        """POST listenKey."""
        return {"listenKey": self.venue.users.open(account)}

    async def listen_extend(self, account: Account, params: Params) -> Any:
        """PUT listenKey."""
        return {"listenKey": self.venue.users.extend(account)}

    async def listen_close(self, account: Account, params: Params) -> Any:
        """DELETE listenKey."""
        self.venue.users.close(account, self.venue.now_ms())
        return {}

"""The income history against our bookings, row by row."""

from __future__ import annotations

from typing import Any

from engine.exchange.replies import Reply
from engine.trading.income import EVERY_MS, WAIT_MS, IncomeCheck

START_MS = 1_800_000_000_000


class Exchange:
    """Answers income requests with the rows of the asked time."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []

    def send(self, request: Any, done: Any, route: int = 0) -> str:
        self.asked.append(request.params)
        first, last = request.params["startTime"], request.params["endTime"]
        found = [row for row in self.rows if first <= row["time"] <= last][: request.params["limit"]]
        done(Reply(200, 0, "", found))
        return "rest"

    def earn(self, kind: str, amount: float, time_ms: int, trade_id: str = "", asset: str = "USDT") -> None:
        self.rows.append(
            {"symbol": "BTCUSDT", "incomeType": kind, "income": f"{amount:.8f}", "asset": asset, "time": time_ms,
             "tranId": len(self.rows), "tradeId": trade_id}
        )  # fmt: skip


class Case:
    def __init__(self) -> None:
        self.exchange, self.alarms, self.now_ms = Exchange(), [], START_MS
        self.check = IncomeCheck(
            self.exchange, ["BTCUSDT"], lambda asset: 600.0, lambda kind, symbol, text: self.alarms.append(text)
        )
        self.check.advance(self.now_ms)

    def wait(self, ms: int) -> None:
        self.now_ms += ms
        self.check.advance(self.now_ms)


def test_trades_fees_and_funding_that_agree_leave_nothing_behind() -> None:
    case = Case()
    case.exchange.earn("COMMISSION", -0.5, START_MS + 1_000, "7")
    case.exchange.earn("COMMISSION", -0.0008, START_MS + 9_000, "8", "BNB")  # 0.48 USDT at 600
    case.exchange.earn("REALIZED_PNL", 12.5, START_MS + 9_000, "8")
    case.exchange.earn("FUNDING_FEE", -1.25, START_MS + 20_000)
    case.check.traded(0, 7, 0.0, 0.5, START_MS + 1_000)
    case.check.traded(0, 8, 12.5, 0.485, START_MS + 9_000)
    case.check.funded(0, -1.25, START_MS + 20_003)
    case.wait(EVERY_MS)
    case.wait(WAIT_MS)
    assert case.alarms == []
    assert case.check.matched == 3
    assert case.check.totals["REALIZED_PNL"] == [12.5, 12.5]
    assert case.check.totals["FUNDING_FEE"] == [-1.25, -1.25]


def test_a_trade_that_we_did_not_book_and_one_of_another_amount_are_named() -> None:
    case = Case()
    case.exchange.earn("COMMISSION", -0.5, START_MS + 1_000, "7")
    case.exchange.earn("COMMISSION", -0.5, START_MS + 2_000, "8")
    case.exchange.earn("REALIZED_PNL", 3.0, START_MS + 2_000, "8")
    case.check.traded(0, 8, 4.0, 0.5, START_MS + 2_000)
    case.check.traded(0, 9, 1.0, 0.5, START_MS + 3_000)
    for _ in range(5):
        case.wait(EVERY_MS)
    assert sorted(case.alarms) == [
        "trade 7: only one side tells of it",
        "trade 8: ours +4.0000 -0.5000, the exchange's +3.0000 -0.5000",
        "trade 9: only one side tells of it",
    ]
    assert case.check.differences == 3


def test_a_full_answer_is_continued_without_counting_its_edge_twice() -> None:
    case = Case()
    for number in range(2_500):
        case.exchange.earn("COMMISSION", -0.01, START_MS + 1_000 + number // 10, str(number))
        case.check.traded(0, number, 0.0, 0.01, START_MS + 1_000 + number // 10)
    for _ in range(8):
        case.wait(EVERY_MS)
    assert len({params["startTime"] for params in case.exchange.asked}) > 3
    assert case.check.matched == 2_500
    assert case.alarms == []
    assert abs(case.check.totals["COMMISSION"][1] + 25.0) < 1e-6

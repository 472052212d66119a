"""The exchange's documented REST interface as an OpenAPI document, written from its documentation: what schemathesis
generates requests from and checks replies against."""

from typing import Any

NUMBER, TEXT, WHOLE = {"type": "string", "pattern": r"^-?\d+(\.\d+)?$"}, {"type": "string"}, {"type": "integer"}
LIST = {"type": "array", "items": {}}


def one_of(*values: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


KINDS = ("LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET")
FLAG = one_of("true", "false")
INTERVAL = one_of("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")
PARAMETERS: dict[str, dict[str, Any]] = {
    "symbol": one_of("BTCUSDT", "ETHUSDT", "NOPE"),
    "pair": one_of("BTCUSDT", "ETHUSDT"),
    "interval": INTERVAL,
    "contractType": one_of("PERPETUAL", "CURRENT_QUARTER", "NEXT_QUARTER"),
    "period": one_of("5m", "15m", "30m", "1h", "2h", "4h", "6h", "12h", "1d"),
    "limit": {"type": "integer", "minimum": -2, "maximum": 2_000},
    "startTime": WHOLE,
    "endTime": WHOLE,
    "fromId": WHOLE,
    "side": one_of("BUY", "SELL"),
    "type": one_of(*KINDS),
    "timeInForce": one_of("GTC", "IOC", "FOK", "GTX", "GTD", "GTE_GTC"),
    "quantity": one_of("0.001", "0.01", "0.1", "1", "0.0001", "100000", "0", "-1"),
    "price": one_of("70000", "80000.1", "84000.00", "90000", "3000", "1", "0.001"),
    "reduceOnly": FLAG,
    "positionSide": one_of("BOTH", "LONG", "SHORT"),
    "newClientOrderId": {"type": "string", "pattern": r"^[\.A-Z\:/a-z0-9_-]{1,36}$"},
    "newOrderRespType": one_of("ACK", "RESULT"),
    "priceMatch": one_of("NONE", "OPPONENT", "OPPONENT_5", "QUEUE", "QUEUE_20"),
    "selfTradePreventionMode": one_of("NONE", "EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"),
    "goodTillDate": WHOLE,
    "orderId": WHOLE,
    "origClientOrderId": TEXT,
    "orderIdList": one_of("[1,2]", "[]", "[", '["a"]'),
    "batchOrders": one_of(
        "[]", "[1]", "{", '[{"symbol":"BTCUSDT","side":"BUY","type":"MARKET","quantity":"0.01"}]',
        '[{"symbol":"BTCUSDT","side":"BUY","orderId":5,"quantity":1,"price":{"a":1}}]',
    ),
    "algoType": one_of("CONDITIONAL", "VP"),
    "triggerPrice": one_of("60000", "80000", "84000", "100000", "0", "1"),
    "workingType": one_of("CONTRACT_PRICE", "MARK_PRICE"),
    "closePosition": FLAG,
    "activatePrice": one_of("80000", "90000"),
    "callbackRate": one_of("0.1", "1", "20", "25", "x"),
    "algoId": WHOLE,
    "clientAlgoId": TEXT,
    "countdownTime": {"type": "integer", "minimum": -1, "maximum": 10**12},
    "leverage": {"type": "integer", "minimum": -1, "maximum": 200},
    "marginType": one_of("ISOLATED", "CROSSED", "X"),
    "dualSidePosition": FLAG,
    "multiAssetsMargin": FLAG,
    "amount": one_of("1", "-1", "0.5", "1e5"),
    "incomeType": one_of("COMMISSION", "FUNDING_FEE", "REALIZED_PNL"),
    "recvWindow": {"type": "integer", "minimum": 1, "maximum": 60_000},
}  # fmt: skip
NEW_ORDER = (
    "symbol side type timeInForce quantity price reduceOnly positionSide newClientOrderId newOrderRespType priceMatch "
    "selfTradePreventionMode goodTillDate recvWindow"
)
NEW_ALGO = (
    "algoType symbol side type timeInForce quantity price triggerPrice workingType closePosition reduceOnly "
    "positionSide activatePrice callbackRate clientAlgoId priceMatch recvWindow"
)
ORDER_FIELDS = (
    "orderId symbol status clientOrderId price origQty executedQty timeInForce type reduceOnly side updateTime"
)
ALGO_FIELDS = "algoId clientAlgoId algoType orderType symbol side algoStatus triggerPrice closePosition createTime"
# (method, path): (parameters, fields that the reply or each of its rows must have); rows where the name ends with []
OPERATIONS: dict[tuple[str, str], tuple[str, str]] = {
    ("GET", "/fapi/v1/ping"): ("", ""),
    ("GET", "/fapi/v1/time"): ("", "serverTime"),
    ("GET", "/fapi/v1/exchangeInfo"): ("", "timezone serverTime rateLimits assets symbols"),
    ("GET", "/fapi/v1/depth"): ("symbol limit", "lastUpdateId E T bids asks"),
    ("GET", "/fapi/v1/trades"): ("symbol limit", "[] id price qty quoteQty time isBuyerMaker"),
    ("GET", "/fapi/v1/historicalTrades"): ("symbol limit fromId", "[] id price qty quoteQty time isBuyerMaker"),
    ("GET", "/fapi/v1/aggTrades"): ("symbol fromId startTime endTime limit", "[] a p q nq f l T m"),
    ("GET", "/fapi/v1/klines"): ("symbol interval startTime endTime limit", "rows"),
    ("GET", "/fapi/v1/continuousKlines"): ("pair contractType interval startTime endTime limit", "rows"),
    ("GET", "/fapi/v1/indexPriceKlines"): ("pair interval startTime endTime limit", "rows"),
    ("GET", "/fapi/v1/markPriceKlines"): ("symbol interval startTime endTime limit", "rows"),
    ("GET", "/fapi/v1/premiumIndexKlines"): ("symbol interval startTime endTime limit", "rows"),
    ("GET", "/fapi/v1/premiumIndex"): ("symbol", "[?] symbol markPrice indexPrice lastFundingRate time"),
    ("GET", "/fapi/v1/fundingRate"): ("symbol startTime endTime limit", "[] symbol fundingRate fundingTime markPrice"),
    ("GET", "/fapi/v1/fundingInfo"): ("", "[] symbol fundingIntervalHours"),
    ("GET", "/fapi/v1/openInterest"): ("symbol", "openInterest symbol time"),
    ("GET", "/futures/data/openInterestHist"): (
        "symbol period limit startTime endTime", "[] symbol sumOpenInterest sumOpenInterestValue timestamp"),
    ("GET", "/futures/data/topLongShortAccountRatio"): (
        "symbol period limit startTime endTime", "[] symbol longShortRatio timestamp"),
    ("GET", "/futures/data/topLongShortPositionRatio"): (
        "symbol period limit startTime endTime", "[] symbol longShortRatio timestamp"),
    ("GET", "/futures/data/globalLongShortAccountRatio"): (
        "symbol period limit startTime endTime", "[] symbol longShortRatio timestamp"),
    ("GET", "/futures/data/takerlongshortRatio"): (
        "symbol period limit startTime endTime", "[] buySellRatio buyVol sellVol timestamp"),
    ("GET", "/futures/data/basis"): (
        "pair contractType period limit startTime endTime", "[] pair basis basisRate timestamp"),
    ("GET", "/fapi/v1/ticker/24hr"): ("symbol", "[?] symbol lastPrice volume openTime closeTime count"),
    ("GET", "/fapi/v1/ticker/price"): ("symbol", "[?] symbol price time"),
    ("GET", "/fapi/v2/ticker/price"): ("symbol", "[?] symbol price time"),
    ("GET", "/fapi/v1/ticker/bookTicker"): ("symbol", "[?] symbol bidPrice bidQty askPrice askQty time"),
    ("GET", "/fapi/v1/tradingSchedule"): ("", ""),
    ("GET", "/fapi/v1/symbolAdlRisk"): ("symbol", "[?] symbol adlRisk"),
    ("POST", "/fapi/v1/order"): (NEW_ORDER, ORDER_FIELDS),
    ("POST", "/fapi/v1/order/test"): (NEW_ORDER, ""),
    ("PUT", "/fapi/v1/order"): ("symbol side quantity price orderId origClientOrderId priceMatch", ORDER_FIELDS),
    ("DELETE", "/fapi/v1/order"): ("symbol orderId origClientOrderId", ORDER_FIELDS),
    ("GET", "/fapi/v1/order"): ("symbol orderId origClientOrderId", ORDER_FIELDS),
    ("GET", "/fapi/v1/openOrder"): ("symbol orderId origClientOrderId", ORDER_FIELDS),
    ("GET", "/fapi/v1/openOrders"): ("symbol", "[] " + ORDER_FIELDS),
    ("GET", "/fapi/v1/allOrders"): ("symbol orderId startTime endTime limit", "[] " + ORDER_FIELDS),
    ("POST", "/fapi/v1/batchOrders"): ("batchOrders", "[]"),
    ("PUT", "/fapi/v1/batchOrders"): ("batchOrders", "[]"),
    ("DELETE", "/fapi/v1/batchOrders"): ("symbol orderIdList", "[]"),
    ("DELETE", "/fapi/v1/allOpenOrders"): ("symbol", "code msg"),
    ("POST", "/fapi/v1/countdownCancelAll"): ("symbol countdownTime", "symbol countdownTime"),
    ("GET", "/fapi/v1/orderAmendment"): ("symbol orderId origClientOrderId limit", "[] amendmentId orderId amendment"),
    ("GET", "/fapi/v1/rateLimit/order"): ("", "[] rateLimitType interval intervalNum limit"),
    ("POST", "/fapi/v1/algoOrder"): (NEW_ALGO, ALGO_FIELDS),
    ("GET", "/fapi/v1/algoOrder"): ("algoId clientAlgoId", ALGO_FIELDS + " actualOrderId"),
    ("DELETE", "/fapi/v1/algoOrder"): ("algoId clientAlgoId symbol", "algoId clientAlgoId code msg"),
    ("DELETE", "/fapi/v1/algoOpenOrders"): ("symbol", "code msg"),
    ("GET", "/fapi/v1/openAlgoOrders"): ("symbol algoId", "[] " + ALGO_FIELDS),
    ("GET", "/fapi/v1/allAlgoOrders"): ("symbol algoId startTime endTime limit", "[] " + ALGO_FIELDS),
    ("GET", "/fapi/v1/positionSide/dual"): ("", "dualSidePosition"),
    ("POST", "/fapi/v1/positionSide/dual"): ("dualSidePosition", "code msg"),
    ("POST", "/fapi/v1/leverage"): ("symbol leverage", "leverage maxNotionalValue symbol"),
    ("POST", "/fapi/v1/marginType"): ("symbol marginType", "code msg"),
    ("POST", "/fapi/v1/positionMargin"): ("symbol amount positionSide", "amount code msg type"),
    ("GET", "/fapi/v1/multiAssetsMargin"): ("", "multiAssetsMargin"),
    ("POST", "/fapi/v1/multiAssetsMargin"): ("multiAssetsMargin", "code msg"),
    ("GET", "/fapi/v1/accountConfig"): ("", "feeTier canTrade dualSidePosition multiAssetsMargin"),
    ("GET", "/fapi/v1/symbolConfig"): ("symbol", "[] symbol marginType isAutoAddMargin leverage maxNotionalValue"),
    ("GET", "/fapi/v2/account"): ("", "feeTier canTrade totalWalletBalance availableBalance assets positions"),
    ("GET", "/fapi/v3/account"): ("", "totalWalletBalance totalMarginBalance availableBalance assets positions"),
    ("GET", "/fapi/v2/balance"): ("", "[] accountAlias asset balance availableBalance updateTime"),
    ("GET", "/fapi/v3/balance"): ("", "[] accountAlias asset balance availableBalance updateTime"),
    ("GET", "/fapi/v2/positionRisk"): ("symbol", "[] symbol positionAmt entryPrice leverage marginType positionSide"),
    ("GET", "/fapi/v3/positionRisk"): ("symbol", "[] symbol positionAmt entryPrice notional maintMargin positionSide"),
    ("GET", "/fapi/v1/userTrades"): (
        "symbol orderId fromId startTime endTime limit", "[] id orderId price qty commission realizedPnl maker time"),
    ("GET", "/fapi/v1/income"): (
        "symbol incomeType startTime endTime limit", "[] symbol incomeType income asset time tranId"),
    ("GET", "/fapi/v1/commissionRate"): ("symbol", "symbol makerCommissionRate takerCommissionRate"),
    ("GET", "/fapi/v1/leverageBracket"): ("symbol", "[?] symbol brackets"),
    ("GET", "/fapi/v1/adlQuantile"): ("symbol", "[] symbol adlQuantile"),
    ("GET", "/fapi/v1/forceOrders"): ("symbol limit startTime endTime", "[]"),
    ("POST", "/fapi/v1/listenKey"): ("", "listenKey"),
    ("PUT", "/fapi/v1/listenKey"): ("", "listenKey"),
    ("DELETE", "/fapi/v1/listenKey"): ("", ""),
    ("GET", "/sapi/v1/account/apiRestrictions"): ("", "ipRestrict enableWithdrawals enableFutures"),
}  # fmt: skip
ERROR = {
    "type": "object",
    "required": ["code", "msg"],
    "properties": {"code": {"type": "integer", "maximum": -1}, "msg": TEXT},
    "additionalProperties": False,
}


def reply(fields: str) -> dict[str, Any]:
    """Return the schema of a reply: "[] a b" rows with a and b, "[?] …" a row or rows, "rows" klines."""
    if fields == "rows":
        return {"type": "array", "items": {"type": "array", "minItems": 12, "maxItems": 12}}
    row = {"type": "object", "required": [name for name in fields.split() if not name.startswith("[")]}
    if fields.startswith("[?]"):
        return {"anyOf": [row, {"type": "array", "items": row}]}
    return {"type": "array", "items": row} if fields.startswith("[]") else row


def document() -> dict[str, Any]:
    """Return the whole interface. No parameter is required here: the exchange's own refusals are wanted too."""
    paths: dict[str, Any] = {}
    for (method, path), (names, fields) in OPERATIONS.items():
        ok = {"description": "done", "content": {"application/json": {"schema": reply(fields)}}}
        refusal = {"description": "refused", "content": {"application/json": {"schema": ERROR}}}
        paths.setdefault(path, {})[method.lower()] = {
            "operationId": f"{method} {path}",
            "parameters": [{"name": name, "in": "query", "schema": PARAMETERS[name]} for name in names.split()],
            "responses": {"200": ok, "400": refusal, "429": refusal},
        }
    return {"openapi": "3.0.2", "info": {"title": "USDⓈ-M", "version": "1"}, "paths": paths}

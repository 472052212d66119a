"""The live push: state at once, events in order, resuming, and slow or revoked clients dropped with notice."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from litestar.exceptions import WebSocketDisconnect

from control.live import QUEUE, RING, Hub
from control.publisher import Publisher
from engine.link import Snapshot


def seen(client: Any) -> list[dict[str, Any]]:
    out = []
    while not client.queue.empty():
        out.append(json.loads(client.queue.get_nowait()))
    return out


def test_a_subscriber_gets_the_newest_state_at_once_and_only_its_topics() -> None:
    hub = Hub()
    hub.publish("status", {"n": 1}, 0)
    hub.publish("status", {"n": 2}, 0)
    hub.publish("marks", [], 0)
    client = hub.join()
    answer = hub.subscribe(client, ["status", "trades", "nonsense"], None, None)
    assert answer["topics"] == ["status", "trades"] and answer["resumed"] is True
    hub.publish("trades", {"t": 1}, 0)
    hub.publish("signals", {"s": 1}, 0)
    assert [(m["topic"], m["data"]) for m in seen(client)] == [("status", {"n": 2}), ("trades", {"t": 1})]


def test_a_client_resumes_after_the_number_it_saw() -> None:
    hub = Hub()
    for number in range(5):
        hub.publish("trades", number, 0)
    client = hub.join()
    assert hub.subscribe(client, ["trades"], 3, hub.epoch)["resumed"] is True
    assert [message["data"] for message in seen(client)] == [3, 4]


@pytest.mark.parametrize("case", ["another process", "too old", "from the future"])
def test_what_cannot_be_resumed_is_said(case: str) -> None:
    hub = Hub()
    for number in range(RING + 10):
        hub.publish("trades", number, 0)
    after, epoch = {"another process": (RING, "x"), "too old": (3, hub.epoch), "from the future": (10**9, hub.epoch)}[
        case
    ]
    client = hub.join()
    assert hub.subscribe(client, ["trades"], after, epoch)["resumed"] is False
    assert seen(client) == []


def test_a_full_queue_marks_the_client_and_nobody_else() -> None:
    hub = Hub()
    slow, quick = hub.join(), hub.join()
    for client in (slow, quick):
        hub.subscribe(client, ["trades"], None, None)
    for number in range(QUEUE + 1):
        hub.publish("trades", number, 0)
        quick.queue.get_nowait()
    assert slow.overflowed.is_set() and not quick.overflowed.is_set()


def test_a_client_that_missed_more_than_its_queue_holds_reads_the_lists_instead() -> None:
    """Handing it everything would drop it as too slow, and again after it has resumed, for ever."""
    hub = Hub()
    for number in range(QUEUE + 1):
        hub.publish("trades", number, 0)
    client = hub.join()
    assert hub.subscribe(client, ["trades"], 0, hub.epoch)["resumed"] is False
    assert not client.overflowed.is_set() and seen(client) == []


def test_six_hundred_symbols_that_decide_in_one_second_drop_nobody(services: Any, data_dir: Path) -> None:
    snapshot = Snapshot(data_dir, 600, 4)
    view = snapshot.view
    view.symbols["symbol"] = [f"SYM{i:03d}USDT".encode() for i in range(600)]
    client, publisher = services.hub.join(), Publisher(services)
    services.hub.subscribe(
        client,
        ["signals", "candles", "status", "marks", "positions", "open_orders", "connections", "latency"],
        None,
        None,
    )
    for minute in range(3):
        view.status["heartbeat_ns"] = time.monotonic_ns()
        view.symbols["close_ms"] = 60_000 * (minute + 1)
        view.signals["seq"] = 1 + 600 * minute + np.arange(600)
        publisher._from_snapshot()
    assert not client.overflowed.is_set() and client.queue.qsize() < 40
    got = [item["seq"] for message in seen(client) if message["topic"] == "signals" for item in message["data"]]
    assert got == list(range(601, 1_801))  # those of the first look are the state, not news


def test_a_socket_subscribes_and_receives(client: Any, engine: Any, services: Any, bearer: Any) -> None:
    with client.websocket_connect("/api/live", headers=bearer()) as socket:
        socket.send_text('{"op": "subscribe", "topics": ["positions", "log"]}')
        kinds = [socket.receive_json() for _ in range(2)]
        assert {message.get("op") or message["topic"] for message in kinds} == {"subscribed", "positions"}
        position = next(message for message in kinds if message.get("topic") == "positions")["data"][0]
        assert position["symbol"] == "ETHUSDT"


def test_a_socket_without_a_token_is_refused(client: Any) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/api/live") as socket:
        socket.receive_json()


def test_a_message_that_is_no_subscription_closes_the_socket(client: Any, bearer: Any) -> None:
    with client.websocket_connect("/api/live", headers=bearer()) as socket:
        socket.send_text("[]")
        with pytest.raises(WebSocketDisconnect) as caught:
            while True:
                socket.receive_json()
    assert caught.value.code == 4_400


def test_a_slow_socket_is_dropped_with_notice(client: Any, services: Any, bearer: Any) -> None:
    with client.websocket_connect("/api/live", headers=bearer()) as socket:
        socket.send_text('{"op": "subscribe", "topics": []}')
        assert socket.receive_json()["op"] == "subscribed"
        (held,) = services.hub._clients
        held.overflowed.set()
        with pytest.raises(WebSocketDisconnect) as caught:
            socket.receive_json()
    assert caught.value.code == 4_008 and "resume" in caught.value.detail


def test_the_server_speaks_websocket_by_a_package_that_is_a_dependency() -> None:
    """uvicorn serves HTTP alone when it finds none: the page would be without its live push, and nobody told."""
    from litestar import Litestar

    from control.main import _server_config
    from engine.config import Config

    settled = _server_config(Litestar([]), Config())
    settled.load()
    assert settled.ws_protocol_class is not None and "websockets" in settled.ws_protocol_class.__module__
    project = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    assert '"websockets' in project[: project.index("[project.optional-dependencies]")]

"""The dashboard in a real browser, over the real control process, a seeded store and a stand-in engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kernels.records import GATES
from tests.control.browser import MARKS, QUIET, SHOTS, Stage, cells, hold, wait_for

VIEWS = [
    "overview",
    "chart",
    "signals",
    "trades",
    "orders",
    "models",
    "control",
    "jobs",
    "data",
    "latency",
    "audit",
    "logs",
    "settings",
]

pytestmark = MARKS


def test_a_wrong_token_is_told_so_and_a_right_one_opens_the_overview(browser: Any, stage: Stage) -> None:
    page = browser.new_context().new_page()
    page.set_default_timeout(90_000)
    page.goto(stage.url)
    page.fill("#token", "ta_00000000_wrong")
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("no such token").wait_for()
    page.fill("#token", stage.tokens["read"])
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Overview").wait_for()
    page.get_by_text("engine alive", exact=True).wait_for()
    page.get_by_text("9,900.00").first.wait_for()
    page.get_by_role("button", name="Log out").click()
    page.locator("#token").wait_for()
    page.reload()
    page.locator("#token").wait_for()
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_opens_without_a_fault(open_page: Any, scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    for number, view in enumerate(VIEWS):
        page.goto(f"{page.url.split('#')[0]}#/{view}")
        page.locator(f"nav a:nth-child({number + 1})[aria-current=page]").wait_for()
        hold(page, QUIET)
        page.screenshot(path=SHOTS / f"{view}-{scheme}.png")
        assert page.locator("main .fault").count() == 0, view


def serious(page: Any) -> list[tuple[str, str]]:
    """Return the accessibility faults of a page that keep somebody from using it."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [(item["id"], item["nodes"][0]["target"]) for item in found if item["impact"] in ("serious", "critical")]


def test_no_view_has_a_serious_accessibility_fault(open_page: Any) -> None:
    for scheme, views in (("light", VIEWS), ("dark", ["overview", "control"])):
        page = open_page(color_scheme=scheme)
        for view in views:
            page.goto(f"{page.url.split('#')[0]}#/{view}")
            hold(page, QUIET)
            assert serious(page) == [], (scheme, view)


def test_a_phone_shows_every_view_without_sideways_scrolling(open_page: Any) -> None:
    page = open_page(size={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    for view in VIEWS:
        page.goto(f"{page.url.split('#')[0]}#/{view}")
        hold(page, QUIET)
        width = page.evaluate("document.documentElement.scrollWidth")
        page.screenshot(path=SHOTS / f"{view}-phone.png")
        assert width <= 390, view


def test_the_chart_draws_candles_and_changes_symbol_by_keyboard(open_page: Any) -> None:
    page = open_page()
    page.keyboard.press("/")
    hold(page, "document.activeElement && document.activeElement.id === 'symbol'")
    page.keyboard.type("ETHUSDT")
    page.keyboard.press("Enter")
    page.get_by_text("600 closed candles").wait_for()
    assert page.url.endswith("#/chart/ETHUSDT")
    assert page.locator(".chart canvas").count() > 0


def test_trades_can_be_filtered_and_exported(open_page: Any) -> None:
    page = open_page("trades")
    page.get_by_label("Reason", exact=True).select_option("tp")
    hold(page, "[...document.querySelectorAll('.tag')].every((tag) => tag.textContent === 'tp')")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export CSV").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0].startswith("closed_ms,opened_ms,symbol,side,mode,reason")
    assert len(lines) > 10 and all(line.split(",")[5] == "tp" for line in lines[1:])


def test_an_answer_that_comes_late_does_not_replace_what_was_asked_for_after_it(open_page: Any, stage: Stage) -> None:
    page, held = open_page("overview"), []

    def slow(route: Any) -> None:
        if "reason=" in route.request.url or held:
            route.continue_()
        else:
            held.append(route)

    page.route("**/api/trades?*", slow)
    page.goto(f"{stage.url}/#/trades")
    wait_for(lambda: page.evaluate("0") == 0 and held)
    page.get_by_label("Reason", exact=True).select_option("tp")
    tags = "[...document.querySelectorAll('.tag')].map((tag) => tag.textContent)"
    all_tp = f"((tags) => tags.length > 10 && tags.every((tag) => tag === 'tp'))({tags})"
    hold(page, all_tp)
    with page.expect_response(lambda reply: reply.url == held[0].request.url):
        held[0].continue_()
    page.evaluate("fetch('/api/session').then((reply) => reply.text())")  # what was answered before is shown by now
    assert page.evaluate(all_tp)


def test_the_way_out_of_a_position_is_in_sight_at_any_width(open_page: Any) -> None:
    for width in (1360, 1100, 820, 390):
        page = open_page(size={"width": width, "height": 800})
        button = page.get_by_role("button", name="Close ETHUSDT")
        button.wait_for()
        box = button.bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width, width


def test_results_are_shown_by_symbol_and_by_day(open_page: Any) -> None:
    page = open_page("trades")
    page.get_by_label("Results by").select_option("symbol")
    results = page.get_by_role("region", name="Results")
    results.get_by_role("link", name="ETHUSDT").wait_for()
    rows = [row.split("\t") for row in results.locator("tbody").inner_text().splitlines()]
    assert sorted(row[0] for row in rows) == ["BTCUSDT", "ETHUSDT", "SOLUSDT", "all"]
    trades = {row[0]: int(row[1]) for row in rows}
    assert trades.pop("all") == sum(trades.values()) == 130
    page.get_by_label("Results by").select_option("day")
    results.get_by_role("rowheader", name=re.compile(r"^\d{4}-\d\d-\d\d$")).first.wait_for()


def test_orders_show_their_way_to_the_end_and_fills_say_why(open_page: Any) -> None:
    page = open_page("orders")
    hold(page, "document.querySelectorAll('[aria-label=Orders] tbody tr').length === 38")  # the newest 150 events
    page.get_by_role("button", name="Older").first.click()
    hold(page, "document.querySelectorAll('[aria-label=Orders] tbody tr').length === 60")  # of 240 events in all
    assert cells(page, "Orders", 0) == [
        "SOLUSDT buy, reduce", "tp", "expired", "0.5", "0", "100.0000", "–", "60 ms", "beyond the limit", "live",
    ]  # fmt: skip
    assert cells(page, "Orders", 1)[:3] == ["ETHUSDT sell", "entry", "filled"]
    hold(page, "document.querySelectorAll('[aria-label=Fills] tbody tr').length === 40")
    assert cells(page, "Fills", 0) == [
        "ETHUSDT sell", "entry", "0.5", "2,500.00", "1,250.00", "0.0125", "0.0021", "taker", "live",
    ]  # fmt: skip
    assert cells(page, "Fills", 1)[1:] == ["tp", "0.5", "50,000.00", "25,000.00", "0.0125", "0.0021", "taker", "live"]
    page.get_by_label("Symbol of fills").fill("solusdt")
    page.get_by_label("Symbol of fills").press("Enter")
    page.get_by_text("No fills yet.").wait_for()  # every order of it was refused


def test_open_orders_are_where_an_operator_looks(open_page: Any, stage: Stage) -> None:
    page = open_page("overview")
    page.get_by_role("region", name="Open positions").wait_for()
    assert page.get_by_role("heading", name="Open orders").count() == 0  # none: no room is taken
    stage.tell("orders")
    page.get_by_role("heading", name="Open orders").wait_for()
    page.screenshot(path=SHOTS / "overview-open-orders.png", full_page=True)
    for view in ("orders", "control"):
        page.goto(f"{page.url.split('#')[0]}#/{view}")
        page.get_by_role("region", name="Open orders").wait_for()
        hold(page, QUIET)
        shown = [["limit ioc", "entry", "sent", "ws1", "0.25", "50,010.50", "1 s"],
                 ["stop market", "sl", "standing", "paper", "all", "2,563.25", "15 min"]]  # fmt: skip
        assert [cells(page, "Open orders", row) for row in (0, 1)] == shown
        page.screenshot(path=SHOTS / f"{view}-open-orders.png", full_page=True)
    stage.tell("no orders")
    page.get_by_text("No open orders.").wait_for()


def test_connections_are_on_the_page_and_one_that_is_down_is_a_fault(open_page: Any, stage: Stage) -> None:
    page = open_page()
    health = page.locator(".health")
    health.get_by_text("Engine").wait_for()
    assert health.get_by_text("Orders").count() == 0  # paper has none
    stage.tell("connected")
    health.get_by_text("2 of 2 live, newest 0 s old; 0 of 0 malformed").wait_for()
    health.get_by_text("1 of 1 lanes, 1 of 1 private streams").wait_for()
    health.get_by_text(re.compile(r"^\d+ of 2,400 this minute$")).wait_for()
    assert health.locator("li", has_text="Orders").get_by_label("works").count() == 1
    stage.tell("lane down")
    health.locator("li", has_text="Orders").get_by_label("fault").wait_for()
    page.screenshot(path=SHOTS / "overview-lane-down.png", full_page=True)
    page.locator(".health").get_by_role("link", name="Streams").click()
    page.get_by_role("region", name="Connections").wait_for()
    found = page.get_by_role("region", name="Connections").locator("tbody tr")
    assert [" ".join(row.split()) for row in found.all_inner_texts()] == [
        "link 0 best bid and ask live 0 s 3 1,200 – 0 0", "link 1 candles, mark prices live 0 s 12 3,400 – 0 1",
        "lane 0 orders down 0 s – 7 0 0 0", "private 0 what became of orders live – – 0 – 0 0",
    ]  # fmt: skip
    page.screenshot(path=SHOTS / "data-connections.png")


def test_a_gate_says_what_it_means(open_page: Any) -> None:
    page = open_page("signals")
    page.get_by_role("main").get_by_text("the spread is wider than allowed (risk.max_spread_bps)").wait_for()
    tag = page.locator(".tag", has_text="er low").first
    assert "decision.min_er" in (tag.get_attribute("title") or "")


def test_a_signal_shows_predictions_gates_and_what_the_model_saw(open_page: Any) -> None:
    page = open_page("signals")
    row = page.get_by_role("region", name="Signals").locator("tbody tr").first
    row.get_by_role("button").click()  # what a keyboard reaches
    shown = page.get_by_role("dialog", name="Decision of BTCUSDT")
    shown.get_by_text(re.compile("refused by . gate")).wait_for()
    predictions = shown.get_by_role("region", name="Predictions")
    assert predictions.get_by_role("rowheader").all_inner_texts() == [
        "Expected return", "5 % tail", "Adverse move", "Holding time, min",
    ]  # fmt: skip
    numbers = predictions.locator("td.num").all_inner_texts()
    assert len(numbers) == 8 and all(re.search(r"\d", text) for text in numbers)
    refused = shown.locator("ul.gates").first
    refused.get_by_text("the expected net return is below the least one").wait_for()
    refused.get_by_text(re.compile(r"decision.min_er = [\d.]+")).wait_for()
    count = int(shown.get_by_text(re.compile("refused by . gate")).inner_text().split()[2])
    assert refused.get_by_role("listitem").count() == count
    shown.get_by_text(f"{len(GATES) - count} gates did not refuse").click()
    assert shown.locator("details ul.gates li").count() == len(GATES) - count
    shown.get_by_text("44 features of 3 timeframes").click()
    values = shown.get_by_role("region", name="Features").locator("tbody tr").nth(2).inner_text().split("\t")
    assert values[1:] == ["3", "30", "300"], "those of the decision, not the newest"
    assert serious(page) == []
    page.screenshot(path=SHOTS / "signal-detail.png")
    page.keyboard.press("Escape")
    shown.wait_for(state="detached")
    page.get_by_role("region", name="Signals").locator("tbody tr").nth(1).locator("td").first.click()  # anywhere on it
    page.get_by_role("dialog").get_by_text("market.store_features").wait_for()
    page.get_by_role("dialog").get_by_role("button", name="Close").click()


def test_the_logs_of_the_processes_are_read_and_searched(open_page: Any, stage: Stage) -> None:
    folder = stage.data_dir / "logs"
    folder.mkdir(exist_ok=True)
    (folder / "engine.log").write_text("first line\nWARNING engine: no entries yet: the exchange is away\nlast line\n")
    page = open_page("logs")
    shown = page.get_by_role("region", name="Log of engine")
    shown.get_by_text("no entries yet").wait_for()
    assert shown.locator(".down").count() == 1
    page.screenshot(path=SHOTS / "logs.png")
    page.get_by_label("Only lines with").fill("LAST")
    hold(page, "document.querySelector('pre.log').innerText.trim() === 'last line'")
    page.get_by_label("Process").select_option("watchdog")
    page.get_by_text("ta up writes it").wait_for()


def test_an_alarm_that_stands_is_on_every_page(open_page: Any, stage: Stage) -> None:
    page = open_page("trades")
    stage.tell("blind")
    page.locator("#alarm.bad").get_by_text("No mark prices arrive").wait_for()
    page.screenshot(path=SHOTS / "alarm.png")
    page.get_by_role("button", name="Run-book: market silent").click()
    shown = page.get_by_role("dialog", name="Run-book: market silent")
    shown.get_by_role("heading", name="Alarm market_silent").wait_for()
    assert shown.get_by_role("heading").all_inner_texts() == ["Alarm market_silent", "Look", "Do"]
    steps = [item.inner_text() for item in shown.get_by_role("listitem").all()]
    assert len(steps) == 6 and steps[1].endswith("it leaves what has no confirmed stop there."), "a step of three lines"
    assert "ta close SYMBOL" in shown.locator("code").all_inner_texts()
    page.screenshot(path=SHOTS / "alarm-runbook.png")
    page.keyboard.press("Escape")
    shown.wait_for(state="detached")
    stage.tell("alive")
    hold(page, "document.querySelector('#alarm').hidden")


def test_closing_a_position_asks_and_is_carried_out(open_page: Any, stage: Stage) -> None:
    page = open_page(scope="trade")
    page.get_by_role("button", name="Close ETHUSDT").click()
    page.get_by_role("dialog").get_by_role("button", name="Close position").click()
    page.get_by_text("No open positions.").wait_for()
    assert stage.commands() == ["close"]


def test_stop_and_start_and_the_page_follows(open_page: Any, stage: Stage) -> None:
    page = open_page("control")
    page.get_by_role("button", name="Stop entries").click()
    page.locator(".strip").get_by_text("stopped").wait_for()
    page.get_by_role("button", name="Start session").click()
    page.locator(".strip").get_by_text("running").wait_for()
    assert stage.commands()[-2:] == ["kill pause", "start"]


def test_flatten_asks_before_it_acts(open_page: Any, stage: Stage) -> None:
    page = open_page("control")
    before = stage.commands()
    page.get_by_role("button", name="Flatten").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("at the market").wait_for()
    page.screenshot(path=SHOTS / "flatten-question.png")
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert stage.commands() == before
    page.get_by_role("button", name="Flatten").click()
    page.get_by_role("dialog").get_by_role("button", name="Flatten").click()
    page.get_by_text("Flatten acknowledged").wait_for()
    page.get_by_text("Down to “flatten”").wait_for()
    assert page.locator(".steps li").all_inner_texts() == [
        "Entries stopped at once", "Reduce only after 40 ms", "Open entries cancelled after 80 ms", "Flat after 120 ms",
    ]  # fmt: skip
    page.screenshot(path=SHOTS / "flatten-done.png")
    assert stage.commands() == [*before, "kill flatten"]
    page.get_by_role("button", name="Start session").click()
    page.locator(".strip").get_by_text("running").wait_for()


def test_a_reader_sees_no_buttons_that_change_anything(open_page: Any) -> None:
    page = open_page("control", scope="read")
    page.get_by_text("This token may only read.").wait_for()
    for name in ("Start session", "Flatten", "Halt", "Stop entries"):
        assert page.get_by_role("button", name=name).count() == 0


def test_a_model_shows_its_evidence(open_page: Any) -> None:
    page = open_page("models")
    page.get_by_role("heading", name="Calibration").wait_for()
    assert page.locator("svg.plot").count() == 8
    page.get_by_role("heading", name="Drift of the inputs").wait_for()
    assert "rsi_1m" in page.locator(".bars").first.inner_text()
    page.screenshot(path=SHOTS / "models-evidence.png", full_page=True)
    page.get_by_role("link", name="20261122T150000-abcdef02").click()
    page.get_by_text("Trained without validation").wait_for()


def test_promotion_shows_what_the_gate_or_the_registry_says(open_page: Any) -> None:
    page = open_page("models")
    page.get_by_role("button", name="Promote 20261122T150000-abcdef02").click()
    page.get_by_role("dialog").get_by_role("button", name="Promote").click()
    page.locator("#note.bad").wait_for()  # the seeded row has no bundle: the refusal must reach the operator
    assert "20261122T150000-abcdef02" in page.locator("#note").inner_text()


def test_a_silent_engine_is_said_and_its_return_too(open_page: Any, stage: Stage) -> None:
    page = open_page()
    page.get_by_text("engine alive", exact=True).wait_for()
    stage.tell("silent")
    page.locator("#alarm").get_by_text("The engine has not beaten").wait_for()
    page.screenshot(path=SHOTS / "engine-silent.png")
    stage.tell("alive")
    page.get_by_text("engine alive", exact=True).wait_for()


def test_when_control_goes_away_the_page_says_so(open_page: Any, stage: Stage) -> None:
    """The last test here: it ends the control process."""
    page = open_page()
    page.get_by_text("engine alive", exact=True).wait_for()
    stage.close()
    page.locator("#alarm").get_by_text("Connection to the control process lost").wait_for()
    page.screenshot(path=SHOTS / "control-gone.png")

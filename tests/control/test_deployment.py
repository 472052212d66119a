"""What can be checked of the deployment without an engine to run it: shapes, references, and rules of good habit."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import promql_parser
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
OPS = ROOT / "docs" / "ops"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


def test_compose_file_follows_the_compose_specification(compose: Any) -> None:
    """`compose-spec.json` is the specification's own schema (compose-spec/compose-spec, Apache-2.0)."""
    schema = json.loads((ROOT / "tests" / "control" / "compose-spec.json").read_text())
    validator = jsonschema_rs.validator_for(schema)
    assert [str(error) for error in validator.iter_errors(compose)] == []
    misspelt = compose | {"services": {"engine": compose["services"]["engine"] | {"helthcheck": {}}}}
    assert not validator.is_valid(misspelt)


HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent))


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint for this platform")
def test_hadolint_has_nothing_to_say() -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_service_has_health_restart_and_limits(compose: Any) -> None:
    assert {"clickhouse", "engine", "control", "models", "prometheus", "grafana"} == set(compose["services"])
    for name, service in compose["services"].items():
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"], name
        assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"]), name
        if "image" in service and "build" not in service:
            assert re.search(r":[^:]*\d", service["image"]) and "latest" not in service["image"], name


def test_our_services_are_unprivileged_and_published_on_loopback_alone(compose: Any) -> None:
    for name in ("engine", "control"):
        service = compose["services"][name]
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
    for service in compose["services"].values():
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))


def test_the_engine_weighs_more_than_control_where_niceness_does_not_count(compose: Any) -> None:
    """Between cgroups the kernel compares their weights alone."""
    assert compose["services"]["engine"]["cpu_shares"] > compose["services"]["control"]["cpu_shares"]
    engine, control = (
        int(re.findall(r"^CPUWeight=(\d+)$", (OPS / "systemd" / f"ta-{name}.service").read_text(), re.M)[0])
        for name in ("engine", "control")
    )
    assert 1 <= control < engine <= 10_000


def test_what_a_service_mounts_or_reads_exists(compose: Any) -> None:
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).is_file() if source.startswith("./") else source in compose["volumes"], source
        for secret in service.get("secrets", []):
            assert secret in compose["secrets"]


def test_the_image_is_built_in_stages_and_runs_as_nobody_special() -> None:
    lines = [line.strip() for line in (ROOT / "Dockerfile").read_text().splitlines()]
    froms = [line for line in lines if line.startswith("FROM")]
    assert len(froms) == 3 and all(":" in line and "latest" not in line for line in froms)
    assert "USER 10001:10001" in lines and "--require-hashes" in " ".join(lines)
    assert not any(line.startswith("ADD ") or "sudo" in line for line in lines)
    for line in lines:
        if line.startswith("COPY") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source


def test_rules_units_and_dashboards_parse_and_name_metrics_that_exist(
    client: Any, engine: Any, bearer: Any, services: Any
) -> None:
    text = client.get("/metrics", headers=bearer()).text
    services.answers.forget()
    text += client.get("/metrics", headers=bearer()).text
    known = set(re.findall(r"^(ta_\w+?)(?:_bucket)?(?:\{| )", text, re.M)) | {"ta_http_request_seconds"}
    known |= {f"{name}_bucket" for name in known} | {"ta_tail_lag_records"}  # the lag needs a tail
    rules = yaml.safe_load((OPS / "alerts.yml").read_text())["groups"][0]["rules"]
    board = json.loads((OPS / "grafana" / "dashboard.json").read_text())
    expressions = [rule["expr"] for rule in rules]
    expressions += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    for expression in expressions:
        promql_parser.parse(expression)  # raises ValueError
        for name in re.findall(r"\bta_\w+", expression):
            assert name in known, f"{name} in {expression}"
    for rule in rules:
        assert re.fullmatch(r"\d+[smhd]", rule["for"]), rule["alert"]
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert (ROOT / rule["annotations"]["runbook"]).is_file() and rule["annotations"]["summary"], rule["alert"]
    assert yaml.safe_load((OPS / "prometheus.yml").read_text())["scrape_configs"][0]["job_name"] == "ta"
    for unit in (OPS / "systemd").glob("*.service"):
        assert "NoNewPrivileges=yes" in unit.read_text() and "ExecStart=/opt/ta/.venv/bin/ta " in unit.read_text()


def test_the_panels_of_the_board_are_apart_and_inside_its_24_columns() -> None:
    panels = json.loads((OPS / "grafana" / "dashboard.json").read_text())["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] and panel["title"] and panel["datasource"]["type"] == "prometheus" and panel["targets"]
    assert len({panel["id"] for panel in panels}) == len(panels)

"""Models over HTTP: the evaluation page of a bundle, and the choice of what evaluates the model in use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.model.files import hash_files
from engine.model.registry import open_registry
from engine.model.report import REPORT_NAME

MODEL = "20261122T120000.000-abcdef01"
PAGE = "<!doctype html><html lang=en><style>body{}</style><svg></svg>"


def publish(services: Any, folder: Path, page: str = "") -> None:
    bundle = folder / MODEL
    bundle.mkdir()
    (bundle / "er_long.txt").write_text("tree")
    if page:
        (bundle / REPORT_NAME).write_text(page)
    manifest = {"model_id": MODEL, "schema_hash": "1", "targets": [], "golden": {}, "files": hash_files(bundle)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    open_registry(services.config).publish(bundle, "test", 1)


def test_the_evaluation_page_is_served_and_may_style_but_run_nothing(
    client: Any, services: Any, bearer: Any, tmp_path: Path
) -> None:
    publish(services, tmp_path, PAGE)
    answer = client.get(f"/api/models/{MODEL}/report", headers=bearer())
    assert (answer.status_code, answer.text) == (200, PAGE)
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "style-src 'unsafe-inline'" in policy and "sandbox" in policy and "script" not in policy
    assert client.get(f"/api/models/{MODEL}/report").status_code == 401


def test_a_model_without_an_evaluation_and_an_unknown_one_are_404(
    client: Any, services: Any, bearer: Any, tmp_path: Path
) -> None:
    publish(services, tmp_path)
    for model, why in ((MODEL, "holds no report.html"), ("nobody", "nobody")):
        answer = client.get(f"/api/models/{model}/report", headers=bearer())
        assert answer.status_code == 404 and answer.json()["code"] == "no-report"
        assert why in answer.json()["detail"]


def test_a_predictor_is_chosen_by_name(client: Any, engine: Any, bearer: Any) -> None:
    body = {"predictor": "walk"}
    assert client.post("/api/models/predictor", json=body, headers=bearer("read")).status_code == 403
    assert client.post("/api/models/predictor", json=body, headers=bearer("trade")).status_code == 200
    verb, _, args, _ = engine.commands[-1]
    assert (verb, args) == ("predictor", body)
    wrong = client.post("/api/models/predictor", json={"predictor": "onnx"}, headers=bearer("trade"))
    assert wrong.status_code == 400

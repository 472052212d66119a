"""The registry: atomic publication, states from events, integrity, on a local folder and on a remote-like store."""

import pytest

from engine.errors import DataError
from engine.model.bundle import write_bundle
from engine.model.registry import Event, Registry
from engine.model.train import describe
from tests.model_rig import NOW_MS, Trained


@pytest.fixture(params=["file", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path) -> Registry:
    url = f"file://{tmp_path}/registry" if request.param == "file" else f"memory://{tmp_path.name}/registry"
    return Registry(url, tmp_path / "cache")


@pytest.fixture
def second(trained: Trained, tmp_path):
    return write_bundle(tmp_path, trained.boosters, trained.data, describe(trained.settings), NOW_MS + 60_000)


def test_the_life_of_two_models(registry: Registry, trained: Trained, second) -> None:
    first = registry.publish(trained.bundle, "quant", 1_000)
    later = registry.publish(second, "quant", 2_000)
    assert [(e.model_id, e.state) for e in registry.entries()] == [(later, "candidate"), (first, "candidate")]
    assert registry.production() is None
    registry.record(Event(first, "production", 3_000, "operator", "demo", forced=True))
    registry.record(Event(later, "production", 4_000, "operator", "better"))
    assert {e.model_id: e.state for e in registry.entries()} == {first: "retired", later: "production"}
    assert registry.before_production() == first
    registry.record(Event(first, "rollback", 5_000, "operator", "worse"))
    production = registry.production()
    assert production is not None
    assert (production.model_id, production.actor, production.reason) == (first, "operator", "worse")
    assert registry.entry(later).state == "retired"
    assert registry.before_production() is None
    assert registry.events()[2].forced


def test_a_published_bundle_comes_back_checked(registry: Registry, trained: Trained) -> None:
    model_id = registry.publish(trained.bundle, "quant", 1_000)
    path = registry.path(model_id)
    assert (path / "er_long.txt").read_bytes() == (trained.bundle / "er_long.txt").read_bytes()
    (path / "er_long.txt").write_text("tree")
    with pytest.raises(DataError, match="altered"):
        registry.path(model_id)


def test_a_bundle_without_its_manifest_does_not_exist(registry: Registry, trained: Trained) -> None:
    with pytest.raises(DataError, match="expected one registered model, found 0"):
        registry.entry(trained.bundle.name)
    with pytest.raises(DataError, match=r"already in the registry"):
        registry.publish(trained.bundle, "quant", 1_000)
        registry.publish(trained.bundle, "quant", 2_000)


def test_a_clock_that_was_set_back_changes_no_order(registry: Registry, trained: Trained, second) -> None:
    """A rollback recorded by a clock that is behind must not be read as older than the promotion it takes back."""
    registry.publish(trained.bundle, "quant", 5_000)
    registry.publish(second, "quant", 6_000)
    for model_id, action, time_ms in (
        (trained.bundle.name, "production", 7_000),
        (second.name, "production", 8_000),
        (trained.bundle.name, "rollback", 2_000),
    ):
        registry.record(Event(model_id, action, time_ms, "operator"))
    production = registry.production()
    assert production is not None and production.model_id == trained.bundle.name
    assert [event.action for event in registry.events()][-1] == "rollback"

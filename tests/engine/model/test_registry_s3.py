"""The registry on an S3 server (moto's, over HTTP): the life of a model, seen from a second machine too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import engine.model
from engine.config import load
from engine.errors import DataError
from engine.model.registry import Event, Registry, open_registry
from tests.model_rig import Trained

BUCKET = "models-of-the-test"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    server.stop()


@pytest.fixture
def url(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the registry's address; the server and the keys come from the environment, as for any S3 client."""
    import s3fs

    for name, value in (
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().makedirs(BUCKET, exist_ok=True)
    return f"s3://{BUCKET}/registry"


def test_a_model_lives_in_a_bucket(url: str, trained: Trained, tmp_path: Path) -> None:
    here = load(data_dir=tmp_path / "here", model={"registry_url": url})
    registry = open_registry(here)
    model_id = registry.publish(trained.bundle, "quant", 1_000)
    registry.record(Event(model_id, "production", 2_000, "operator", "demo", forced=True))
    with pytest.raises(DataError, match="already in the registry at s3://"):
        registry.publish(trained.bundle, "quant", 3_000)

    elsewhere = open_registry(load(data_dir=tmp_path / "there", model={"registry_url": url}))
    production = elsewhere.production()
    assert production is not None and (production.model_id, production.reason) == (model_id, "demo")
    folder = elsewhere.path(model_id)
    assert folder.is_relative_to(tmp_path / "there" / "cache")
    assert engine.model.load(folder).model_id == model_id
    assert [event.action for event in elsewhere.events()] == ["candidate", "production"]


def test_an_object_altered_in_the_bucket_is_refused(url: str, trained: Trained, tmp_path: Path) -> None:
    import s3fs

    registry = Registry(f"{url}-altered", tmp_path / "cache")
    model_id = registry.publish(trained.bundle, "quant", 1_000)
    files = s3fs.S3FileSystem()
    files.pipe_file(f"{BUCKET}/registry-altered/{model_id}/er_long.txt", b"tree")
    with pytest.raises(DataError, match=r"er_long\.txt: expected SHA-256"):
        registry.path(model_id)


def test_an_upload_that_broke_off_does_not_exist(url: str, trained: Trained, tmp_path: Path) -> None:
    import s3fs

    s3fs.S3FileSystem().put_file(str(trained.bundle / "er_long.txt"), f"{BUCKET}/registry-half/half/er_long.txt")
    registry = Registry(f"{url}-half", tmp_path / "cache")
    assert registry.entries() == [] and registry.production() is None
    with pytest.raises(DataError, match="found 0"):
        registry.entry("half")

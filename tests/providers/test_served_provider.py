"""The provider `models` where no served model is within reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowmason.errors import Code, FlowMasonError, ProviderError, UsageError
from flowmason.model import ModelRequest
from flowmason.providers import ProviderSettings, known_providers, make_provider, missing_for


async def test_without_a_cluster_and_a_studio_it_says_what_to_do(tmp_path: Path) -> None:
    provider = make_provider("models", environ={"FLOWMASON_HOME": str(tmp_path)})
    with pytest.raises(FlowMasonError, match="no served model is within reach") as caught:
        await provider.generate(ModelRequest(prompt="x", model="small"))
    assert caught.value.failure.code == Code.NO_PROVIDER and "fm org login" in str(caught.value.failure.help)


async def test_the_studio_that_is_known_here_is_asked(tmp_path: Path) -> None:
    environ = {
        "FLOWMASON_HOME": str(tmp_path), "FLOWMASON_STUDIO_URL": "http://127.0.0.1:9", "FLOWMASON_API_KEY": "fm_live_x",
    }  # fmt: skip
    provider = make_provider("models", environ=environ)
    with pytest.raises(ProviderError, match="could not be reached") as caught:
        await provider.generate(ModelRequest(prompt="x", model="small"))
    assert caught.value.failure.code == Code.CONNECTIVITY
    await provider.close()


def test_it_is_known_by_name_and_its_settings_are_checked() -> None:
    assert "models" in known_providers() and missing_for("models") is None
    with pytest.raises(UsageError, match="unknown key 'threads'"):
        make_provider("models", ProviderSettings(extra={"threads": 1}))

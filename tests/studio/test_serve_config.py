"""The Serve config names what exists, and the application takes its arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

# Ray's own models.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
CONFIG = Path(__file__).parents[2] / "configs" / "serve" / "studio.yaml"


def _config() -> Any:
    from ray.serve.schema import ServeDeploySchema

    return ServeDeploySchema.model_validate(yaml.safe_load(CONFIG.read_text()))


def test_the_config_is_what_serve_reads_and_names_the_application() -> None:
    from flowmason_actors.conductor_host import load

    parsed = _config()
    [application] = parsed.applications
    assert parsed.http_options.port == 8999
    build = load(application.import_path)
    assert build(dict(application.args)) is not None


def test_there_are_two_replicas_that_hold_no_cpu() -> None:
    from flowmason_serve_apps.studio.deploy import application

    [wanted] = _config().applications
    api = application(dict(wanted.args))._bound_deployment
    assert (api.name, api.num_replicas) == ("api", 2)
    assert (api.ray_actor_options or {})["num_cpus"] == 0


def test_a_wrong_argument_is_refused() -> None:
    from flowmason_serve_apps.studio.deploy import application

    with pytest.raises(msgspec.ValidationError, match="unknown field `replica`"):
        application({"replica": 2})
    with pytest.raises(msgspec.ValidationError):
        application({"replicas": "many"})

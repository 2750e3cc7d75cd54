"""How what serves models is called on Ray Serve."""

from __future__ import annotations

GATEWAY = "models"
"""The application with the HTTP endpoint."""
PREFIX = "/models"
"""Where the endpoint lies on Serve's HTTP port; below it `/v1/…`, as OpenAI has it."""
ENGINE = "engine"
"""The deployment that answers, in the application of each model."""
_APPLICATION = "model-"


def application(model: str) -> str:
    """The application that serves a model."""
    return f"{_APPLICATION}{model}"


def served(application: str) -> str | None:
    """The model that an application serves; None: it is another one."""
    return application.removeprefix(_APPLICATION) if application.startswith(_APPLICATION) else None


def adapted(model: str) -> tuple[str, str | None]:
    """`base/adapter` in its two parts; without an adapter the second is None."""
    base, _, adapter = model.partition("/")
    return base, adapter or None

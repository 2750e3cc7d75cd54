"""What callers do, written into their org's audit log. Starts of runs are not noted: see
`studio/history`.
"""

from __future__ import annotations

from typing import Any

from flowmason.studio.identity import audit
from flowmason.studio.identity.callers import Caller
from flowmason.studio.scope import Scope
from flowmason_serve_apps.studio.services import Services


def noted(services: Services, scope: Scope, caller: Caller, action: str, resource_id: str, **details: Any) -> None:
    """Write into the org's audit log what a caller does, in the transaction in which it is done; last in it."""
    kind = action.partition(".")[0]
    audit.record(
        scope,
        services.now(),
        actor=caller.actor,
        action=action,
        resource_type=kind,
        resource_id=resource_id,
        details=details,
    )

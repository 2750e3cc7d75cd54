"""The exchange of master keys: everything that is sealed is brought under the current one.

An operator writes the new key before the old one (`sealing.open_sealer` says where), has this done, and takes the old
one away. It may be interrupted and done again; what is sealed meanwhile is sealed under the new key.
"""

from __future__ import annotations

import sqlalchemy as sa

from flowmason.ids import OrgId
from flowmason.studio import schema, secrets
from flowmason.studio.identity import signing
from flowmason.studio.scope import StudioStore
from flowmason.studio.sealing import Sealer


def rewrap_all(store: StudioStore, sealer: Sealer) -> int:
    """Bring secrets of all orgs and signing keys under the current master key; returns how many were under another.

    `store` must be the owner's: it looks at all orgs. Raises `UsageError` (SECURITY) for what does not open.
    """
    table = schema.secrets.c
    with store.system(writing=False) as system:
        chosen = sa.select(table.org_id).where(table.key_id != sealer.current).distinct()
        orgs = [OrgId(org) for org in system.execute(chosen).scalars()]
    moved = sum(secrets.rewrap(store, sealer, org) for org in orgs)
    return moved + signing.rewrap(store, sealer)

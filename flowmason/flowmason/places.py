"""Where FlowMason keeps its state on disk, if nothing else is said."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from flowmason.errors import UsageError

_RAY_SESSION = re.compile(r"(^|/)session_\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}[^/]*(/|$)")


def home_dir(environ: Mapping[str, str]) -> Path:
    """`FLOWMASON_HOME`, else `~/.flowmason`."""
    given = environ.get("FLOWMASON_HOME")
    return Path(given).expanduser() if given else Path.home() / ".flowmason"


def state_dir(project_root: Path | None, environ: Mapping[str, str]) -> Path:
    """The folder for the journal and the values: `.flowmason` in the project, else `home_dir`.

    A project that lies under Ray's session directory (the working directory of a Ray job) dies with
    the job, so the home is taken instead. Raises `UsageError` where the home would die as well.
    """
    if project_root is not None and not _dies_with_ray(project_root):
        return project_root / ".flowmason"
    home = home_dir(environ)
    if _dies_with_ray(home):
        raise UsageError(
            f"{home} lies under Ray's session directory and would be gone when the job ends",
            help="Set DATABASE_URL and FLOWMASON_VALUES_URL, or FLOWMASON_HOME to a folder that stays.",
        )
    return home


def _dies_with_ray(path: Path) -> bool:
    return _RAY_SESSION.search(path.absolute().as_posix()) is not None


def org_name(org_id: str) -> str:
    """The name of the folder in which an org's values lie."""
    name = quote(org_id, safe="")
    return name.replace(".", "%2E") if name.strip(".") == "" else name

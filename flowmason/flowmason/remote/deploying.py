"""Pipelines of a project and those of an org: what differs, and bringing them over, in either direction.

What was the same on both sides last is remembered in `.flowmason/deployed.json`: a pipeline that somebody else has
written to since is a conflict, not ours to overwrite.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from flowmason.errors import Code, Failure, FlowMasonError, UsageError
from flowmason.remote.client import RemoteError, StudioClient

Action = Literal["create", "update", "same", "conflict", "failed"]
_FILE = "deployed.json"


class Local(msgspec.Struct, frozen=True):
    """A pipeline of the project in its canonical form."""

    name: str
    file: Path
    document: dict[str, Any]

    @property
    def digest(self) -> str:
        """As a Studio computes it."""
        return digest_of(self.document)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done, or was done, with one pipeline."""

    name: str
    action: Action
    file: str = ""
    remote: dict[str, Any] | None = None
    """The pipeline as the org has it; None: it has none."""
    local: dict[str, Any] | None = None
    """The document here; None: there is none."""
    failure: Failure | None = None


class Memory:
    """What was the same on both sides last, per org; kept in the project's `.flowmason`."""

    def __init__(self, folder: Path, org: str) -> None:
        self._file = folder / _FILE
        self._org = org

    def known(self) -> dict[str, str]:
        """Name → digest."""
        return self._read().get(self._org, {})

    def note(self, names: Mapping[str, str]) -> None:
        """From now on these are known to be the same."""
        found = self._read()
        found[self._org] = {**found.get(self._org, {}), **names}
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self._file.with_suffix(".new")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
        draft.replace(self._file)

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, dict[str, str]])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            raise UsageError(f"cannot read {self._file}: {error}", help="Remove the file.") from None


def digest_of(document: Mapping[str, Any]) -> str:
    """The digest of a canonical document."""
    return "sha256:" + hashlib.sha256(msgspec.json.encode(document)).hexdigest()


def in_org(client: StudioClient, name: str) -> dict[str, Any] | None:
    """The org's pipeline of a name; None where it has none."""
    try:
        found: dict[str, Any] = client.get(f"/pipelines/by-name/{quote(name, safe='')}")
    except RemoteError as error:
        if error.status == 404:
            return None
        raise
    return found


def sample_in_org(client: StudioClient, reference: str) -> dict[str, Any] | None:
    """The `sample_input` of what `name` or `name@version` means in the org; None where there is none."""
    name, _, version = reference.partition("@")
    found = in_org(client, name)
    if found is None:
        return None
    version = version or found["published_version"] or found["version"]
    try:
        kept = client.get(f"/pipelines/{found['id']}/versions/{quote(version, safe='')}")
    except RemoteError as error:
        if error.status != 404:
            raise
        kept = found
    sample: dict[str, Any] | None = kept["document"].get("sample_input")
    return sample


def plan_deploy(
    client: StudioClient, pipelines: Iterable[Local], known: Mapping[str, str], *, force: bool
) -> list[Step]:
    """What deploying would do, pipeline by pipeline. Nothing is written."""
    steps = []
    for local in pipelines:
        remote = in_org(client, local.name)
        action: Action
        if remote is None:
            action = "create"
        elif digest_of(remote["document"]) == local.digest:
            action = "same"
        else:
            theirs = known.get(local.name) != digest_of(remote["document"])
            action = "conflict" if theirs and not force else "update"
        steps.append(Step(name=local.name, action=action, file=str(local.file), remote=remote, local=local.document))
    return steps


def deploy(client: StudioClient, steps: Iterable[Step]) -> Iterator[Step]:
    """Do it; yields each step as it went.

    A pipeline that names another one of these comes after it: what is refused is tried again as long as others succeed.
    Raises `EngineUnavailableError` where the Studio is away; the steps that were yielded are done.
    """
    waiting = [step for step in steps if step.action in ("create", "update")]
    while waiting:
        refused: list[Step] = []
        progress = False
        for step in waiting:
            done = _write(client, step)
            if done.action == "failed":
                refused.append(done)
            else:
                progress = True
                yield done
        if not progress:
            yield from refused
            return
        again = {step.name for step in refused}
        waiting = [step for step in waiting if step.name in again]


def _write(client: StudioClient, step: Step) -> Step:
    try:
        try:
            _send(client, step)
        except FlowMasonError as error:
            if error.failure.code != Code.ENGINE_UNAVAILABLE:
                raise
            # Whoever was to answer has ended meanwhile; it may have written before.
            if not _is_there(client, step):
                _send(client, step)
    except FlowMasonError as error:
        if error.failure.code == Code.ENGINE_UNAVAILABLE:
            raise
        return msgspec.structs.replace(step, action="failed", failure=told(error))
    return step


def _send(client: StudioClient, step: Step) -> None:
    if step.remote is None:
        client.request("POST", "/pipelines", body=step.local)
        return
    client.request(
        "PUT",
        f"/pipelines/{step.remote['id']}",
        body=step.local,
        query={"replace": "true"},
        headers={"If-Match": f'"{step.remote["revision"]}"'},
    )


def _is_there(client: StudioClient, step: Step) -> bool:
    found = in_org(client, step.name)
    return found is not None and step.local is not None and digest_of(found["document"]) == digest_of(step.local)


def plan_pull(
    client: StudioClient, names: Iterable[str], local: Mapping[str, Local], known: Mapping[str, str], *, force: bool
) -> list[Step]:
    """What pulling would do: `create` and `update` are files here. Raises `RemoteError` for an unknown name."""
    wanted = list(names) or [each["name"] for each in client.pages("/pipelines", limit=200)]
    steps = []
    for name in wanted:
        remote = client.get(f"/pipelines/by-name/{quote(name, safe='')}")
        here = local.get(name)
        action: Action
        if here is None:
            action = "create"
        elif here.digest == digest_of(remote["document"]):
            action = "same"
        else:
            action = "update" if force or known.get(name) == here.digest else "conflict"
        file = "" if here is None else str(here.file)
        document = None if here is None else here.document
        steps.append(Step(name=name, action=action, file=file, remote=remote, local=document))
    return steps


def told(error: FlowMasonError) -> Failure:
    """What an error says, with its faults in the message."""
    faults = getattr(error, "faults", ())
    if not faults:
        return error.failure
    text = "; ".join(f"{fault.pointer}: {fault.reason}" for fault in faults[:5])
    return msgspec.structs.replace(error.failure, message=text)

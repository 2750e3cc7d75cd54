"""Keeps the models of a Studio served: for its keeper, a driver that looks every two seconds. Imports Ray."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

import ray
from flowmason.errors import FlowMasonError
from flowmason.served import fitted, names
from flowmason_serve_apps.llm import deploy
from flowmason_serve_apps.llm.wanted import Phase, Standing, Wanted, WantedModels
from ray import serve

log = logging.getLogger("flowmason.studio.keeper")

_GONE = ("NOT_STARTED", "DELETING")


class ModelKeeper:
    """Deploys what is asked for and not there, and deletes what nobody asks for any more; waits for neither."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._files = WantedModels(environ)
        self._ours: dict[str, Standing] | None = None

    def look(self) -> None:
        """Look once. Raises whatever Ray raises once the cluster is lost."""
        try:
            wanted = self._files.wanted()
            if self._ours is None:  # a keeper before this one may have deployed them
                self._ours = self._files.standing()
        except FlowMasonError as error:  # whoever repairs the file is heard at the next look; the Studio goes on
            log.warning("models are left as they are: %s", error)
            return
        if not wanted and not self._ours:
            return
        there = serve.status().applications
        standing: dict[str, Standing] = {}
        gateway = there.get(names.GATEWAY)
        reached = gateway is not None and gateway.status == "RUNNING"
        for name, wish in wanted.items():
            known = self._ours.get(name)
            found = there.get(names.application(name))
            if known is None or known.asked_at != wish.asked_at:
                standing[name] = self._deploy(wish, replaces=found is not None)
            elif not known.deployed:
                standing[name] = known
            elif found is not None and found.status not in _GONE:
                standing[name] = _now(known, found, reached)
            else:  # a Ray that started anew
                standing[name] = self._deploy(wish, replaces=False)
        for name in set(self._ours) - set(wanted):
            if names.application(name) in there:
                self._delete(names.application(name), there)
                standing[name] = msgspec.structs.replace(self._ours[name], phase="stopping", message="")
        if any(each.phase in ("starting", "running") for each in standing.values()):
            if gateway is None or gateway.status in (*_GONE, "DEPLOY_FAILED"):
                self._run(deploy.gateway({}), names.GATEWAY, names.PREFIX)
        elif not standing:
            self._delete(names.GATEWAY, there)
        self._ours = standing
        self._files.tell(standing)

    def _deploy(self, wish: Wanted, *, replaces: bool) -> Standing:
        model = wish.model
        listed: Any = ray.nodes
        nodes = [node["Resources"] for node in listed() if node.get("Alive")]
        try:
            chosen = fitted(model, nodes)
            application = deploy.application(chosen)
        except (FlowMasonError, ValueError) as error:
            log.warning("the model %s is not served: %s", model.name, error)
            said = f"{error}{'; what was served before goes on' if replaces else ''}"
            return Standing(wish.asked_at, "failed", str(model.engine), deployed=False, message=said)
        log.info("the model %s is deployed on %s", model.name, chosen.engine)
        self._run(application, names.application(model.name), None)
        return Standing(wish.asked_at, "starting", str(chosen.engine), chosen is not model)

    def _run(self, application: Any, name: str, prefix: str | None) -> None:
        serve.run_many(
            [serve.RunTarget(application, name=name, route_prefix=prefix)],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )

    def _delete(self, application: str, there: Mapping[str, Any]) -> None:
        if application in there and there[application].status != "DELETING":
            serve.delete(application, _blocking=False)


def _now(known: Standing, found: Any, reached: bool) -> Standing:
    engine = found.deployments.get(names.ENGINE)
    running = 0
    if engine is not None:
        running = sum(
            n for state, n in engine.replica_states.items() if str(getattr(state, "value", state)) == "RUNNING"
        )
    phase: Phase = "starting"
    if found.status == "RUNNING" and reached:
        phase = "running"
    elif found.status == "DEPLOY_FAILED":
        phase = "failed"
    said = (engine.message if engine is not None else "") or found.message
    message = "" if phase == "running" else _last_line(said)
    return msgspec.structs.replace(known, phase=phase, replicas=running, message=message)


def _last_line(text: str) -> str:
    """Of what Serve says of a replica that did not start, its error: the last line of the traceback."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error: " in line and not line.startswith("ray.")]
    return (errors or lines or [""])[-1][:1000]

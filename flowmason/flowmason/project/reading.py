"""Reading `flowmason.json`: every key checked, every fault noted with its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import msgspec

from flowmason.errors import Fault, UsageError, did_you_mean
from flowmason.project.settings import Budget, ComponentFiles, Project, ProviderConfig, Testing


def parse_project(value: Any, root: Path) -> tuple[Project, list[Fault]]:
    """The project that the content of a `flowmason.json` describes, and everything that is wrong in it."""
    reader = _Reader()
    return _read(reader, value, root), reader.faults


class _Reader:
    """Checks plain values and notes every fault instead of stopping at the first."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def fault(self, pointer: str, reason: str, nearest: str | None = None) -> None:
        self.faults.append(Fault(reason, pointer, nearest=nearest))

    def record(self, value: Any, pointer: str, known: Sequence[str], *, open: bool = False) -> dict[str, Any]:
        """An object with no keys but `known` (and `x-…`); an empty one where it is something else."""
        if not isinstance(value, dict):
            self.fault(pointer, f"an object is expected, not {_kind(value)}")
            return {}
        for key in value:
            if key not in known and not open and not key.startswith("x-"):
                self.fault(f"{pointer}.{key}", f"unknown key {key!r}", did_you_mean(key, known))
        return value

    def text(self, given: Mapping[str, Any], pointer: str, key: str, default: Any = "") -> Any:
        return self.one(given, pointer, key, default, str, "a text")

    def one(self, given: Mapping[str, Any], pointer: str, key: str, default: Any, kind: type[Any], said: str) -> Any:
        value = given.get(key)
        if value is None:
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.fault(f"{pointer}.{key}", f"{said} is expected, not {_kind(value)}")
            return default
        return value

    def whole(self, given: Mapping[str, Any], pointer: str, key: str, default: Any, least: int) -> Any:
        value = self.one(given, pointer, key, default, int, "a whole number")
        if value is not default and value < least:
            self.fault(f"{pointer}.{key}", f"it is {value}; the least is {least}")
        return value

    def texts(
        self,
        given: Mapping[str, Any],
        pointer: str,
        key: str,
        default: tuple[str, ...] = (),
        check: Callable[[str], str | None] | None = None,
    ) -> tuple[str, ...]:
        value = given.get(key)
        if value is None:
            return default
        if not isinstance(value, list):
            self.fault(f"{pointer}.{key}", f"a list of texts is expected, not {_kind(value)}")
            return default
        for index, item in enumerate(value):
            if not isinstance(item, str):
                self.fault(f"{pointer}.{key}[{index}]", f"a text is expected, not {_kind(item)}")
            elif check is not None and (reason := check(item)) is not None:
                self.fault(f"{pointer}.{key}[{index}]", reason)
        return tuple(item for item in value if isinstance(item, str))


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


_KEYS = (
    "$schema",
    "name",
    "version",
    "description",
    "author",
    "license",
    "repository",
    "main",
    "components",
    "providers",
    "testing",
    "org",
    "pipeline_dirs",
    "env",
    "egress",
    "mcp",
    "budget",
    "extra",
)
_PROVIDER_KEYS = ("model", "api_key_env", "base_url", "temperature", "max_tokens", "extra", "limits", "chain")


def _read(reader: _Reader, value: Any, root: Path) -> Project:
    given = reader.record(value, "$", _KEYS)
    if given and not given.get("name"):
        reader.fault("$", "the key 'name' is missing")
    components = reader.record(given.get("components", {}), "$.components", ("include", "exclude"))
    org = given.get("org", {})
    org = {"default": org} if isinstance(org, str) else reader.record(org, "$.org", ("default",))
    default_provider, providers = _providers(reader, given.get("providers", {}))
    extra = reader.one(given, "$", "extra", {}, dict, "an object")
    patterns = ComponentFiles()
    return Project(
        root=root,
        name=reader.text(given, "$", "name"),
        version=reader.text(given, "$", "version", "1.0.0"),
        description=reader.text(given, "$", "description"),
        author=reader.text(given, "$", "author"),
        license=reader.text(given, "$", "license"),
        repository=reader.text(given, "$", "repository"),
        main=reader.text(given, "$", "main", None),
        components=ComponentFiles(
            include=reader.texts(components, "$.components", "include", patterns.include, _inside),
            exclude=reader.texts(components, "$.components", "exclude", patterns.exclude, _inside),
        ),
        default_provider=default_provider,
        providers=providers,
        testing=_testing(reader, given.get("testing", {})),
        org=reader.text(org, "$.org", "default", None),
        pipeline_dirs=reader.texts(given, "$", "pipeline_dirs", ("pipelines",), _inside),
        env=reader.texts(given, "$", "env", (), _variable),
        egress_allow=reader.texts(
            reader.record(given.get("egress", {}), "$.egress", ("allow",)), "$.egress", "allow", (), _host_port
        ),
        mcp_servers=_servers(reader, given.get("mcp", {})),
        budget=_budget(reader, given.get("budget", {})),
        extra={**extra, **{key: item for key, item in given.items() if key.startswith("x-")}},
    )


def _providers(reader: _Reader, value: Any) -> tuple[str | None, dict[str, ProviderConfig]]:
    pointer = "$.providers"
    given = reader.record(value, pointer, (), open=True)
    default = reader.text(given, pointer, "default", None)
    named = {f"{pointer}.{key}": (key, item) for key, item in given.items() if key not in ("default", "extra")}
    more = reader.record(given.get("extra", {}), f"{pointer}.extra", (), open=True)
    named.update({f"{pointer}.extra.{key}": (key, item) for key, item in more.items()})
    providers: dict[str, ProviderConfig] = {}
    for at, (name, item) in named.items():
        if not isinstance(item, dict):
            reader.fault(
                at, f"the settings of a provider are an object, not {_kind(item)}", did_you_mean(name, ["default"])
            )
            continue
        if name in providers:
            reader.fault(at, f"the provider {name!r} is there twice")
        settings = reader.record(item, at, _PROVIDER_KEYS)
        if "chain" in settings:
            providers[name] = ProviderConfig(chain=_chain(reader, at, name, settings, named.values()))
            continue
        temperature = reader.one(settings, at, "temperature", None, int | float, "a number")  # type: ignore[arg-type]
        if temperature is not None and not (math.isfinite(temperature) and 0 <= temperature <= 2):
            reader.fault(f"{at}.temperature", "it goes from 0 to 2")
        base_url = reader.text(settings, at, "base_url", None)
        if base_url is not None and not base_url.startswith(("http://", "https://")):
            reader.fault(f"{at}.base_url", "it must start with http:// or https://")
        providers[name] = ProviderConfig(
            model=reader.text(settings, at, "model", None),
            api_key_env=reader.text(settings, at, "api_key_env", None),
            base_url=base_url,
            temperature=temperature,
            max_tokens=reader.whole(settings, at, "max_tokens", None, 1),
            extra=reader.one(settings, at, "extra", {}, dict, "an object"),
            limits=_limits(reader, at, settings),
        )
    return default, providers


def _limits(reader: _Reader, at: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    if "limits" not in settings:
        return {}
    from flowmason.providers import read_limits

    try:
        found: dict[str, Any] = msgspec.to_builtins(read_limits(settings["limits"]))
    except UsageError as error:
        details = error.failure.details or {}
        reader.fault(f"{at}.limits{details.get('place', '')}", str(error), details.get("nearest"))
        return {}
    return found


def _chain(
    reader: _Reader, at: str, name: str, settings: Mapping[str, Any], others: Iterable[tuple[str, Any]]
) -> tuple[dict[str, Any], ...]:
    from flowmason.providers import known_providers, read_chain

    known = known_providers()
    if name in known:
        reader.fault(at, f"{name!r} is the name of a provider; a chain has another")
    for key in settings:
        if key != "chain" and not key.startswith("x-"):
            reader.fault(f"{at}.{key}", f"a chain has no {key!r}: it belongs to the providers in it")
    chains = {other for other, item in others if isinstance(item, dict) and "chain" in item}
    try:
        found = read_chain(name, settings["chain"], {*known, *(other for other, _ in others)} - chains, chains)
    except UsageError as error:
        details = error.failure.details or {}
        reader.fault(f"{at}.chain{details.get('place', '')}", str(error), details.get("nearest"))
        return ()
    return tuple(msgspec.to_builtins(found))


def _testing(reader: _Reader, value: Any) -> Testing:
    at = "$.testing"
    given = reader.record(value, at, Testing.__struct_fields__)
    usual = Testing()
    return Testing(
        timeout=reader.whole(given, at, "timeout", usual.timeout, 1),
        retries=reader.whole(given, at, "retries", usual.retries, 0),
        parallel=reader.one(given, at, "parallel", usual.parallel, bool, "true or false"),
        coverage=reader.one(given, at, "coverage", usual.coverage, bool, "true or false"),
        test_patterns=reader.texts(given, at, "test_patterns", usual.test_patterns, _inside),
    )


def _servers(reader: _Reader, value: Any) -> dict[str, dict[str, Any]]:
    given = reader.record(value, "$.mcp", ("servers",))
    servers = reader.record(given.get("servers", {}), "$.mcp.servers", (), open=True)
    found = {name: reader.record(item, f"$.mcp.servers.{name}", (), open=True) for name, item in servers.items()}
    for name, item in found.items():
        from flowmason.mcp_client.servers import read_server

        try:
            read_server(name, item)
        except UsageError as error:
            reader.fault(f"$.mcp.servers.{name}", str(error))
    return found


def _budget(reader: _Reader, value: Any) -> Budget:
    given = reader.record(value, "$.budget", Budget.__struct_fields__)
    cost = reader.text(given, "$.budget", "max_cost", None)
    if cost is not None:
        try:
            amount = Decimal(cost)
            good = amount.is_finite() and amount >= 0
        except InvalidOperation:
            good = False
        if not good:
            reader.fault("$.budget.max_cost", f"{cost!r} is not an amount of dollars such as '0.50'")
    return Budget(max_cost=cost, max_tokens=reader.whole(given, "$.budget", "max_tokens", None, 1))


def _inside(path: str) -> str | None:
    parts = path.replace("\\", "/").split("/")
    return "it must stay inside the project" if path.startswith("/") or ".." in parts or not path else None


def _variable(name: str) -> str | None:
    return None if name.isidentifier() else f"{name!r} is not the name of an environment variable"


def _host_port(text: str) -> str | None:
    host, _, port = text.rpartition(":")
    fine = bool(host) and port.isdigit() and 0 < int(port) < 65536 and not any(c in host for c in "/@ ")
    return None if fine else f"{text!r} is not of the form host:port"

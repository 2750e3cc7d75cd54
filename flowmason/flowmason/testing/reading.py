"""Reading `.test.json` files: both spellings of assertions, every fault in its place."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Any

from flowmason.document import Document, located, read_document
from flowmason.errors import RefusedError, did_you_mean
from flowmason.pipeline import Path
from flowmason.testing.assertions import OPERATORS, TYPES, parse_path, wrong_expectation
from flowmason.testing.files import SUFFIX, Assertion, Check, Script, Setup, TestCase, TestFile
from flowmason.testing.mocking import read_mocks, read_script
from flowmason.testing.reader import Reader, kind_of

_FILE_KEYS = (
    "$schema",
    "name",
    "description",
    "pipeline",
    "component",
    "component_type",
    "timeout",
    "tags",
    "setup",
    "mocks",
    "provider",
    "llm",
    "tests",
)
_CASE_KEYS = (
    "name",
    "description",
    "input",
    "assertions",
    "expect_error",
    "snapshot",
    "timeout",
    "tags",
    "skip",
    "only",
    "mocks",
    "provider",
    "llm",
)
_TYPED_KEYS = ("path", "type", "value", "expected_type", "less_than", "greater_than", "message")
_LIMITS = {"lessThan": "less_than", "greaterThan": "greater_than"}


def read_test_file(path: FilePath, *, shown: str | None = None) -> tuple[TestFile, Document]:
    """Read a file of tests; `shown` is how its name is written in faults.

    Raises `RefusedError` with every fault in file order, `UsageError` where it cannot be read.
    """
    document = read_document(shown or path)
    reader = Reader()
    found = _file(reader, document.value, path)
    if reader.faults:
        placed = [located(fault, document) for fault in reader.faults]
        placed.sort(key=lambda fault: (fault.line or 0, fault.column or 0))
        raise RefusedError(placed)
    return found, document


def _file(reader: Reader, value: Any, path: FilePath) -> TestFile:
    given = reader.record(value, (), _FILE_KEYS)
    component = _either(reader, given, (), ("component", "component_type"))
    if isinstance(value, dict) and (component is None) == (given.get("pipeline") is None):
        reader.fault((), "exactly one of 'pipeline' and 'component' must be given")
    if component is not None and not isinstance(component, str):
        reader.fault((), f"the component's name is a text, not {kind_of(component)}")
        component = None
    tests = reader.one(given, (), "tests", [], list, "a list of tests")
    if isinstance(value, dict) and not tests:
        reader.fault(("tests",) if "tests" in given else (), "there are no tests")
    cases = tuple(_case(reader, test, ("tests", index), index) for index, test in enumerate(tests))
    _distinct(reader, cases)
    return TestFile(
        path=path,
        name=reader.text(given, (), "name") or path.name.removesuffix(SUFFIX),
        description=reader.text(given, (), "description"),
        pipeline=reader.text(given, (), "pipeline", None),
        component=component,
        timeout_ms=reader.number(given, (), "timeout", None, 1, True),
        tags=reader.texts(given, (), "tags"),
        setup=_setup(reader, given),
        mocks=read_mocks(reader, given, ()),
        llm=_script(reader, given, ()),
        cases=cases,
    )


def _setup(reader: Reader, given: dict[str, Any]) -> Setup:
    at: Path = ("setup",)
    setup = reader.record(given.get("setup") or {}, at, Setup.__struct_fields__)
    return Setup(
        input=reader.one(setup, at, "input", {}, dict, "an object"),
        env=reader.texts_by_name(setup, at, "env"),
        secrets=reader.texts_by_name(setup, at, "secrets"),
    )


def _case(reader: Reader, value: Any, at: Path, index: int) -> TestCase:
    given = reader.record(value, at, _CASE_KEYS)
    name = reader.text(given, at, "name")
    if isinstance(value, dict) and not name:
        reader.fault(at, "the test has no name")
    assertions = reader.one(given, at, "assertions", [], list, "a list of assertions")
    checks = tuple(_assertion(reader, item, (*at, "assertions", n)) for n, item in enumerate(assertions))
    snapshot = reader.one(given, at, "snapshot", False, (bool, str), "true or a name")
    expect_error = reader.one(given, at, "expect_error", False, (bool, str), "true or a text")
    return TestCase(
        name=name,
        index=index,
        description=reader.text(given, at, "description"),
        input=reader.one(given, at, "input", {}, dict, "an object"),
        assertions=tuple(check for check in checks if check is not None),
        expect_error=expect_error,
        snapshot=name if snapshot is True else snapshot or None,
        timeout_ms=reader.number(given, at, "timeout", None, 1, True),
        tags=reader.texts(given, at, "tags"),
        skip=reader.one(given, at, "skip", False, (bool, str), "true or a reason"),
        only=reader.flag(given, at, "only"),
        mocks=read_mocks(reader, given, at),
        llm=_script(reader, given, at),
    )


def _distinct(reader: Reader, cases: tuple[TestCase, ...]) -> None:
    names: dict[str, int] = {}
    snapshots: dict[str, str] = {}
    for case in cases:
        if case.name and names.setdefault(case.name, case.index) != case.index:
            reader.fault(("tests", case.index, "name"), f"there is another test named {case.name!r}")
        elif case.snapshot and snapshots.setdefault(case.snapshot, case.name) != case.name:
            reader.fault(
                ("tests", case.index, "snapshot"),
                f"the snapshot {case.snapshot!r} is that of the test {snapshots[case.snapshot]!r}",
            )


def _script(reader: Reader, given: dict[str, Any], at: Path) -> Script | None:
    key = "llm" if given.get("llm") is not None else "provider"
    return read_script(reader, _either(reader, given, at, ("llm", "provider")), (*at, key))


def _either(reader: Reader, given: dict[str, Any], at: Path, keys: tuple[str, str]) -> Any:
    """The value of one of two spellings; both at once are a fault."""
    first, second = (given.get(key) for key in keys)
    if first is not None and second is not None:
        reader.fault((*at, keys[1]), f"{keys[0]!r} and {keys[1]!r} are two spellings of one thing; give one")
    return second if first is None else first


def _assertion(reader: Reader, value: Any, at: Path) -> Assertion | None:
    faults = len(reader.faults)
    if not isinstance(value, dict):
        reader.fault(at, f"an assertion is an object, not {kind_of(value)}")
        return None
    path = value.get("path")
    if not isinstance(path, str):
        reader.fault((*at, "path") if "path" in value else at, "an assertion needs a path such as 'output.name'")
        path = ""
    try:
        parse_path(path)
    except ValueError as error:
        reader.fault((*at, "path"), str(error))
    # `type` is the operator's name in one spelling and a type of JSON in the other; no word is both.
    kind = value.get("type")
    keyed = [key for key in value if key in OPERATORS and (key != "type" or kind in TYPES)]
    checks = _keyed(reader, value, keyed, at) if keyed else _typed(reader, value, at)
    message = reader.text(value, at, "message")
    return Assertion(path, checks, message) if len(reader.faults) == faults else None


def _keyed(reader: Reader, value: dict[str, Any], keyed: list[str], at: Path) -> tuple[Check, ...]:
    known = ("path", "message", *OPERATORS)
    reader.record(value, at, known)
    if "type" in value and "type" not in keyed:
        _wrong_type(reader, value["type"], at)
    checks = []
    for key in keyed:
        check = Check(key, value[key])
        reason = wrong_expectation(check)
        if reason is not None:
            reader.fault((*at, key), reason)
        checks.append(check)
    return tuple(checks)


def _typed(reader: Reader, value: dict[str, Any], at: Path) -> tuple[Check, ...]:
    kind = value.get("type", "exists")
    strange = [key for key in value if key not in _TYPED_KEYS and not key.startswith("x-")]
    for key in strange:
        near = did_you_mean(key, ("path", "message", *OPERATORS, *_TYPED_KEYS))
        reader.fault((*at, key), f"unknown key {key!r}", near)
    if not isinstance(kind, str) or kind not in OPERATORS:
        _wrong_type(reader, kind, at)
        return ()
    if kind in ("exists", "notExists"):
        _surplus(reader, value, at, kind, ("value",))
        wanted = reader.one(value, at, "value", True, bool, "true or false")
        return (Check(kind, wanted),)
    own = "expected_type" if kind == "type" else _LIMITS.get(kind)
    accepted = tuple(key for key in ("value", own) if key is not None)
    _surplus(reader, value, at, kind, accepted)
    given = [key for key in accepted if key in value]
    if len(given) != 1:
        reason = f"{kind!r} needs {' or '.join(repr(key) for key in accepted)}"
        reader.fault(at if not given else (*at, given[1]), reason + (", not both" if given else ""))
        return ()
    check = Check(kind, value[given[0]])
    wrong = wrong_expectation(check)
    if wrong is not None:
        reader.fault((*at, given[0]), wrong)
    return (check,)


def _surplus(reader: Reader, value: dict[str, Any], at: Path, kind: str, accepted: tuple[str, ...]) -> None:
    for key in ("value", "expected_type", "less_than", "greater_than"):
        if key in value and key not in accepted:
            reader.fault((*at, key), f"{key!r} means nothing for {kind!r}")


def _wrong_type(reader: Reader, kind: Any, at: Path) -> None:
    if not isinstance(kind, str):
        reader.fault((*at, "type"), f"the type of an assertion is a text, not {kind_of(kind)}")
        return
    known = (*OPERATORS, *TYPES)
    reader.fault((*at, "type"), f"there is no assertion of type {kind!r}", did_you_mean(kind, known))

"""How a forecast is told to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

Told = Mapping[str, Any]


def line(found: Told) -> str:
    """`forecast: at most $0.5; usually $0.0021 (23 runs)`."""
    usual = found["usual"]
    return f"forecast: {worst_words(found['worst'])}; {_usual_in_short(usual)}{_beyond(usual)}"


def print_forecast(found: Told, stream: TextIO) -> None:
    """All of a forecast."""
    from flowmason.cli.tables import print_table

    print(f"forecast of {found['pipeline']}@{found['version']}", file=stream)
    rows = [["at worst", worst_words(found["worst"])], *_usual_rows(found["usual"])]
    print_table((), rows, indent="  ", stream=stream)
    stages = found["stages"]
    if stages:
        table = [[each["stage"], _models(each["models"]), worst_words(each["worst"])] for each in stages]
        print_table(("STAGE", "ASKS", "ITS BUDGET"), table, indent="  ", stream=stream)
    else:
        print("  no stage says that it asks a model", file=stream)
    for note in found["notes"]:
        print(f"  {note}", file=stream)


def worst_words(worst: Told) -> str:
    """`at most $0.5 and 1,000 tokens`; what is not bounded is said so."""
    cost, tokens = worst["cost"], worst["tokens"]
    parts = [*([f"${cost}"] if cost is not None else []), *([f"{tokens:,} tokens"] if tokens is not None else [])]
    return f"at most {' and '.join(parts)}" if parts else "no bound: no budget holds it"


def _usual_in_short(usual: Told | None) -> str:
    if usual is None:
        return "no completed run tells what is usual"
    what = f"${usual['cost']['median']}" if usual["cost"] is not None else f"{usual['tokens']['median']:,} tokens"
    return f"usually {what} ({_runs(usual['runs'])})"


def _usual_rows(usual: Told | None) -> list[list[str]]:
    if usual is None:
        return [["usually", "not known: there is no completed run"]]
    same = usual["same"]
    of = f"{_runs(usual['runs'])}, {same if same < usual['runs'] else 'all'} of this version" + _beyond(usual)
    rows = [["usually", of]]
    if (cost := usual["cost"]) is not None:
        unpriced = f"; of {_runs(usual['unpriced'])} not known" if usual["unpriced"] else ""
        rows.append(["", f"${cost['min']} to ${cost['max']}, median ${cost['median']}{unpriced}"])
    else:
        rows.append(["", "at an unknown price"])
    for key in ("tokens", "calls"):
        found = usual[key]
        rows.append(["", f"{found['min']:,} to {found['max']:,} {key}, median {found['median']:,}"])
    return rows


def _beyond(usual: Told | None) -> str:
    return f"; {usual['beyond']} of them used more than that" if usual is not None and usual["beyond"] else ""


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"


def _models(models: list[Told]) -> str:
    return ", then ".join(_model(each) for each in models) or "no provider is chosen"


def _model(each: Told) -> str:
    who = "/".join(part for part in (each["provider"], each["model"]) if part)
    price, most = each["price"], each["max_tokens"]
    cost = "price unknown" if price is None else f"${price['input']} in, ${price['output']} out per 1M tokens"
    return f"{who} ({cost}{f', answers up to {most:,} tokens' if most else ''})"

"""The shell commands of a page, run as its reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

BIN = Path(sys.executable).parent


def commands(text: str) -> list[tuple[str, int]]:
    """The lines of the `sh` blocks of a page, each with the exit code that its comment promises (`# exits with 2`)."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            command, _, comment = line.partition("  #")
            if command.strip():
                code = re.search(r"exits with (\d+)", comment)
                found.append((command.strip(), int(code[1]) if code else 0))
    return found


def run(
    wanted: list[tuple[str, int]], folder: Path, *, environ: Mapping[str, str] | None = None, timeout_s: float = 300
) -> None:
    """Run the commands in one shell, in `environ` (by default ours).

    Fails with all that was printed where one ends with another code.
    """
    script = ["set -m; trap 'kill $(jobs -p) 2>/dev/null' EXIT"]
    for command, code in wanted:
        shown = command.replace("'", "'\\''")
        script += [command, f"code=$?; [ $code = {code} ] || {{ echo 'exit' $code 'from: {shown}'; exit 99; }}"]
    with (folder / "printed.txt").open("w+") as printed:
        ended = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            cwd=folder,
            env={**(environ or os.environ), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
            stdout=printed,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
        )
        printed.seek(0)
        assert ended.returncode == 0, printed.read()

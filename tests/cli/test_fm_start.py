"""Help and the cost of starting."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fm_project import Fm, Project

pytestmark = pytest.mark.wheel

COMMANDS = (
    "run",
    "validate",
    "init",
    "list",
    "info",
    "resume",
    "pause",
    "cancel",
    "runs",
    "pack",
    "install",
    "uninstall",
    "doctor",
)


def test_help_lists_every_command(fm: Fm) -> None:
    answer = fm("--help")
    assert answer.code == 0
    for name in (*COMMANDS, "test", "cluster"):
        assert f"\n  {name} " in answer.out
    assert fm().err.startswith("Usage:")
    assert fm("--version").out.startswith("flowmason ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(fm: Fm, name: str) -> None:
    answer = fm(name, "--help")
    assert answer.code == 0
    assert answer.out.startswith(f"Usage: fm {name}")
    if name != "runs":
        assert f"Examples:\n    fm {name}" in answer.out


def test_an_unknown_command_is_told_the_nearest(fm: Fm) -> None:
    answer = fm("valdate")
    assert answer.code == 2
    assert "Did you mean 'validate'" in answer.err


@pytest.mark.parametrize("args", [["--help"], ["validate"]])
def test_checking_a_file_imports_nothing_heavy(project: Project, args: list[str]) -> None:
    script = (
        "import sys\n"
        "from flowmason.cli import main\n"
        "try: main()\n"
        "except SystemExit as exit: assert not exit.code\n"
        "heavy = ('ray', 'rich', 'sqlalchemy', 'alembic', 'fsspec', 'httpx2', 'openai', 'anthropic', 'asyncio')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    for _ in range(2):  # the first one may have to ask components what they are
        done = subprocess.run(
            [sys.executable, "-c", script, *args],
            cwd=project.root,
            env=project.environ,
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_completion_knows_the_commands(project: Project) -> None:
    environ = {**project.environ, "_FM_COMPLETE": "complete_bash", "COMP_WORDS": "fm va", "COMP_CWORD": "1"}
    script = "import sys; sys.argv[0] = 'fm'; from flowmason.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=False, cwd=project.root
    )
    assert done.stdout.split() == ["validate"], done.stderr

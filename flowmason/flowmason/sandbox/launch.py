"""The walls around a sandboxed child: bubblewrap, as an unprivileged user.

The child has its own namespaces for everything (no network but its own empty loopback, no other processes), an empty
environment, Python and FlowMason read-only, one package file, and a small `/tmp`. It dies with its worker.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

from flowmason.errors import Code, StageError

PACKAGE = "/package.fmpkg"
"""Where the child finds the package that it may run."""
TMP_BYTES = 64 * 1024 * 1024
_TRY_S = 10.0
_OURS = Path(__file__).parents[1]


@cache
def why_not() -> str | None:
    """Why no sandbox can be made on this machine, or None where one can. Tried once per process."""
    program = shutil.which("bwrap")
    if program is None:
        return "bubblewrap (bwrap) is not installed"
    command = [*walls(program, None), "/usr/bin/true"]
    try:
        tried = subprocess.run(command, capture_output=True, timeout=_TRY_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not start: {error}"
    return None if tried.returncode == 0 else f"bubblewrap does not work here: {tried.stderr.decode().strip()[-300:]}"


def require_sandbox(component: str) -> None:
    """Raise `StageError` (`NOT_SUPPORTED`) where the component of an uploaded package cannot be walled in."""
    reason = why_not()
    if reason is not None:
        raise StageError(
            f"{component} comes from an uploaded package and runs in a sandbox only: {reason}",
            code=Code.NOT_SUPPORTED,
            help="Install bubblewrap on the workers (Debian: apt-get install bubblewrap) and allow user namespaces.",
        )


def walls(program: str, package: Path | None) -> list[str]:
    """The command line of bubblewrap up to the program to run inside."""
    command = [program, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--disable-userns"]
    command += ["--unshare-user", "--hostname", "sandbox", "--cap-drop", "ALL"]
    command += ["--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8"]
    command += ["--setenv", "PYTHONDONTWRITEBYTECODE", "1", "--setenv", "PYTHONUNBUFFERED", "1"]
    command += ["--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        path = Path(name)
        if path.is_symlink():
            command += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            command += ["--ro-bind", name, name]
    for name in ("/etc/ld.so.cache", "/etc/ssl/certs", "/etc/localtime"):
        command += ["--ro-bind-try", name, name]
    command += ["--proc", "/proc", "--dev", "/dev", "--size", str(TMP_BYTES), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    for folder in _python_folders():
        # After /tmp: an installation may lie there, too.
        command += ["--ro-bind", folder, folder]
    if package is not None:
        command += ["--ro-bind", str(package), PACKAGE]
    return command


@cache
def _python_folders() -> tuple[str, ...]:
    """What Python needs to run FlowMason: its own folders and where the packages lie, nothing around them."""
    paths = sysconfig.get_paths()
    wanted = [sys.base_prefix, paths["stdlib"], paths["purelib"], paths["platlib"], str(Path(sys.executable).parent)]
    # An editable installation lies elsewhere; only the package itself is shown, not the checkout around it.
    wanted.append(str(_OURS))
    found: list[str] = []
    for folder in dict.fromkeys(str(Path(each).resolve()) for each in wanted) | dict.fromkeys(wanted):
        inside = any(folder == other or folder.startswith(f"{other}/") for other in ("/usr", *found))
        if not inside and Path(folder).is_dir():
            found.append(folder)
    venv = Path(sys.prefix) / "pyvenv.cfg"
    return (*found, str(venv)) if venv.exists() else tuple(found)


async def start_child(package: Path, target: str, at_once: int) -> asyncio.subprocess.Process:
    """Start a child for one component of a package; `at_once` is the descriptor of its end of a socket pair.

    Raises `StageError` where that cannot be done.
    """
    program = shutil.which("bwrap")
    assert program is not None  # `require_sandbox` was asked
    inside = [sys.executable, "-I", "-c", _START, str(_OURS.parent), target, str(at_once)]
    try:
        return await asyncio.create_subprocess_exec(
            *walls(program, package),
            *inside,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={},
            pass_fds=(at_once,),
            limit=2**20,
        )
    except OSError as error:
        raise StageError(f"the sandbox could not be started: {error}", code=Code.INTERNAL) from error


_START = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from flowmason.sandboxed import main; main(sys.argv[2], int(sys.argv[3]))"
)

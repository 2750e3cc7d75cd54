"""Ray jobs: `fm run --submit`, which does what `ray job submit --working-dir . -- fm run …` does, and follows it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flowmason.errors import EngineUnavailableError, UsageError
from flowmason_actors import tokens
from flowmason_actors.head import STOPPING
from flowmason_cluster import joining, warm
from flowmason_cluster.in_job import mark_line
from flowmason_cluster.ray_start import require_ray

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

EXCLUDED = (
    *(".flowmason/", ".git/", ".hg/", ".venv/", "venv/", "node_modules/", ".env"),
    *("__pycache__/", ".mypy_cache/", ".pytest_cache/", ".ruff_cache/", ".hypothesis/"),
)
"""What is never uploaded, beside what `.gitignore` and `.rayignore` leave out."""

_MOST_COMMAND = 100_000
"""Bytes of a job's command; the kernel takes 128 KiB."""
_POLL_S = 0.5
_SILENT_S = 30.0
_CANCELLED, _INTERRUPTED = 3, 130


def submit(
    *,
    root: Path,
    arguments: Sequence[str],
    name: str = "",
    address: str | None = None,
    allow_open: bool = False,
    say: Callable[[str], None],
) -> int:
    """Run `fm` as a Ray job and follow its log to the end. Blocks. Returns the exit code.

    `root` is the folder to upload and the job's working directory, `arguments` are those of `fm` as seen from there,
    `name` is what the dashboard lists the job under, `address` the `host:port` of the GCS or the URL of the job server
    (None: the warm cluster). The answer of `fm` goes to stdout, every other line of the log to stderr. The first Ctrl-C
    stops the job, which cancels its run (3); a second one only stops following (130). Raises `EngineUnavailableError`
    where there is no cluster to submit to, `UsageError` where the command is too long.
    """
    require_ray()
    mark = secrets.token_hex(6)
    command = shlex.join(["python", "-m", "flowmason_cluster.in_job", mark, *arguments])
    if len(command.encode()) > _MOST_COMMAND:
        raise UsageError(
            f"the command of the job would be {len(command.encode())} bytes; {_MOST_COMMAND} are the most",
            help="Put the input into a file of the project and name it with --input-file.",
        )
    server, token = _server(address, allow_open)
    with _ray_quiet():
        client = _client(server, token)
        try:
            runtime = {"working_dir": str(root), "excludes": list(EXCLUDED), "env_vars": dict(STOPPING)}
            metadata = {"name": name} if name else {}
            job_id = client.submit_job(entrypoint=command, runtime_env=runtime, metadata=metadata)
        except (RuntimeError, ValueError, ConnectionError) as error:
            raise EngineUnavailableError(f"the job server at {server} did not take the job: {error}") from error
        say(f"job {job_id} at {server}")
        return asyncio.run(_Follower(client, job_id, mark, say).follow())


def job_server(address: str | None) -> str | None:
    """The URL of the job server of the cluster at `address` (None: of the warm one); None: it has none."""
    known = warm.running()
    if address is None or (known is not None and address in (known.address, known.dashboard)):
        return None if known is None else known.dashboard
    if address.startswith(("http://", "https://")):
        return address.rstrip("/")
    target = joining.resolve(address)
    panel = joining.dashboard(target, tokens.theirs(os.environ))
    return f"http://{panel}" if panel else None


def _server(address: str | None, allow_open: bool) -> tuple[str, str | None]:
    """Where to submit to, and the token to show there."""
    known = warm.running()
    if address is None and known is None:
        raise EngineUnavailableError(
            "there is no cluster to submit to", help="Start one (fm cluster up), or name one with --ray ADDRESS."
        )
    server = job_server(address)
    if server is None:
        raise EngineUnavailableError(
            f"the Ray at {address or (known and known.address)} has no job server",
            help="Start it with its dashboard (fm cluster up --dashboard).",
        )
    ours = known is not None and server == known.dashboard
    if not ours and not allow_open and _is_open(server):
        raise joining.open_cluster(server)
    return server, tokens.read(os.environ, own=ours)


def _is_open(server: str) -> bool:
    """Whether whoever reaches the job server may run code there."""
    import http.client

    parts = urlsplit(server)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request("GET", "/api/jobs/")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException) as error:
        raise EngineUnavailableError(
            f"nobody answers at {server}: {error}", help="Is the cluster running, and is this its dashboard's address?"
        ) from error
    finally:
        connection.close()


def _client(server: str, token: str | None) -> JobSubmissionClient:
    # These would win over the address that is given.
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        os.environ.pop(name, None)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        return JobSubmissionClient(server, headers=headers)
    except AuthenticationError as error:
        raise EngineUnavailableError(
            f"the job server at {server} does not accept our token",
            help="Set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to its token.",
        ) from error
    except (ConnectionError, RuntimeError, OSError) as error:
        raise EngineUnavailableError(
            f"the job server at {server} cannot be used: {error}", help="Is the cluster running? fm cluster status."
        ) from error


@contextlib.contextmanager
def _ray_quiet() -> Iterator[None]:
    """Ray's client tells of every step; its warnings stay."""
    import ray.job_submission  # noqa: F401 - it sets its loggers up when it is imported

    names = ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging")
    before = {name: logging.getLogger(f"ray.{name}").level for name in names}
    for name in names:
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(f"ray.{name}").setLevel(level)


class _Follower:
    """Prints a job's log as it grows, and knows how the job ended."""

    def __init__(self, client: JobSubmissionClient, job_id: str, mark: str, say: Callable[[str], None]) -> None:
        self._client = client
        self._job_id = job_id
        self._say = say
        self._lines = _Lines(mark_line(mark))
        self._interrupts = 0
        self._main: asyncio.Task[Any] | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def follow(self) -> int:
        """Follow to the end; returns the exit code."""
        loop = asyncio.get_running_loop()
        self._main = asyncio.current_task()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupted)
        try:
            details = await self._to_its_end()
        except asyncio.CancelledError:
            self._say(f"no longer following; the job goes on: {self._job_id}")
            return _INTERRUPTED
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
        return self._ended(details)

    async def _to_its_end(self) -> Any:
        seen, silent_since = 0, loop_time()
        while True:
            at = 0
            with contextlib.suppress(RuntimeError, OSError):
                async for text in self._log():
                    # A log that is followed anew begins at its beginning.
                    fresh = text[max(0, seen - at) :]
                    at += len(text)
                    seen = max(seen, at)
                    self._lines.feed(fresh)
            try:
                details = await asyncio.to_thread(self._client.get_job_info, self._job_id)
            except (RuntimeError, OSError) as error:
                if loop_time() - silent_since > _SILENT_S:
                    raise EngineUnavailableError(
                        f"the cluster was lost while job {self._job_id} ran there: {error}",
                        help="What the run had finished is in its journal; `fm resume` goes on with it there.",
                    ) from error
            else:
                silent_since = loop_time()
                if details.status.is_terminal():
                    return details
            await asyncio.sleep(_POLL_S)

    async def _log(self) -> AsyncIterator[str]:
        async for text in self._client.tail_job_logs(self._job_id):
            yield text

    def _ended(self, details: Any) -> int:
        self._lines.close()
        if details.driver_exit_code is not None:
            return int(details.driver_exit_code)
        if details.status == "STOPPED":
            self._say(f"stopped: job {self._job_id}")
            return _CANCELLED
        raise EngineUnavailableError(
            f"job {self._job_id} did not run: {(details.message or 'Ray says nothing more').strip().splitlines()[-1]}",
            help="Is flowmason installed in the environment that is first on the PATH of the cluster's head?",
        )

    def _interrupted(self) -> None:
        self._interrupts += 1
        if self._interrupts == 1:
            self._say(f"\nstopping job {self._job_id}, which cancels its run; once more stops following")
            self._stopping = asyncio.get_running_loop().create_task(self._stop())
        elif self._main is not None:
            self._main.cancel()

    async def _stop(self) -> None:
        try:
            await asyncio.to_thread(self._client.stop_job, self._job_id)
        except (RuntimeError, OSError) as error:
            self._say(f"the job could not be stopped: {error}")


class _Lines:
    """Lines of the log to stderr, what lies between the two marks to stdout."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._rest = ""
        self._answering = False
        self._answer: list[str] = []

    def feed(self, text: str) -> None:
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            self._line(line)

    def close(self) -> None:
        if self._rest:
            self._line(self._rest)
        self._rest = ""

    def _line(self, line: str) -> None:
        if line == self._mark:
            self._answering = not self._answering
            if not self._answering:
                # The last line end is the one that sets the closing mark apart.
                sys.stdout.write("\n".join(self._answer))
                sys.stdout.flush()
        elif self._answering:
            self._answer.append(line)
        elif not line.startswith("Running entrypoint for job "):
            print(line, file=sys.stderr, flush=True)


def loop_time() -> float:
    """The running loop's clock, in seconds."""
    return asyncio.get_running_loop().time()

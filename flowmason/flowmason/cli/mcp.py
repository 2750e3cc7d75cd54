"""`fm mcp`: FlowMason as an MCP server, and a look at the servers of a project."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmason.cli import console
from flowmason.cli.studio_org import Json, Studio, TargetOrg

if TYPE_CHECKING:
    from flowmason.mcp.offered import Offered

app = typer.Typer(no_args_is_help=True, help="Serve pipelines as MCP tools, and look at MCP servers.")


@app.command()
def serve(
    studio: Studio = False,
    target_org: TargetOrg = None,
    on: Annotated[str, typer.Option("--on", help="What runs of this project run on: local or ray.")] = "local",
    provider: Annotated[
        str | None, typer.Option("--provider", help="The model provider of stages without one.")
    ] = None,
) -> None:
    """Speak MCP on stdin and stdout: list, describe and run the pipelines of this project, or of an org of a Studio.

    A client starts it (`fm mcp config` prints how). Whoever may start it may run every pipeline that it lists.

    Examples:
      fm mcp serve
      fm -C ~/shop mcp serve
      fm mcp serve --studio -t team
    """
    _require_sdk()
    from flowmason.mcp.server import make_server

    offered = _offered(studio or target_org is not None, target_org, on, provider)
    make_server(lambda _: offered).run("stdio")


@app.command()
def config(studio: Studio = False, target_org: TargetOrg = None) -> None:
    """Print what a client's configuration needs in order to start the server, as JSON.

    Examples:
      fm mcp config
      fm mcp config --studio -t team
    """
    args = ["-m", "flowmason.cli"]
    if studio or target_org is not None:
        args += ["mcp", "serve", "--studio", *(["-t", target_org] if target_org else [])]
    else:
        args += ["-C", str(Path.cwd()), "mcp", "serve"]
    console.print_json({"mcpServers": {"flowmason": {"command": sys.executable, "args": args}}})


@app.command()
def test(
    server: Annotated[
        str | None, typer.Argument(help="A server that flowmason.json declares. Default: `fm mcp serve` itself.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Connect to a server and list its tools. Exit code 1 where that fails.

    Examples:
      fm mcp test
      fm mcp test files --json
    """
    _require_sdk()
    from flowmason.assembly.workspace import Workspace
    from flowmason.mcp_client import Connections, Tools

    workspace = Workspace.at()
    declared: dict[str, Any] = dict(workspace.project.mcp_servers)
    name = server or "fm mcp serve"
    if server is None:
        state = {key: item for key, item in workspace.environ.items() if key.startswith("FLOWMASON_") or key == "HOME"}
        args = ["-m", "flowmason.cli", "-C", str(Path.cwd()), "mcp", "serve"]
        declared = {name: {"command": sys.executable, "args": args, "env": state}}

    async def ask() -> Tools:
        from flowmason.egress import EgressPolicy

        egress = EgressPolicy(allow=frozenset(workspace.project.egress_allow))
        root = str(workspace.root) if workspace.root is not None else None
        connections = Connections(declared, egress=egress, environ=workspace.environ, root=root)
        try:
            meant = connections.server(name)
            return await connections.list_tools("local", meant, timeout=None, tell=console.say)
        finally:
            await connections.close()

    found = asyncio.run(ask())
    if as_json:
        console.print_json(
            {"server": name, "name": found.server_name, "version": found.server_version, "tools": list(found.tools)}
        )
        return
    from flowmason.cli.tables import print_table

    console.say(f"{name}: {found.server_name} {found.server_version}")
    rows = [[tool["name"], " ".join(tool.get("description", "").split())] for tool in found.tools]
    print_table(("TOOL", ""), rows)


def _offered(studio: bool, alias: str | None, on: str, provider: str | None) -> Offered:
    if not studio:
        from flowmason.mcp.local import LocalProject

        return LocalProject(on=console.choice(on, ("local", "ray"), "--on"), provider=provider)
    from flowmason.cli.studio_org import opened
    from flowmason.mcp.studio import StudioOrg

    client = opened(alias)[1]

    async def ask(method: str, path: str, *, body: Any = None, query: Any = None, headers: Any = None) -> Any:
        return await asyncio.to_thread(client.request, method, path, body=body, query=query, headers=headers)

    return StudioOrg(ask)


def _require_sdk() -> None:
    if importlib.util.find_spec("mcp") is None:
        from flowmason.errors import EngineUnavailableError

        raise EngineUnavailableError("MCP needs a package that is not installed", help='pip install "flowmason[mcp]"')

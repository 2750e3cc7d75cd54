"""A Ray of two nodes: stages on both, values between them, and a node that dies or lacks something."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from faults.kit import Fm, Project, stage, standing_cluster, wait_for
from flowmason import event as ev
from flowmason_actors import processes

pytestmark = [pytest.mark.slow, pytest.mark.postgres]

MIB_10 = 10 * 1024 * 1024
COMPONENTS = """
import os
import signal
from typing import Any

import ray

from flowmason import OperatorInput, OperatorOutput, operator


class Given(OperatorInput):
    after: Any = None
    size: int = 0


class Made(OperatorOutput):
    value: Any = None
    got: int = 0


async def made(input, far):
    here = ray.get_runtime_context().get_node_id()
    [node] = [node for node in ray.nodes() if node["NodeID"] == here]
    assert ("far" in node["Resources"]) is far, node
    return Made(value=os.urandom(input.size), got=len(input.after or b""))


@operator(name="near", category="test", description="On the first.",
          resources={"custom": {"node:__internal_head__": 0.001}})
class Near:
    Input, Output = Given, Made

    async def execute(self, input, context):
        return await made(input, far=False)


@operator(name="far", category="test", description="On the second.", resources={"custom": {"far": 1}})
class Far:
    Input, Output = Given, Made

    async def execute(self, input, context):
        return await made(input, far=True)


"""


READS = """
from pathlib import Path
from flowmason import OperatorInput, OperatorOutput, operator
from components.helper import words


@operator(name="reads", category="test", description="On the second.", resources={"custom": {"far": 1}})
class Reads:
    class Input(OperatorInput):
        pass

    class Output(OperatorOutput):
        text: str
        file: str

    async def execute(self, input, context):
        return self.Output(text=words().read_text(), file=__file__)
"""


class Cluster:
    """A warm Ray of two CPUs, which other nodes join."""

    def __init__(self, owner: Project) -> None:
        self.home = owner.home
        self.environ = owner.environ
        state = json.loads((owner.home / "cluster.json").read_text())
        self.address, self.token = state["address"], state["token_path"]
        self.folders: list[str] = []
        """Of the nodes that joined; below /tmp, since the paths of their sockets must be short."""

    def join(self, log: Path, *, hidden: Sequence[Path] = ()) -> subprocess.Popen[bytes]:
        """Start a node of two CPUs and four `far`, as docs/cluster.md says. It sees nothing of the folders `hidden`."""
        temp = tempfile.mkdtemp(prefix="fm-node-", dir="/tmp")
        self.folders.append(temp)
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--address={self.address}"]
        command += ["--num-cpus=2", '--resources={"far": 4}', f"--temp-dir={temp}", "--object-store-memory=100000000"]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"]
        if hidden:
            walls = [word for folder in hidden for word in ("--tmpfs", str(folder))]
            command = ["bwrap", "--dev-bind", "/", "/", *walls, *command]
        environ = {**self.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": self.token}
        with log.open("wb") as output:
            node = subprocess.Popen(command, env=environ, stdout=output, stderr=output, start_new_session=True)
        wait_for(lambda: b"Ray runtime started" in log.read_bytes(), what=lambda: f"it starts: {log.read_text()}")
        return node


def kill(node: subprocess.Popen[bytes]) -> set[int]:
    """SIGKILL of a node with all that runs there, as if its machine had lost power."""
    family = {node.pid, *processes.family(node.pid)}
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    node.wait(30)
    return family


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with standing_cluster(tmp_path_factory.mktemp("cluster")) as owner:
        made = Cluster(owner)
        yield made
        for folder in made.folders:
            shutil.rmtree(folder, ignore_errors=True)


Join = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def join(cluster: Cluster, tmp_path: Path) -> Iterator[Join]:
    """Makes a node join; it ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def make(**options: Any) -> subprocess.Popen[bytes]:
        started.append(cluster.join(tmp_path / f"node{len(started)}.log", **options))
        return started[-1]

    yield make
    for node in started:
        processes.end(node.pid, processes.family(node.pid), within_s=10)


@pytest.fixture
def project(make_project: Callable[..., Project], cluster: Cluster, postgres_url: str) -> Project:
    """On the cluster, with a journal and values that all nodes reach."""
    made = make_project(on="ray", cluster=cluster.home, database=postgres_url)
    (made.root / "components" / "places.py").write_text(COMPONENTS)
    made.variables["FLOWMASON_VALUES_URL"] = str(made.root.parent / "values")
    return made


def test_a_node_that_is_killed_costs_only_what_ran_there(project: Project, join: Join) -> None:
    node = join()
    gate = project.gate()
    body = [stage("make", "carry", size=MIB_10, gate=gate), stage("take", "carry", after="make")]
    each = stage("each", "foreach", items="{{range(6)}}", loop_stages=["make", "take"], parallel=True, max_parallel=6)
    running = project.run(project.pipeline("both", stage("first", "deliver"), each, *body))
    # One task and one CPU each: four fill both nodes.
    wait_for(lambda: len(project.entries("begin")) >= 5, what=lambda: f"four items begin {project!r}")
    there = {entry.pid for entry in project.entries("begin")} & set(processes.family(node.pid))
    lost = {entry.path for entry in project.entries("begin") if entry.pid in there} - {"first"}
    assert lost, "no item ran on the second node"
    kill(node)
    gate.touch()
    assert running.end().code == 0, repr(running)
    story = project.verify()
    again = {entry.path for entry in story.begins if story.times(entry.path) > 1}
    assert again == lost, story
    assert len(running.json["output"]["each"]["results"]) == 6


def test_stages_run_where_what_they_ask_for_is_and_wait_for_no_node_that_is_lost(project: Project, join: Join) -> None:
    node = join()
    gate = project.gate()
    out = stage("out", "far", size=MIB_10)
    back = stage("back", "near", after="out", size=MIB_10)
    # `back` is finished, and its value stored, before the node is killed.
    hold = {**stage("hold", "deliver", gate=gate), "depends_on": ["back"]}
    home = {**stage("home", "far", after="back"), "depends_on": ["hold"]}
    running = project.run(project.pipeline("travel", out, back, hold, home))
    project.began("hold")
    kill(node)
    gate.touch()
    assert running.end().code == 1, repr(running)
    assert (running.json["error"]["code"], running.json["error"]["stage"]) == ("INFEASIBLE_RESOURCES", "home")
    assert "far=1: no node has any" in running.json["error"]["message"]
    join()
    resumed = project.fm("resume", "--json")
    assert resumed.code == 0, repr(resumed)
    assert resumed.json["output"]["got"] == MIB_10
    story = project.verify()
    assert story.kinds(ev.StageReopened) and all(event.path == ("home",) for event in story.kinds(ev.StageReopened))


def test_a_node_that_does_not_see_the_values_is_named_before_the_run(project: Project, join: Join) -> None:
    values = project.root.parent / "values"
    values.mkdir()
    join(hidden=[values])
    refused = run_small(project)
    assert refused.code == 4, repr(refused)
    error = refused.json["error"]
    assert error["code"] == "ENGINE_UNAVAILABLE" and "does not see the values at" in error["message"], error
    assert str(values) in error["message"] and "Mount" in error["help"], error
    assert project.rows() == [] and not project.entries()


def test_nodes_that_do_not_have_the_project_are_sent_its_code(project: Project, join: Join) -> None:
    (project.root / "components" / "words").mkdir()
    (project.root / "components" / "words" / "greeting.txt").write_text("from its own folder")
    (project.root / "components" / "helper.py").write_text(
        "from pathlib import Path\n\n\ndef words():\n    return Path(__file__).with_name('words') / 'greeting.txt'\n"
    )
    (project.root / "components" / "reads.py").write_text(READS)
    join(hidden=[project.root])
    also = {**stage("also", "far"), "depends_on": ["there"]}
    done = project.run(project.pipeline("sent", stage("there", "reads"), also)).end()
    assert done.code == 0, repr(done)
    there = done.json["stages"]["there"]["output"]
    assert there["text"] == "from its own folder" and not there["file"].startswith(str(project.root)), there
    (project.root / "components" / "words" / "greeting.txt").write_text("edited")
    assert project.fm("run", "sent", "--json").json["stages"]["there"]["output"]["text"] == "edited"


def test_a_node_that_comes_later_is_used_unless_it_lacks_something(project: Project, join: Join) -> None:
    values = project.root.parent / "values"
    values.mkdir()
    gate = project.gate()
    hold = stage("hold", "deliver", gate=gate)
    running = project.run(project.pipeline("late", hold, {**stage("out", "far"), "depends_on": ["hold"]}))
    project.began("hold")
    join(hidden=[values])
    wait_for(lambda: "nothing is sent to the new node" in running.err, what=lambda: f"it is looked at {running!r}")
    gate.touch()
    assert running.end().code == 1, repr(running)
    assert running.json["error"]["code"] == "INFEASIBLE_RESOURCES", running
    assert "does not see the values at" in running.err


def run_small(project: Project) -> Fm:
    return project.run(project.pipeline("small", stage("s1", "step"))).end()

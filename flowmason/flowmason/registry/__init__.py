"""The registry: which components there are, and how a worker gets at their classes.

Here may live what finds and loads components. Only `child` (a process of its own) and `load_component` (in workers)
import user code; nothing else here does, and pydantic is imported by those two alone.
"""

from flowmason.component import ComponentSpec
from flowmason.registry.finding import component_files, find_components, project_components
from flowmason.registry.index import Registry
from flowmason.registry.loading import Loaded, load_component
from flowmason.registry.packages import PackageManifest, packed_specs, read_manifest
from flowmason.registry.places import home_dir, packages_dir

__all__ = [
    "ComponentSpec",
    "Loaded",
    "PackageManifest",
    "Registry",
    "component_files",
    "find_components",
    "home_dir",
    "load_component",
    "packages_dir",
    "packed_specs",
    "project_components",
    "read_manifest",
]

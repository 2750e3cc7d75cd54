"""Write the manifest that a distribution ships, so that nobody has to import it to know its components.

    python -m flowmason.registry.write_manifest flowmason.lab:COMPONENTS flowmason/flowmason/lab/manifest.json

The manifest belongs beside the `__init__.py` of the module that the entry point names.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from flowmason.registry.child import module_specs


def module_manifest_text(value: str) -> str:
    """The manifest of `package.module:LIST`, made by importing it in this process."""
    data = {"components": [spec.manifest() for spec in module_specs(value)]}
    return json.dumps(data, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main() -> None:
    """Write the file named on the command line."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m flowmason.registry.write_manifest PACKAGE.MODULE:LIST FILE")
    Path(sys.argv[2]).write_text(module_manifest_text(sys.argv[1]), encoding="utf-8")


if __name__ == "__main__":
    main()

"""What a run looks like while it runs: `model` decides what is shown (pure), `terminal` and `plain` draw it."""

from flowmason.cli.live.model import LiveModel, Row, View

__all__ = ["LiveModel", "Row", "View"]

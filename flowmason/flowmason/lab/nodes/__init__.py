"""AI nodes: one file each, what they say to the model in `prompts`, how they ask for structure in `asking`.

A node returns what the model said or fails; it never makes up an answer.
"""

from flowmason.lab.nodes.critic import Critic
from flowmason.lab.nodes.generator import Generator
from flowmason.lab.nodes.improver import Improver
from flowmason.lab.nodes.selector import Selector
from flowmason.lab.nodes.synthesizer import Synthesizer

COMPONENTS = [Generator, Critic, Improver, Selector, Synthesizer]

__all__ = ["COMPONENTS"]

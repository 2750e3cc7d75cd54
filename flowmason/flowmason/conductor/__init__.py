"""The conductor: walks runs. It folds a journal, asks the pure machine what follows, sends regions to an
executor, and appends what it admits. All I/O of a run passes here.

`Conductor` keeps one row in the journal (its beat), claims runs and gives each to a `Walker`. It takes
clock, ids, random source, journal, values and executor, so that the seeded simulation is the same code on
virtual time: `time`, `random`, `uuid` and threads may not be used in this package.
"""

from flowmason.conductor.conductor import Conductor, Feed
from flowmason.conductor.submit import new_run
from flowmason.conductor.surroundings import Resolve, no_pipelines

__all__ = ["Conductor", "Feed", "Resolve", "new_run", "no_pipelines"]

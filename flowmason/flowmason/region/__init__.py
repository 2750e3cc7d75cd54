"""Runs a piece of the Plan: in a Ray task, on a node host, or in process; the same code everywhere.

A `Worker` is made once per process from `WorkerSettings`; its `run` is the `RegionRunner` that
executors are handed. May live here: what turns a `Region` into proposed events. Nothing here may
write the journal or know an executor.
"""

from flowmason.region.worker import Worker

__all__ = ["Worker"]

"""Behaviour of the engine: real pipelines, run by the real conductor and the local executor in this process."""

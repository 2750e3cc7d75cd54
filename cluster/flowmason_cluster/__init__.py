"""Ray as an executor: starting and joining clusters, resources, and the executor itself."""

"""FlowMason: AI pipelines as typed, durable, testable files, run on Ray."""

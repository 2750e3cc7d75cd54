"""Studios elsewhere, as the command line reaches them.

    orgs       the Studios one has signed in to, and where their keys are kept
    client     requests and answers; problems come back as our own errors
    deploying  pipelines of a project and those of an org: what differs, and bringing them over
    following  a run's events, each exactly once, over connections that may break

Nothing here runs a pipeline.
"""

"""Studios elsewhere, as the command line reaches them.

    orgs     the Studios one has signed in to, and where their keys are kept
    client   requests and answers; problems come back as our own errors
    runs     the journal and the values of a Studio's org, read over HTTP as if they were here

Nothing here runs a pipeline.
"""

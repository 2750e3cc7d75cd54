"""Assembly: a project put together, from its files to a run and its outcome.

Here may live what joins the floors below for those who run pipelines: the command line, the Python door and the test
runner. It decides nothing about a run itself. Heavy parts (the journal, the conductor, executors) are imported when
they are first used, so that a file can be checked without them.
"""

"""Ray actors, each in one file: node hosts, conductor hosts and their pool.

Nothing here knows a command line or HTTP.
"""

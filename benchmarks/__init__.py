"""`make bench`: the speed of the engine beside others, as ratios measured in one run.

Every workload is the same work for every engine, and every result is checked. Engines run in processes of
their own and take turns, so that what the machine does meanwhile hits all of them alike; what is quoted is
the median. Nothing here is a test: a slow machine is no fault.
"""

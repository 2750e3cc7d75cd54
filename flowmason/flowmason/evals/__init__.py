"""Evaluation: cases, graders, what they come to, and how two versions compare.

Here may live what is pure about `fm eval`: files that are read, values that are judged, numbers. Runs are made by
`assembly.evaluating`.
"""

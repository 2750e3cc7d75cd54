"""Runs that are debugged: breakpoints, steps, reruns, and what somebody who looks at them sees."""

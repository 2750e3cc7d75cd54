"""The journal in a dictionary: for tests, the simulation and runs that need not outlive their process.

It keeps bytes, not objects: whatever a caller does to what it handed in or got back changes nothing
here. It uses no clock, no randomness and no threads.
"""

from flowmason.journal_memory.store import Hook, MemoryJournal

__all__ = ["Hook", "MemoryJournal"]

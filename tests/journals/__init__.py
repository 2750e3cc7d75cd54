"""Golden journals: what runs recorded once must mean the same for ever.

Each folder below `golden/` holds `journal.jsonl` (as `fm runs export` writes it), `plans.json` (the run's Plan first)
and `state.json` (what the fold makes of it). `python -m tests.journals.write [NAME …]` records them anew, which is
only right where a change of format is meant and said.
"""

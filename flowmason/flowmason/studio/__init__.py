"""What a Studio keeps beside its runs: orgs and people, keys and tokens, pipelines, packages, secrets, the audit log.

Everything of an org is reached through a `Scope` that is bound to it: no statement can forget whose rows it means.
No HTTP here, and no runs: those are in the journal.
"""

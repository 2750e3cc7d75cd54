"""Who somebody is and what they may: orgs, users and members, API keys, passwords, sessions and tokens, the audit log.

    permissions     the written table: what each role and each scope of a key may
    callers         from a credential to a `Caller`
    orgs, people    orgs; users and members
    api_keys        `fm_live_…`: make, list, rotate, revoke
    passwords       hashing and checking; lockout: failed sign-ins slow down those who guess
    sessions        sign-in, refresh with reuse detection, sign-out; signing: the keys and tokens behind them
    resets          a password by mail
    tickets         one WebSocket, once, within 30 seconds
    bootstrap       the first org and its owner
    audit           what was done, in a chain of hashes

Whatever is secret is kept as a hash, or sealed.
"""

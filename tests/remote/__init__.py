"""`fm` against a Studio that listens on loopback, with a conductor that walks its runs."""

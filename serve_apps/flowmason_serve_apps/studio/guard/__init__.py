"""What stands before a handler: strict bodies, hosts, CORS, who calls, what they may, how often."""

"""Bodies of requests and answers. Requests forbid what they do not know."""

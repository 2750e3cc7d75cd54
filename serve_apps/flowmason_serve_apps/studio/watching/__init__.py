"""Seeing it: figures for Prometheus, spans of requests, one log line a request."""

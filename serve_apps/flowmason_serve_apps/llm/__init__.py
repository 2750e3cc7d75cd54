"""Models on Ray Serve, and an endpoint for them that speaks OpenAI's protocol.

cli        `fm model`
"""

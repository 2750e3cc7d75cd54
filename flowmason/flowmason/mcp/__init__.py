"""FlowMason as an MCP server: five tools over one port, and what stands behind it.

`offered` is the port and what it answers, `server` makes the SDK's server of it; `local` is a project on this
machine, `studio` an org of a Studio, spoken to by its HTTP API. The SDK is imported by `server` alone.
"""

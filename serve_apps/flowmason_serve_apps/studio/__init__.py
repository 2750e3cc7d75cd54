"""The Studio API: HTTP, Server-Sent Events and WebSocket over the Studio's tables and the journals of its orgs.

    app        `make_app`: the FastAPI application, the same on Ray Serve and under plain uvicorn
    settings   what an operator may set; services: what handlers work with
    problems   every error in one shape (RFC 9457)
    guard/     what stands before a handler: strict bodies, hosts, CORS, who calls, what they may, how often
    models/    bodies of requests and answers; routes/: one file a resource
    deploy     the application on Ray Serve (the only module here that imports Ray)

Handlers hold no state and run no pipelines: what is true is in the database.
"""

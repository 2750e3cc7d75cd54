"""HTTP apps on Ray Serve: the Studio API. FastAPI is imported only here, Ray only in `deploy` modules."""

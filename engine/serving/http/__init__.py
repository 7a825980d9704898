"""The HTTP server of `engine serve`: one ASGI application, run by uvicorn or by Ray Serve."""

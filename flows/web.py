"""Web applications, and serving one from this process until it is interrupted."""

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from relume.errors import ConfigError


def application(**options: Any) -> FastAPI:
    """An application without pages that load scripts from elsewhere, quiet about clients that leave while they send.

    Args:
        options: Of FastAPI.
    """
    app = FastAPI(docs_url=None, redoc_url=None, **options)

    @app.exception_handler(ClientDisconnect)
    async def gone(*_: Any) -> Response:
        return Response(status_code=400)  # nobody reads it

    return app


def serve(
    app: FastAPI,
    *,
    host: str,
    port: int,
    say: Callable[[str], None],
    certificate: Path | None = None,
    certificate_key: Path | None = None,
    connections: int | None = None,
) -> None:
    """Serves an application until Ctrl-C; requests that are being answered then have ten seconds to end.

    Args:
        app: The application.
        host: Address to listen at.
        port: To listen at; 0 for any that is free.
        say: Prints the address.
        certificate: For HTTPS, in PEM; None for HTTP.
        certificate_key: Of the certificate, where that file does not hold it.
        connections: At a time at most; further ones are answered with 503. No limit when None.

    Raises:
        ConfigError: The address cannot be listened at, or the certificate cannot be used.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        limit_concurrency=connections,
        timeout_graceful_shutdown=10,
        ssl_certfile=certificate,
        ssl_keyfile=certificate_key,
    )
    try:
        config.load()
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:  # an SSLError too
        where, next_step = f"{host}:{port}", "choose another port with --port; 0 takes any that is free"
        if certificate:
            where, next_step = f"{where}, {certificate}", f"{next_step}, or check --certificate"
        why = error.strerror or error
        raise ConfigError("The server cannot start", where=where, why=why, next_step=next_step) from None
    with listener:
        shown = f"[{host}]" if ":" in host else host
        say(f"http{'s' if certificate else ''}://{shown}:{listener.getsockname()[1]}")
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])

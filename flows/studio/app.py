"""The studio's web application: the page, and what it asks for.

It listens on loopback alone. Pages of other origins are kept out: the name of the host must be that of this machine, so
that no other name can be made to point here, and what changes something needs a header that only this page sends.
"""

import dataclasses
import os
import tempfile
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware

from flows.restore import How
from flows.studio.session import Preview, Session
from flows.web import application, serve
from relume.errors import ConfigError, ImageError, RelumeError
from relume.serving.backends import Asked

PAGE = Path(__file__).with_name("page")
LARGEST = 1_000_000_000  # bytes of a file
HEADER = "x-relume-studio"
_SAFE = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
Keep = Literal["all", "place", "none"]


class Wish(BaseModel):
    """What the page asks to restore with.

    Attributes:
        product: Its name.
        level: For an adjustable model; its default when None.
        orientations: Of the self-ensemble; as the model says when None.
        backend: What computes it; as usual for the model when None.
    """

    product: str
    level: float | None = None
    orientations: Literal[1, 2, 4, 8] | None = None
    backend: Asked | None = None


def studio_app(session: Session) -> FastAPI:
    """The application over a session."""
    app = application(title="relume studio", openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.method not in ("GET", "HEAD") and HEADER not in request.headers:
            return JSONResponse({"error": "only the studio's page may ask for this"}, status_code=403)
        response = await call_next(request)
        response.headers.update(_SAFE)
        return response

    @app.exception_handler(RelumeError)
    async def refused(_: Request, error: RelumeError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=400)

    @app.get("/api/products")
    def products() -> Any:
        return session.products()

    @app.get("/api/images")
    def images() -> list[dict[str, Any]]:
        return [dataclasses.asdict(image) for image in session.images()]

    @app.post("/api/images")
    async def add(request: Request, name: str) -> dict[str, Any]:
        file = session.new_file()
        try:
            await _receive(request.stream(), file, name)
        except BaseException:
            file.unlink(missing_ok=True)
            raise
        return dataclasses.asdict(await run_in_threadpool(session.add, file, Path(name).name or "image"))

    @app.post("/api/images/{key}/restore")
    def restore(key: str, wish: Wish) -> dict[str, Any]:
        return dataclasses.asdict(session.restore(key, **wish.model_dump()))

    @app.delete("/api/images/{key}")
    def remove(key: str) -> None:
        session.remove(key)

    @app.get("/api/images/{key}/{which}.png")
    def preview(key: str, which: Preview) -> FileResponse:
        return FileResponse(session.preview(key, which))

    @app.get("/api/images/{key}/result")
    def result(
        key: str, blend: float = 1.0, keep: Keep = "all", suffix: str | None = None, quality: int | None = None
    ) -> FileResponse:
        return _download(*session.saved(key, _how(blend, keep, quality), suffix))

    @app.get("/api/results.zip")
    def results(
        blend: float = 1.0, keep: Keep = "all", suffix: str | None = None, quality: int | None = None
    ) -> FileResponse:
        packed = session.new_file()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for image in session.images():
                if image.version:
                    file, name = session.saved(image.key, _how(blend, keep, quality), suffix)
                    archive.write(file, _free_name(name, archive.namelist()))
                    file.unlink()
        return _download(packed, "restored.zip")

    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


def _how(blend: float, keep: Keep, quality: int | None) -> How:
    if not 0 <= blend <= 1:
        raise ConfigError("The blend is out of range", where=f"{blend:g}", next_step="give a share from 0 to 1")
    if quality is not None and not 1 <= quality <= 100:
        raise ConfigError("The quality is out of range", where=quality, next_step="give a number from 1 to 100")
    return How(blend=blend, keep=keep, quality=quality)


def _free_name(name: str, taken: list[str]) -> str:
    stem, suffix = os.path.splitext(name)
    number = 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}{suffix}"
    return name


def _download(file: Path, name: str) -> FileResponse:
    return FileResponse(file, filename=name, background=BackgroundTask(file.unlink, missing_ok=True))


async def _receive(stream: AsyncIterator[bytes], file: Path, name: str) -> None:
    """Writes the body of a request to a file."""
    size = 0
    with open(file, "wb") as target:
        async for chunk in stream:
            size += len(chunk)
            if size > LARGEST:
                raise ImageError(
                    "The file is too large",
                    reason="too_large",
                    where=name,
                    why=f"it has more than {LARGEST:,} bytes",
                    next_step="restore it with `relume restore`",
                )
            await run_in_threadpool(target.write, chunk)


def run(root: Path, *, port: int, say: Callable[[str], None]) -> None:
    """Serves the studio on loopback until it is interrupted.

    Args:
        root: The checkout, whose package may hold the champion.
        port: To listen at; 0 for any that is free.
        say: Prints the address.

    Raises:
        ConfigError: The port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="relume-studio-") as folder, Session(Path(folder), root) as session:
        serve(studio_app(session), host="127.0.0.1", port=port, say=say)

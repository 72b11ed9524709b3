"""Objects on S3: listed, read and written with retries and back-off, and every error reported in the user's terms.

Settings come from boto3's usual places (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL,
AWS_PROFILE, ...). No message ever contains a credential.
"""

import functools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from relume.errors import SourceError

_ATTEMPTS = 5
_BACK_OFF_SECONDS = 0.2
CONNECTIONS = 16  # that a process keeps open; more requests at once wait
_creating = threading.Lock()

T = TypeVar("T")


def listing(address: str) -> list[tuple[str, int, str]]:
    """Lists the objects below an address.

    Args:
        address: `s3://bucket/prefix`.

    Returns:
        For each object its address, its size in bytes and its ETag.

    Raises:
        SourceError: The bucket does not exist, the server does not answer or refuses the credentials.
    """
    bucket, prefix = _split(address)

    def pages() -> list[dict[str, Any]]:
        found = list(_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix))
        if any("IsTruncated" not in page for page in found):  # without it the pages that follow would be missing
            raise _CutShortError
        return found

    objects = [item for page in _call(pages, address) for item in page.get("Contents", ())]
    return [(f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"')) for item in objects]


def read(address: str) -> tuple[bytes, str]:
    """Reads one object.

    Args:
        address: `s3://bucket/key`.

    Returns:
        Its bytes and its ETag.

    Raises:
        SourceError: As `listing`, or there is no such key.
    """
    bucket, key = _split(address)

    def body() -> tuple[bytes, str]:
        answer = _client().get_object(Bucket=bucket, Key=key)
        return answer["Body"].read(), _etag(answer)

    return _call(body, address)


def read_range(address: str, etag: str, first: int, count: int) -> bytes:
    """Reads some bytes of one object.

    Args:
        address: `s3://bucket/key`.
        etag: Of the object; another one that has taken its place is refused.
        first: Number of the first byte, from 0.
        count: How many; the object must hold them.

    Raises:
        SourceError: As `read`, or the object has changed.
    """
    bucket, key = _split(address)

    def body() -> bytes:
        wanted = f"bytes={first}-{first + count - 1}"
        return _client().get_object(Bucket=bucket, Key=key, Range=wanted, IfMatch=f'"{etag}"')["Body"].read()

    return _call(body, address)


def write(address: str, content: Path | bytes) -> str:
    """Writes one object, in one request: it is there whole or not at all.

    Args:
        address: `s3://bucket/key`.
        content: A file, of at most 5 GB, or bytes.

    Returns:
        Its ETag.

    Raises:
        SourceError: As `listing`.
    """
    bucket, key = _split(address)

    def put() -> str:
        if isinstance(content, bytes):
            return _etag(_client().put_object(Bucket=bucket, Key=key, Body=content))
        with open(content, "rb") as file:
            return _etag(_client().put_object(Bucket=bucket, Key=key, Body=file))

    return _call(put, address)


class _CutShortError(Exception):
    """An answer ended within its head, which boto3 takes for a whole one."""


def _etag(answer: dict[str, Any]) -> str:
    if "ETag" not in answer:
        raise _CutShortError
    return str(answer["ETag"]).strip('"')


def _client() -> Any:
    with _creating:  # boto3's clients may be shared by threads, but not made by several at once
        return _make_client(os.getpid())


@functools.cache
def _make_client(process: int) -> Any:  # a forked process must not talk over its parent's connections
    import boto3
    from botocore.config import Config

    # Standard mode retries throttling, 5xx and lost connections with exponential back-off and jitter.
    # Path addressing works with every server; virtual hosts need DNS names for the buckets.
    config = Config(
        retries={"mode": "standard", "max_attempts": _ATTEMPTS},
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        max_pool_connections=CONNECTIONS,
        connect_timeout=5,
        read_timeout=60,
    )
    client = boto3.session.Session().client("s3", config=config)  # the default session would keep old credentials
    client.meta.events.register_last("before-call.s3", _send_at_once)
    return client


def _send_at_once(params: dict[str, Any], **_: Any) -> None:
    """Takes out that a file is sent after the server's "100 Continue": botocore reads the head of that answer to an
    empty line, for ever where the connection ends before it."""
    params["headers"].pop("Expect", None)


def _split(address: str) -> tuple[str, str]:
    bucket, _, key = address.removeprefix("s3://").partition("/")
    if not bucket:
        raise SourceError("The S3 address names no bucket", where=address, next_step="write s3://bucket/prefix")
    return bucket, key


def _call(call: Callable[[], T], where: str) -> T:
    """Makes a call to S3 and says in the user's terms what went wrong.

    boto3 retries requests by itself, but not a body that is interrupted while it is read: that is done here.
    """
    from botocore import exceptions as problem
    from botocore.parsers import ResponseParserError

    broken = (
        *(problem.IncompleteReadError, problem.ReadTimeoutError, problem.ResponseStreamingError),
        *(ResponseParserError, _CutShortError),
    )
    for attempt in range(_ATTEMPTS):
        try:
            return call()
        except broken:
            if attempt < _ATTEMPTS - 1:
                time.sleep(_BACK_OFF_SECONDS * 2**attempt)
        except problem.ClientError as error:
            raise _refused(str(error.response.get("Error", {}).get("Code", "unknown")), where) from None
        except (problem.NoCredentialsError, problem.PartialCredentialsError):
            raise SourceError(
                "There are no S3 credentials",
                where=where,
                next_step="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            ) from None
        except (problem.HTTPClientError, problem.ConnectionError) as error:  # every error of the connection
            raise _no_answer(where, type(error).__name__) from None
        except (problem.BotoCoreError, ValueError) as error:
            raise SourceError(
                "The configuration of S3 cannot be used",
                where=where,
                why=type(error).__name__,  # the message may repeat the settings
                next_step="check the AWS_* variables and ~/.aws/config",
            ) from None
    raise _no_answer(where, f"the answer was interrupted {_ATTEMPTS} times")


def _refused(code: str, where: str) -> SourceError:
    if code in ("404", "NoSuchBucket", "NoSuchKey"):
        return SourceError(
            "The bucket or key does not exist on S3",
            where=where,
            why=code,
            next_step="check the address and AWS_ENDPOINT_URL",
        )
    if code in ("412", "PreconditionFailed"):
        return SourceError(
            "An object on S3 has changed since it was listed",
            where=where,
            why=code,
            next_step="restore the object that was listed, or start again with the present one",
        )
    if code in ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"):
        return SourceError(
            "S3 refused the credentials",
            where=where,
            why=code,
            next_step="check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they permit to read",
        )
    return SourceError(
        "S3 refused the request", where=where, why=code, next_step="try again, or ask the administrator of the server"
    )


def _no_answer(where: str, why: str) -> SourceError:
    endpoint = urlsplit(_client().meta.endpoint_url)
    return SourceError(
        "S3 does not answer",
        where=where,
        why=f"{why} at {endpoint.scheme}://{endpoint.hostname}:{endpoint.port or ''}".rstrip(":"),
        next_step="check AWS_ENDPOINT_URL, and that the server runs",
    )

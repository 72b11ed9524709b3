"""Sends JSON to the webhook whose address a file holds, since such an address is a secret."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from relume.errors import ConfigError, ServiceError
from relume.reading import read_text

_SECONDS = 10.0


def send(file: Path, body: dict[str, Any]) -> None:
    """Sends one JSON object, whose `text` is for people.

    Args:
        file: Holds the address of the webhook.
        body: The object.

    Raises:
        ConfigError: The file holds no address.
        ServiceError: The webhook did not take it. The address is not in the message.
    """
    address = read_text(file, next_step="write the address of the webhook to it").strip()
    if not address.startswith(("https://", "http://")):
        raise ConfigError("The file holds no address of a webhook", where=file, next_step="write https://... to it")
    request = urllib.request.Request(
        address, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS):
            pass
    except (OSError, ValueError) as error:
        why = f"it answered {error.code}" if isinstance(error, urllib.error.HTTPError) else "it cannot be reached"
        raise ServiceError(
            "The webhook did not take the message", where=file, why=why, next_step="check the address"
        ) from None

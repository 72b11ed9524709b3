"""What a gateway needs before it starts."""

import pytest

from flows.gateway.app import Gateway, Limits, read_token, run
from relume.errors import ConfigError


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "relume.example"])
def test_it_listens_to_others_only_with_a_token(host):
    """Without a token nothing but loopback is listened at."""
    gateway = Gateway("127.0.0.1:1", "denoise", key=None, limits=Limits())
    with pytest.raises(ConfigError, match="without a token"):
        run(gateway, host=host, port=0, token=None, certificate=None, certificate_key=None, say=print)


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        ("a-token-of-16-characters", 0o644, "Others may read"),
        ("short", 0o600, "fewer than 16"),
        (None, 0o600, "cannot be read"),
    ],
)
def test_a_token_is_secret_and_long(tmp_path, text, mode, says):
    """A file that others may read, that holds too little or that is not there is refused, without its content."""
    path = tmp_path / "token"
    if text:
        path.write_text(text)
        path.chmod(mode)
    with pytest.raises(ConfigError, match=says) as error:
        read_token(path)
    assert text is None or text not in str(error.value)


def test_a_token_is_the_line_of_its_file(tmp_path):
    """Without the end of the line."""
    path = tmp_path / "token"
    path.write_text("a-token-of-16-characters\n")
    path.chmod(0o600)
    assert read_token(path) == "a-token-of-16-characters"

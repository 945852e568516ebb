"""Who may call an environment server: anyone on this machine, or whoever has the token."""

import base64
import binascii
import hmac
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from biomni_lib.errors import SandboxError
from biomni_lib.sandbox.host import Refusal

TOKEN, TOKEN_FILE = "BIOMNI_SANDBOX_TOKEN", "BIOMNI_SANDBOX_TOKEN_FILE"
"""Environment variables with the token, or the file that holds it; the same for server and client."""
TOKEN_CHARS_MIN = 16


def read_token() -> str | None:
    """The token of this process's environment; None when there is none.

    Raises: SandboxError when it is too short to be one, or its file cannot be read.
    """
    token, file = os.environ.get(TOKEN), os.environ.get(TOKEN_FILE)
    if token is None and file is not None:
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SandboxError(f"{TOKEN_FILE} = {file!r} cannot be read ({error})") from None
    if token is not None and len(token) < TOKEN_CHARS_MIN:
        raise SandboxError(f"the token of {TOKEN} or {TOKEN_FILE} is too short; use {TOKEN_CHARS_MIN} or more letters")
    return token


def require_token(host: str, token: str | None) -> None:
    """Refuse to serve other machines without a token. Raises: SandboxError."""
    if token is None and not _is_loopback(host):
        raise SandboxError(
            f"--host {host} can be reached from other machines and needs a token; set {TOKEN} or {TOKEN_FILE}, "
            "or use --host 127.0.0.1"
        )


class Gate:
    """Decides about each request.

    Args:
        token: what every request must show, as a bearer token or as the password of basic authentication (which a URL
            such as `http://user:TOKEN@host` gives, for clients that know no token). Without one the server is on
            loopback, and requests under a foreign host name, as a web page could send them, are refused.
    """

    def __init__(self, token: str | None) -> None:
        self._token = token

    def check(self, headers: Mapping[str, str]) -> None:
        """Raises: Refusal `token` or `host`."""
        if self._token is None:
            name = headers.get("Host", "")
            if not _is_loopback(_host_of(name)):
                raise Refusal("host", f"the server is for this machine; it is not {name!r}")
        elif not hmac.compare_digest(_shown_token(headers.get("Authorization", "")), self._token.encode()):
            raise Refusal("token", "the request shows no token or a wrong one")


def _host_of(authority: str) -> str:
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown_token(authorization: str) -> bytes:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    try:
        decoded = base64.b64decode(value, validate=True) if scheme.lower() == "basic" else b""
    except (binascii.Error, ValueError):
        return b""
    return decoded.partition(b":")[2]

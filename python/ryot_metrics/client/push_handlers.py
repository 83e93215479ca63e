"""How a push is sent: plainly, after redirects, with a password, with a certificate.

A handler takes `url, method, timeout, headers, data` and gives a function that sends them, so that
one's own can add what a gateway wants. Knows nothing of pages.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Sequence
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import BaseHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from ryot_metrics.client.tls import client_context

Headers = Sequence[tuple[str, str]]
Handler = Callable[..., Callable[[], None]]


def default_handler(
    url: str, method: str, timeout: float | None, headers: Headers, data: bytes
) -> Callable[[], None]:
    """Sends a request over HTTP or HTTPS.

    Args:
        url: Where to.
        method: HTTP's method.
        timeout: How many seconds it may take; None for any number.
        headers: Pairs of a name and a value.
        data: The body.

    Returns:
        A function that sends it, and raises OSError if that fails or is refused.
    """
    return _sender(url, method, timeout, headers, data)


def passthrough_redirect_handler(
    url: str, method: str, timeout: float | None, headers: Headers, data: bytes
) -> Callable[[], None]:
    """Sends a request, and again the same wherever the answer redirects it to.

    Only for a gateway whose redirects are trusted: headers and body go to the new place too.

    Args:
        url: Where to.
        method: HTTP's method.
        timeout: How many seconds it may take; None for any number.
        headers: Pairs of a name and a value.
        data: The body.

    Returns:
        A function that sends it, and raises OSError if that fails or is refused.
    """
    return _sender(url, method, timeout, headers, data, _Redirects())


def basic_auth_handler(
    url: str,
    method: str,
    timeout: float | None,
    headers: Headers,
    data: bytes,
    username: str | None = None,
    password: str | None = None,
) -> Callable[[], None]:
    """Sends a request with a name and a password, if both are given.

    Args:
        url: Where to.
        method: HTTP's method.
        timeout: How many seconds it may take; None for any number.
        headers: Pairs of a name and a value.
        data: The body.
        username: The name.
        password: The password.

    Returns:
        A function that sends it, and raises OSError if that fails or is refused.
    """
    headers = list(headers)
    if username is not None and password is not None:
        token = base64.b64encode(f"{username}:{password}".encode()).decode()
        headers.append(("Authorization", f"Basic {token}"))
    return _sender(url, method, timeout, headers, data)


def tls_auth_handler(
    url: str,
    method: str,
    timeout: float | None,
    headers: Headers,
    data: bytes,
    certfile: str,
    keyfile: str,
    cafile: str | None = None,
    protocol: int = ssl.PROTOCOL_TLS_CLIENT,
    insecure_skip_verify: bool = False,
) -> Callable[[], None]:
    """Sends a request over HTTPS with a certificate of one's own.

    Args:
        url: Where to.
        method: HTTP's method.
        timeout: How many seconds it may take; None for any number.
        headers: Pairs of a name and a value.
        data: The body.
        certfile: The certificate chain, PEM.
        keyfile: Its key, PEM.
        cafile: The authorities of the gateway's certificate; by default those of the system.
        protocol: A constant `ssl.PROTOCOL_*`.
        insecure_skip_verify: Whether any certificate of the gateway will do.

    Returns:
        A function that sends it, and raises OSError if that fails or is refused.

    Raises:
        OSError: If a file cannot be read, or holds no certificate or key.
    """
    context = client_context(certfile, keyfile, cafile, protocol, insecure_skip_verify)
    return _sender(url, method, timeout, headers, data, HTTPSHandler(context=context))


def _sender(
    url: str,
    method: str,
    timeout: float | None,
    headers: Headers,
    data: bytes,
    *handlers: BaseHandler,
) -> Callable[[], None]:
    def send() -> None:
        request = Request(url, data, dict(headers), method=method)
        with build_opener(*handlers).open(request, timeout=timeout):
            pass  # a status of 400 and above is an HTTPError by now, which is an OSError

    return send


class _Redirects(HTTPRedirectHandler):
    """Follows redirects with method and body, which the standard library drops or refuses."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request:
        if code not in (301, 302, 303, 307, 308):
            raise HTTPError(req.full_url, code, msg, headers, fp)
        target = newurl.replace(" ", "%20")
        return Request(target, req.data, dict(req.headers), req.origin_req_host, True, req.method)

    http_error_308 = HTTPRedirectHandler.http_error_302  # Python 3.10 does not know it

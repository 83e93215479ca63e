"""TLS contexts: the server's, and the push client's with a certificate of its own."""

from __future__ import annotations

import ssl


def server_context(
    certfile: str,
    keyfile: str,
    protocol: int,
    cafile: str | None,
    capath: str | None,
    client_auth_required: bool,
    minimum_version: ssl.TLSVersion | None,
    maximum_version: ssl.TLSVersion | None,
) -> ssl.SSLContext:
    """A server's context.

    Raises:
        OSError: If a file cannot be read, or holds no certificate or key; its message names them.
    """
    context = ssl.SSLContext(protocol)
    if cafile is None and capath is None:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    else:
        try:
            context.load_verify_locations(cafile, capath)
        except OSError as error:
            raise _named(error, f"authorities {cafile or capath!r}") from error
    try:
        context.load_cert_chain(certfile, keyfile)
    except OSError as error:
        raise _named(error, f"certificate {certfile!r} with key {keyfile!r}") from error
    if client_auth_required:
        context.verify_mode = ssl.CERT_REQUIRED
    if minimum_version is not None:
        context.minimum_version = minimum_version
    if maximum_version is not None:
        context.maximum_version = maximum_version
    return context


def client_context(
    certfile: str, keyfile: str, cafile: str | None, protocol: int, insecure_skip_verify: bool
) -> ssl.SSLContext:
    """A client's context that shows a certificate.

    Raises:
        OSError: If a file cannot be read, or holds no certificate or key.
    """
    context = ssl.SSLContext(protocol)
    if cafile is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cafile)
    if insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(certfile, keyfile)
    return context


def _named(error: OSError, files: str) -> OSError:
    return type(error)(f"cannot load {files}: {error}")

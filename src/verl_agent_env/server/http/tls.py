"""TLS of a server: of its own port, and of its calls to other workers."""

from __future__ import annotations

import ssl

from verl_agent_env.config import TlsSettings

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: those with forward secrecy and authenticated encryption. Those of TLS 1.3 are all of this kind."""


def server_context(settings: TlsSettings) -> ssl.SSLContext | None:
    """Make the TLS context for clients of the server; None for plain HTTP.

    Raises:
        ValueError: A file cannot be used.
    """
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    _load_own(context, settings)
    if settings.tls_client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_ca(context, settings.tls_client_ca)
    return context


def peer_context(settings: TlsSettings) -> ssl.SSLContext | None:
    """Make the TLS context for calls to other workers; None for plain HTTP.

    Raises:
        ValueError: A file cannot be used.
    """
    if not settings.tls_cert:
        return None
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    ca = settings.tls_peer_ca or settings.tls_client_ca
    if ca:
        _load_ca(context, ca)
    _load_own(context, settings)
    return context


def _load_own(context: ssl.SSLContext, settings: TlsSettings) -> None:
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key or None)
    except (OSError, ssl.SSLError) as fault:
        files = " and ".join(filter(None, (settings.tls_cert, settings.tls_key)))
        raise ValueError(
            f"the certificate and its key cannot be read from {files}: {_reason(fault)}"
        ) from None


def _load_ca(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as fault:
        raise ValueError(f"the certificates of a CA cannot be read from {path}: {_reason(fault)}") from None


def _reason(fault: OSError) -> str:
    return getattr(fault, "reason", None) or fault.strerror or str(fault)

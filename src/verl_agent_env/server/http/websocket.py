"""WebSockets for uvicorn, on the parser of ``websockets``: counted and bounded as all connections are."""

from __future__ import annotations

import logging

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from verl_agent_env.server.http.dispatcher import DISPATCHER_STATE, Dispatcher
from verl_agent_env.server.http.peer import Peer

# uvicorn writes a line for each connection; what is refused is counted, and logged by the dispatcher.
_logger = logging.getLogger("verl_agent_env.server.websocket")
_logger.setLevel(logging.WARNING)
_BAD_HANDSHAKE = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's own, which takes over a connection that was counted when it came in as HTTP."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.logger = self.conn.logger = _logger

    def connection_lost(self, exc: Exception | None) -> None:
        owner: Dispatcher | None = self.app_state.get(DISPATCHER_STATE)
        if owner is not None:
            owner.connections.leave(Peer.of(self.client, self.server).address)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came; hang up where it is no handshake that the parser could answer."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(_BAD_HANDSHAKE)
            self.transport.close()

"""OpenEnv 0.10: sessions over a WebSocket, and its HTTP calls, under ``/openenv/{env_name}``."""

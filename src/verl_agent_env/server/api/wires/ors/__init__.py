"""The Open Reward Standard (ORS): sessions, tools and tasks over HTTP, tool calls as server-sent events, under ``/ors``."""

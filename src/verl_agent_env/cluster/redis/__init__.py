"""The cluster in Redis: the store, the event log and the idempotency records, by scripts that check every fence."""

"""Prometheus metrics, at ``/metrics``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from verl_agent_env.engine import Host
from verl_agent_env.histogram import Histogram
from verl_agent_env.server.http.connections import Connections

BATCH_BUCKETS = (1, 8, 64, 256, 1024, 4096, 16_384, 65_536, 131_072)


class Metrics:
    """Counts of one server process, written as text on request."""

    def __init__(
        self,
        host: Host,
        forwarded: Counter[str],
        connections: Connections,
        held_up: Counter[str],
        longest_round_s: Callable[[], float],
    ) -> None:
        """Counts that are all zero.

        Args:
            host: Whose environments are counted.
            forwarded: Calls sent on to other workers, by route; somebody else counts them.
            connections: Those of this worker; somebody else counts them.
            held_up: How often code held up the event loop, by its name; somebody else counts.
            longest_round_s: Longest time that the event loop computed in one round.
        """
        self._forwarded = forwarded
        self._connections = connections
        self._held_up = held_up
        self._longest_round_s = longest_round_s
        self.latency: defaultdict[str, Histogram] = defaultdict(Histogram)
        """Times of requests by route."""
        self._batch_sizes: dict[str, Histogram] = {}
        self._errors: Counter[str] = Counter()
        self._item_errors: Counter[str] = Counter()
        self._registry = CollectorRegistry()
        self._registry.register(_ServerCollector(self, host))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def count_error(self, code: str) -> None:
        """Count a request that failed."""
        self._errors[code] += 1

    def observe_batch(self, route: str, size: int, error_codes: list[str]) -> None:
        """Count a batch and the errors of its items."""
        if route not in self._batch_sizes:
            self._batch_sizes[route] = Histogram(BATCH_BUCKETS)
        self._batch_sizes[route].observe(size)
        if error_codes:
            self._item_errors.update(error_codes)

    @property
    def errors(self) -> Counter[str]:
        """Failed requests and failed items of batches, by code."""
        return self._errors + self._item_errors

    def answers(self, route: str) -> list[int]:
        """Return the number of answers on a route by the time that they took, as a :class:`Histogram` counts them."""
        return list(self.latency[route].counts)

    def batch_items(self, verb: str) -> int:
        """Return the number of items of all batches of a verb."""
        sizes = self._batch_sizes.get(verb)
        return 0 if sizes is None else int(sizes.total)

    def forwarded(self, route: str) -> int:
        """Return the number of requests on a route that other workers answered."""
        return self._forwarded[route]

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def families(self, host: Host) -> Iterator[Metric]:
        """The server's own metrics."""
        yield from self._of_requests()
        yield from _of_environments(host)
        yield _counter(
            "verl_agent_env_loop_held_up",
            "Times that code held up the event loop, and with it all calls, for more than a tenth of a second.",
            ("code",),
            self._held_up,
        )
        yield GaugeMetricFamily(
            "verl_agent_env_loop_longest_seconds",
            "The longest time that the event loop's thread computed without looking at other calls.",
            value=self._longest_round_s(),
        )
        yield GaugeMetricFamily("verl_agent_env_stuck_threads", "Threads given up.", value=host.stuck_threads)

    def _of_requests(self) -> Iterator[Metric]:
        yield _histogram(
            "verl_agent_env_request_seconds", "Time to answer a request.", "route", self.latency.items()
        )
        yield _histogram("verl_agent_env_batch_size", "Items of a batch.", "route", self._batch_sizes.items())
        yield _counter("verl_agent_env_errors", "Requests that failed.", ("code",), self._errors)
        yield _counter(
            "verl_agent_env_item_errors", "Items of batches that failed.", ("code",), self._item_errors
        )
        yield _counter(
            "verl_agent_env_forwarded",
            "Calls sent on to the worker that they were meant for.",
            ("route",),
            self._forwarded,
        )
        yield GaugeMetricFamily(
            "verl_agent_env_connections", "Open connections.", value=self._connections.open
        )
        yield _counter(
            "verl_agent_env_connections_closed",
            "Connections closed against their clients' will.",
            ("reason",),
            self._connections.closed,
        )


def _of_environments(host: Host) -> Iterator[Metric]:
    recorder, recovery, collector, env_table = host.recorder, host.recovery, host.collector, host.env_table
    journals = () if recorder is None else recorder.journal.parts
    yield _histogram(
        "verl_agent_env_store_seconds",
        "Time of one write to the store, of the steps of many environments.",
        "shard",
        ((str(number), journal.write_s) for number, journal in enumerate(journals)),
    )
    yield _gauge("verl_agent_env_live_environments", "Live environments.", "env_name", env_table.live)
    yield _counter("verl_agent_env_created", "Environments made.", ("env_name",), env_table.created)
    yield _counter(
        "verl_agent_env_closed",
        "Environments closed, by a call or because idle.",
        ("env_name", "reason"),
        env_table.closed,
    )
    yield _counter(
        "verl_agent_env_env_faults",
        "Calls that failed in an environment's code.",
        ("env_name", "fault"),
        host.faults,
    )
    yield _counter(
        "verl_agent_env_failed_snapshots",
        "Snapshots that failed; the environments are kept without them.",
        ("env_name",),
        {} if recorder is None else recorder.failed_snapshots,
    )
    yield CounterMetricFamily(
        "verl_agent_env_recovered",
        "Environments that another worker held and that were brought back here.",
        value=0 if recovery is None else recovery.recovered,
    )
    yield _gauge(
        "verl_agent_env_suspicions",
        "Calls that ended a worker, or may have.",
        "level",
        host.suspicions.counts(),
    )
    yield CounterMetricFamily(
        "verl_agent_env_episodes_not_kept",
        "Episodes that were to be kept and were not: too many went on at once, or they could not be written.",
        value=0 if collector is None else collector.left_out + collector.store.dropped,
    )


class _ServerCollector(Collector):
    def __init__(self, metrics: Metrics, host: Host) -> None:
        self._metrics = metrics
        self._host = host

    def collect(self) -> Iterator[Metric]:
        return self._metrics.families(self._host)


def _counter(
    name: str, help_text: str, labels: Sequence[str], counts: Mapping[Any, int]
) -> CounterMetricFamily:
    """Make a metric of counts by the value of its label, or by the values of its labels."""
    family = CounterMetricFamily(name, help_text, labels=labels)
    for key, count in counts.items():
        family.add_metric([key] if isinstance(key, str) else key, count)
    return family


def _gauge(name: str, help_text: str, label: str, values: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _histogram(
    name: str, help_text: str, label: str, histograms: Iterable[tuple[str, Histogram]]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, help_text, labels=[label])
    for key, histogram in histograms:
        family.add_metric([key], *histogram.buckets())
    return family

"""What the gateway counts and times, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

LEVELS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


class Metrics:
    """The metrics of one gateway; bounded, since no label takes a value that a client chooses."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.answers = Counter("relume_answers", "Requests answered.", ["status"], registry=self.registry)
        self.seconds = Histogram(
            "relume_seconds", "Time of each part of a request.", ["part"], buckets=SECONDS, registry=self.registry
        )
        self.megapixels = Counter("relume_megapixels", "Restored, by release.", ["release"], registry=self.registry)
        self.statistics = Histogram(
            "relume_statistics",
            "Of each request, as the monitoring compares them.",
            ["statistic", "release"],
            buckets=LEVELS,
            registry=self.registry,
        )
        self.restoring = Gauge("relume_restoring", "Requests that have their share of memory.", registry=self.registry)

"""The settings of the monitoring."""

from pydantic import Field

from relume.settings import Settings


class MonitorSettings(Settings):
    """When a change of what production sends or gets counts, and what happens then.

    Attributes:
        reference: Requests of a release that its later ones are compared with: the first that it answered.
        window_minutes: The last requests that are compared with them.
        min_requests: Of a window; with fewer nothing is said.
        false_alarms_per_day: Largest probability of an alarm on a day without any change, over all statistics, when
            windows are checked one after the other.
        webhook_file: File with the address that alarms, the ends of retrainings and what starts one are sent to as
            JSON; null sends nothing. It is a file because the address of a webhook is a secret.
        retrain: Whether an alarm starts the deployment `retrain`.
    """

    reference: int = Field(default=500, ge=30)
    window_minutes: float = Field(default=60.0, gt=0)
    min_requests: int = Field(default=30, ge=5)
    false_alarms_per_day: float = Field(default=0.01, gt=0, lt=1)
    webhook_file: str | None = None
    retrain: bool = False

"""What the server measures of itself, for Prometheus (section 10 of the contract). No ids and no prompts as labels."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tav_sdk.server.jobs import Job
from tav_sdk.server.protocol import Progressed

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
"""Upper bounds of the histograms, in seconds."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """All metrics of one server; it is what the dispatcher tells of jobs."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.listeners: list[Callable[[Job, Progressed], None]] = []  # hear of steps as well
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self.requests = counter("tav_http_requests", "Requests that were answered.", "method", "route", "status")
        self.request_seconds = histogram("tav_http_request_duration_seconds", "Until the answer was sent.", "route")
        self.in_flight = gauge("tav_http_in_flight", "Requests that are being answered.")
        self.queued = gauge("tav_jobs_queued", "Jobs that wait.", "kind")
        self.running = gauge("tav_jobs_running", "Jobs that workers have.", "kind")
        self.jobs = counter("tav_jobs", "Jobs that ended; code is empty for completed ones.", "kind", "status", "code")
        self.queue_seconds = histogram("tav_job_queue_seconds", "From the request to the start.", "kind")
        self.job_seconds = histogram("tav_job_duration_seconds", "From the last start to the end.", "kind", "mode")
        self.retries = counter("tav_job_retries", "Jobs that were put back.", "reason")
        self.rejected = counter("tav_rejected", "Requests that were refused.", "code")
        self.steps = counter("tav_steps", "Steps of jobs.", "stage")
        self.step_seconds = histogram("tav_step_seconds", "One step.", "stage")
        self.frames = counter("tav_frames", "Frames of finished videos.")
        self.swaps = counter("tav_swaps", "Models that workers loaded.")
        self.swap_seconds = histogram("tav_swap_seconds", "Loading one.")
        self.inversions = counter("tav_inversion_cache", "Inversions, by whether they were kept before.", "result")
        self.worker_up = gauge("tav_worker_up", "1 if a worker can take jobs.", "worker", "device")
        self.restarts = counter("tav_worker_restarts", "Workers that were started anew.", "worker")
        self.peak_memory = gauge("tav_worker_peak_memory_bytes", "Largest resident memory.", "worker", "device")
        self.storage = gauge("tav_storage_bytes", "Files of the state folder.", "kind")
        self.uploads = counter("tav_upload_bytes", "Bytes of uploaded clips.")

    def text(self) -> bytes:
        """All of it, in Prometheus's format."""
        return generate_latest(self.registry)

    # --- what the dispatcher tells ----------------------------------------------------------------------------------

    def requeued(self, reason: str) -> None:
        """A job was put back."""
        self.retries.labels(reason).inc()

    def stepped(self, job: Job, word: Progressed) -> None:
        """A worker made a step."""
        for listener in self.listeners:
            listener(job, word)
        if word.step_s is not None:
            self.steps.labels(word.stage).inc()
            self.step_seconds.labels(word.stage).observe(word.step_s)

    def swapped(self, seconds: float) -> None:
        """A worker loaded another model."""
        self.swaps.inc()
        self.swap_seconds.observe(seconds)

    def began(self, job: Job) -> None:
        """A worker has a job."""
        if job.attempts == 1 and job.started_at is not None:
            self.queue_seconds.labels(job.kind).observe(max(0.0, job.started_at - job.created_at))

    def ended(self, job: Job) -> None:
        """A job is done, or failed."""
        self.jobs.labels(job.kind, job.status, "" if job.failure is None else job.failure.code).inc()
        if job.status != "completed":
            return
        if job.started_at is not None and job.completed_at is not None:
            mode = str(job.params.get("mode", ""))
            self.job_seconds.labels(job.kind, mode).observe(max(0.0, job.completed_at - job.started_at))
        self.frames.inc(job.result.get("num_frames") or 0)
        cached = job.result.get("inversion_cached")
        if cached is not None:
            self.inversions.labels("hit" if cached else "miss").inc()

    def restarted(self, worker: int) -> None:
        """A worker ended, and another one is started."""
        self.restarts.labels(str(worker)).inc()

    def peaked(self, worker: int, device: str, megabytes: int) -> None:
        """A worker says how much memory it has had at once."""
        self.peak_memory.labels(str(worker), device).set(megabytes * 2**20)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(name, about, labels, registry=self.registry)

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(name, about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, *labels: str) -> Histogram:
        return Histogram(name, about, labels, registry=self.registry, buckets=SECONDS)

"""The same application on a Ray cluster: replicas behind the HTTP proxies of Ray Serve.

The models and allowed folders must have the same paths on all nodes.
"""

import logging
import signal
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING

from engine.addresses import address_of
from engine.errors import RefusedError
from engine.serving.http.app import create_app
from engine.serving.http.settings import ServeSettings
from trt.probe import install_command

if TYPE_CHECKING:
    from fastapi import FastAPI

NAME = "engine"


def run_on_ray(settings: ServeSettings, *, host: str, port: int, replicas: int) -> None:
    """Serve on the cluster until SIGTERM or Ctrl-C; a replica that dies is started again.

    Raises:
        RefusedError: Ray Serve isn't installed.
    """
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise RefusedError(
            f"`replicas` needs Ray Serve, which isn't installed: {install_command('cluster')}."
        ) from error
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="error")
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    cores = ray.cluster_resources().get("CPU", 1.0)
    on_gpus = settings.device != "cpu" and bool(ray.cluster_resources().get("GPU"))

    def build() -> "FastAPI":  # Ray Serve tells it from an application by its type
        return create_app(settings)

    serve.start(proxy_location="EveryNode", http_options={"host": address_of(host), "port": port})
    application = serve.deployment(
        serve.ingress(build)(),
        name=NAME,
        num_replicas=replicas,
        max_ongoing_requests=8 * settings.queue,  # the application refuses before that
        graceful_shutdown_timeout_s=settings.timeout_s,
        # Ray Serve needs a part of the cores, too.
        ray_actor_options={"num_cpus": max(0.1, 0.8 * cores / replicas), "num_gpus": int(on_gpus)},
    )
    stop = Event()

    def request_stop(signum: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, request_stop)
    serve.run(application.bind(), name=NAME)
    names = ", ".join(settings.models)
    told = f"serving {names} at http://{host}:{port} with {replicas} replicas; Ctrl-C ends it"
    print(told, flush=True)
    while not stop.wait(0.2):
        pass
    serve.shutdown()

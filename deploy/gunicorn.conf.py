"""Run one instance under gunicorn. For its settings see ``python -m app serve --help``."""

import os

bind = f"{os.environ.get('HOST') or '127.0.0.1'}:{os.environ.get('PORT') or '8080'}"

# One worker: the load balancer checks, drains and counts instances. To use more cores, run more instances.
workers = 1
worker_class = "aiohttp.GunicornUVLoopWebWorker"

# Seconds without a heartbeat after which gunicorn kills and restarts the worker.
timeout = 15
# Seconds after SIGTERM until gunicorn kills the worker, which drains within 9 s.
graceful_timeout = 10

# The heartbeat file is in memory if possible: a slow disk must not look like a dead worker.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: PTH112, S108 - gunicorn's own file name is random

# The instance logs each request itself, as JSON.
accesslog = None
loglevel = "warning"
control_socket_disable = True

"""How gunicorn runs one instance; its settings are those of ``python -m app serve --help``."""

import os

bind = f"{os.environ.get('HOST') or '127.0.0.1'}:{os.environ.get('PORT') or '8080'}"

# One worker: an instance is what the balancer checks, drains and counts. For more cores run more instances.
workers = 1
worker_class = "aiohttp.GunicornUVLoopWebWorker"

# A worker whose loop does not turn for so long is killed and started again.
timeout = 15
# After SIGTERM a worker drains by itself in 9 s at most; what is left after 10 s is killed.
graceful_timeout = 10

# The heartbeat's file lies in memory where there is such a place: a slow disk must not look like a dead worker.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: PTH112, S108 - gunicorn's own file name is random

# The instance logs each request itself, as JSON.
accesslog = None
loglevel = "warning"
control_socket_disable = True

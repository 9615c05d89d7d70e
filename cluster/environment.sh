# What every node of a Ray cluster is started with, and whoever submits to it: `. cluster/environment.sh`
# The reasons stand in cluster/README.md. The files beside this one set the same.
umask 077  # tokens, logs and sockets are for this user alone
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
export RAY_grpc_keepalive_time_ms=2000
export RAY_grpc_keepalive_timeout_ms=3000
export RAY_grpc_client_keepalive_time_ms=2000
export RAY_grpc_client_keepalive_timeout_ms=3000
export RAY_health_check_period_ms=1000
export RAY_health_check_timeout_ms=3000
export RAY_health_check_failure_threshold=5
export RAY_prestart_worker_first_driver=0

"""What watches runs from outside: Prometheus, its rules, and Grafana's dashboards, as files and as processes.

Does not belong here: what a run itself sends (`cluster.observability.telemetry`).
"""

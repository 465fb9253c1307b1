"""What watches runs from outside: Prometheus, its rules, and Grafana's dashboards, as files and as processes."""

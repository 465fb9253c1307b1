"""What a run tells while it runs: metrics to Ray and to sinks, and the monitoring stack that reads them.

A new sink brings `sinks.MetricsSink`: it gets a step's figures by catalogue name, and its failure is a warning, never the end of a run.
"""

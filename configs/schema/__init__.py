"""The run's configuration as pydantic models; `configs.schema.run.RunSettings` is the root."""

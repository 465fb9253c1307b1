"""The run's configuration as pydantic models; `configs.schema.run.RunSettings` is the root.

An option is a field with a default, a range and a sentence; a key that no model has is an error. Does not belong here: rules
over several sections (`configs.checks`).
"""

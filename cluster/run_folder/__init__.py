"""Files of a run folder that the driver writes and reads: manifest, status, metrics, digests, remote stores.

Does not belong here: where files are (`configs.layout`) and what stages write into their own folders.
"""

"""The red team on real engines: which models are attacked, the vLLM victim, and one search for a round.

Does not belong here: strategies, suites and what counts as a success, which start no engine (`actors.redteam`).
"""

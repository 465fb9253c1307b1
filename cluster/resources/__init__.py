"""The cluster a run needs: heads, authentication, placement, engines that stay warm, the planner, the doctor.

Does not belong here: what the engines are asked to do (`cluster.runs`).
"""

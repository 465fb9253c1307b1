"""The cluster a run needs: heads, authentication, placement, engines that stay warm, the planner, the doctor."""

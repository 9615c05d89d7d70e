"""The main job as plan, unit work and finish. A runner is passed in."""

"""fal.ai's queue API and its model catalog."""

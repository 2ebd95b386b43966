"""A raw ImageNet tree becomes a plan, and the plan becomes checked shards."""

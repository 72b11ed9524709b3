"""What nothing refers to any more: found by `relume gc`, and by the deployment `garbage_collect`."""

"""What `relume evaluate` does: any model on any benchmark set under a published protocol, and two models in pairs."""

"""The toy world: one meta LM and six expert LMs, trained from scratch on this machine."""

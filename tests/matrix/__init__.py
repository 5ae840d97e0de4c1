"""The outage matrix: every part of a distributed cluster stopped, killed and frozen in the middle of a release."""

"""The deployer owns apps, releases and deployments, and decides which instances should exist."""

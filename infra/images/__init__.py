"""The sample web app as container images, built without any registry to start from."""

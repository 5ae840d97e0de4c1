"""The image registry's servers and logins."""

"""Host set-up, servers and images: everything Gantry stands on that is not Gantry."""

"""Jobs in the simulation: which ones a seed has, who asks for them, what really ran, and whether that was right."""

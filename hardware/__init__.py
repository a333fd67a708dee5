"""Real robots: drivers, cameras, and everything between a policy and the motors."""

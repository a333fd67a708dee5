"""What the simulated suite and the robot's driver share of a pair of RM75 arms."""
